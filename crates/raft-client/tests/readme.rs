//! README shows the exit codes that the code has.
#![allow(clippy::unwrap_used)]

use std::path::Path;

const BEGIN: &str = "<!-- exit codes -->\n";
const END: &str = "<!-- /exit codes -->";

#[test]
fn readme_has_the_table_of_exit_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = readme
        .find(BEGIN)
        .expect("README.md has no line <!-- exit codes -->");
    let begin = begin + BEGIN.len();
    let length = readme[begin..]
        .find(END)
        .expect("README.md has no <!-- /exit codes -->");
    let table = raft_client::exit_codes::table();
    if std::env::var_os("UPDATE_README").is_some() {
        let text = [&readme[..begin], &table, &readme[begin + length..]].concat();
        std::fs::write(&path, text).unwrap();
        return;
    }
    assert!(
        readme[begin..begin + length] == table,
        "README.md has another table of exit codes than the code: \
         UPDATE_README=1 cargo test --release -p raft-client --test readme"
    );
}
