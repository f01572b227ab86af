//! Prints the table of exit codes that README shows.

use std::io::Write;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(raft_client::exit_codes::table().as_bytes())
}
