//! config.json, the environment and flags: a file, then lines of `NAME=value`, after a zero byte.
#![no_main]

use std::io::Write;

use config::{Config, KEYS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (file, lines) = match data.iter().position(|byte| *byte == 0) {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &data[..0]),
    };
    let lines = String::from_utf8_lossy(lines).into_owned();
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let flags: Vec<_> = pairs.clone().map(owned).collect();
    let environment = pairs
        .zip(KEYS)
        .map(|((_, value), key)| (key.environment(), value.to_owned()));
    let mut place = tempfile::NamedTempFile::new().expect("a file");
    place.write_all(file).expect("room");
    if let Err(errors) = Config::load(Some(place.path()), environment, &flags) {
        assert!(!errors.problems.is_empty());
    }
});
