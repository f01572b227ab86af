//! A key-value store so plain that one sees that it is right: what the entries of a log make of one.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub pairs: BTreeMap<Bytes, Bytes>,
}

impl Model {
    /// Runs one command, as clients of the simulation write them.
    pub fn execute(&mut self, command: &[u8]) {
        let text = String::from_utf8_lossy(command).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        let bytes = |word: &str| Bytes::copy_from_slice(word.as_bytes());
        let pairs = &mut self.pairs;
        match words[..] {
            ["PUT", key, value] => {
                pairs.insert(bytes(key), bytes(value));
            }
            ["DELETE", key] => {
                pairs.remove(key.as_bytes());
            }
            ["CAS", key, old, new] => {
                if let Some(value) = pairs.get_mut(key.as_bytes())
                    && *value == old.as_bytes()
                {
                    *value = bytes(new);
                }
            }
            ["INCR", key, by] => {
                let number = |b: &[u8]| String::from_utf8_lossy(b).parse::<i64>().unwrap_or(0);
                let from = pairs.get(key.as_bytes()).map_or(0, |v| number(v));
                let sum = from + number(by.as_bytes());
                pairs.insert(bytes(key), Bytes::from(sum.to_string()));
            }
            _ => {}
        }
    }
}
