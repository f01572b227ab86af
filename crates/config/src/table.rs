//! The table of keys for README.

use std::fmt::Write;

use crate::seed::GONE;
use crate::settings::{Config, KEYS, Key};

/// Markdown: a table of every key, then one of the original's keys that are no keys here.
///
/// README shows exactly this between `<!-- config table -->` and `<!-- /config table -->`.
pub fn table() -> String {
    let defaults = Config::default();
    let mut text = String::from(
        "| Key | Unit | Default | Environment | In the seed | Meaning |\n\
         |---|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let alias = key
            .environment_alias()
            .map_or(String::new(), |alias| format!(", `{alias}`"));
        let line = format!(
            "| `{}` | {} | {} | `{}`{alias} | {} | {} |\n",
            key.name,
            key.unit,
            default_of(key, &defaults),
            key.environment(),
            key.seed,
            key.doc.trim()
        );
        text.push_str(&line);
    }
    text.push_str("\n| Key of the seed | What became of it |\n|---|---|\n");
    for gone in GONE {
        let names: Vec<String> = gone.names.iter().map(|name| format!("`{name}`")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {} | {} |", names.join(", "), gone.verdict);
    }
    text
}

fn default_of(key: &Key, defaults: &Config) -> String {
    if key.name == "Name" {
        return "the host's name".to_owned();
    }
    match (key.get)(defaults) {
        serde_json::Value::String(text) if text.is_empty() => "empty".to_owned(),
        value => format!("`{value}`"),
    }
}
