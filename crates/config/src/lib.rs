//! `config.json`, the environment and the flags: one typed, checked [`Config`] for all daemons.
//!
//! A value is looked for in four places, and the first that has it wins: a flag
//! (`--set ElectTimeoutMin=750`), the environment (`LEEKY_ELECT_TIMEOUT_MIN=750`), the file
//! (`{"ElectTimeoutMin": 750}`), the default. Every key is declared once, in [`settings`]: its
//! field, type, unit, bounds, default and meaning. The struct, the reader and the
//! [table](table()) that README shows all come from that declaration, so they cannot disagree.
//!
//! A wrong configuration is refused whole, and every problem in it is told in one run: whoever
//! mends a file should not have to start the daemon once per mistake. Nothing is ignored: an
//! unknown key is a problem too, since a misspelt `ElectTimeoutMin` that is passed over in
//! silence is found only when an election goes wrong.
//!
//! `config.json` keeps the names of the original Leeky Raft where they still mean something.
//! [`seed`] knows the rest and says for each what replaced it, or why it is gone.

mod arguments;
mod checks;
mod nearest;
mod problem;
pub mod seed;
pub mod settings;
mod sources;
mod table;
pub mod value;

pub use arguments::Arguments;
pub use problem::{ConfigErrors, Problem};
pub use settings::{Config, KEYS, Key};
pub use sources::CONFIG_FILE_BYTES_MAX;
pub use table::table;
pub use value::LogFormat;
