//! Prints the table of configuration keys that README shows.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(config::table().as_bytes())
}
