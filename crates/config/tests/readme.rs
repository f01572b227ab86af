//! README shows the table of keys that the code has.
#![allow(clippy::unwrap_used)]

use std::path::Path;

const BEGIN: &str = "<!-- config table -->\n";
const END: &str = "<!-- /config table -->";

#[test]
fn readme_has_the_table_of_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = readme
        .find(BEGIN)
        .expect("README.md has no line <!-- config table -->");
    let begin = begin + BEGIN.len();
    let length = readme[begin..]
        .find(END)
        .expect("README.md has no <!-- /config table -->");
    if std::env::var_os("UPDATE_README").is_some() {
        let text = [
            &readme[..begin],
            &config::table(),
            &readme[begin + length..],
        ]
        .concat();
        std::fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        readme[begin..begin + length] == config::table(),
        "README.md has another table of keys than the code: \
         UPDATE_README=1 cargo test --release -p config --test readme"
    );
}
