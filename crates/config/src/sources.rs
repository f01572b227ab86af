//! From file, environment and flags to a [`Config`].

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::nearest::nearest;
use crate::problem::{ConfigErrors, Problem};
use crate::settings::{Config, KEYS, Key};
use crate::{checks, seed};

/// A larger file than this is not a configuration, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// An environment variable with the prefix that is this near to a valid one is a misspelt one.
/// Others pass: orchestrators set variables named after services (`LEEKY_RAFT_SERVICE_HOST`).
const MISSPELT_EDITS_MAX: usize = 2;

/// Reads sources one after another into one configuration and gathers what is wrong.
struct Reader {
    config: Config,
    problems: Vec<Problem>,
    /// Keys whose given value was refused: rules between keys say nothing of them.
    bad: BTreeSet<&'static str>,
}

impl Config {
    /// The configuration from a file (if any), the environment and the flags; later ones win.
    ///
    /// `environment` may be the whole environment of the process: names without the prefix
    /// `LEEKY_` are passed over (but for `INTRODUCER`), and so are empty values. `flags` are keys
    /// and values of `--set`.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every problem there is, not only the first.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            config: Self::default(),
            problems: Vec::new(),
            bad: BTreeSet::new(),
        };
        if let Some(path) = file {
            reader.read_file(path);
        }
        reader.read_environment(environment);
        reader.read_flags(flags);
        reader.finish()
    }

    /// Where members are looked for: host and gossip port, in the configured order.
    pub fn introducer_addresses(&self) -> Vec<(String, u16)> {
        let split = self
            .introducers
            .iter()
            .filter_map(|text| checks::split_host(text));
        split
            .map(|(host, port)| (host, port.unwrap_or(self.member_gossip_port)))
            .collect()
    }

    /// Every key and its value as the file would hold it: a JSON object, one line per key.
    pub fn describe(&self) -> String {
        let lines: Vec<String> = KEYS
            .iter()
            .map(|key| format!("  \"{}\": {}", key.name, (key.get)(self)))
            .collect();
        format!("{{\n{}\n}}", lines.join(",\n"))
    }
}

impl Reader {
    fn problem(&mut self, place: &str, key: &str, sentence: impl Into<String>) {
        self.problems.push(Problem {
            place: place.to_owned(),
            key: key.to_owned(),
            sentence: sentence.into(),
        });
    }

    fn read_file(&mut self, path: &Path) {
        let place = path.display().to_string();
        match read_object(path) {
            Ok(object) => {
                let mut seen = BTreeSet::new();
                for (name, value) in object.0 {
                    if !seen.insert(name.clone()) {
                        self.problem(
                            &place,
                            &shortened(&name),
                            "is given twice: keep one of the two",
                        );
                    }
                    self.file_key(&place, &name, &value);
                }
            }
            Err(sentence) => self.problem(&place, "", sentence),
        }
    }

    fn file_key(&mut self, place: &str, name: &str, value: &Value) {
        if name == "Introducer" && value.is_string() {
            self.bad.insert("Introducer");
            self.problem(place, name, seed::INTRODUCER_NAMED_A_HOST);
            return;
        }
        match key_named(name) {
            Some(key) => {
                let result = (key.set_json)(&mut self.config, value);
                self.outcome(place, name, key, result);
            }
            None => self.unknown(place, name),
        }
    }

    fn read_environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let mut given: Vec<(String, String)> =
            environment.filter(|(_, value)| !value.is_empty()).collect();
        // The alias sorts before the prefixed name, which therefore wins.
        given.sort();
        for (variable, text) in given {
            let named = |key: &&Key| {
                key.environment() == variable || key.environment_alias() == Some(variable.as_str())
            };
            match KEYS.iter().find(named) {
                Some(key) => {
                    let result = (key.set_text)(&mut self.config, &text);
                    self.outcome("environment", &variable, key, result);
                }
                None => self.unknown_variable(&variable),
            }
        }
    }

    fn unknown_variable(&mut self, variable: &str) {
        if !variable.starts_with("LEEKY_") {
            return;
        }
        let names: Vec<String> = KEYS.iter().map(Key::environment).collect();
        let near = nearest(variable, names.iter().map(String::as_str));
        if let Some((name, edits)) = near.filter(|(_, edits)| *edits <= MISSPELT_EDITS_MAX) {
            debug_assert!(edits > 0, "a valid name was found before");
            self.problem(
                "environment",
                variable,
                format!("is unknown; {name} is meant?"),
            );
        }
    }

    fn read_flags(&mut self, flags: &[(String, String)]) {
        for (name, text) in flags {
            match key_named(name) {
                Some(key) => {
                    let result = (key.set_text)(&mut self.config, text);
                    self.outcome("--set", name, key, result);
                }
                None => self.unknown("--set", name),
            }
        }
    }

    fn outcome(
        &mut self,
        place: &str,
        written: &str,
        key: &'static Key,
        result: Result<(), String>,
    ) {
        if let Err(sentence) = result {
            self.bad.insert(key.name);
            self.problem(place, written, sentence);
        }
    }

    fn unknown(&mut self, place: &str, name: &str) {
        if let Some(sentence) = seed::verdict(name) {
            self.problem(place, name, sentence);
            return;
        }
        let near = nearest(name, KEYS.iter().map(|key| key.name)).map_or("", |(near, _)| near);
        let sentence = format!("is unknown; the nearest valid name is {near}");
        self.problem(place, &shortened(name), sentence);
    }

    fn finish(mut self) -> Result<Config, ConfigErrors> {
        for (key, sentence) in checks::between_keys(&self.config, &self.bad) {
            self.problem("configuration", key, sentence);
        }
        if self.problems.is_empty() {
            return Ok(self.config);
        }
        Err(ConfigErrors {
            problems: self.problems,
        })
    }
}

fn key_named(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// A name as an error repeats it.
fn shortened(name: &str) -> String {
    const NAME_CHARACTERS_MAX: usize = 64;
    let start: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
    // A name is repeated to a terminal: control characters are not.
    if start.is_empty() {
        "\"\"".to_owned()
    } else {
        start.escape_debug().to_string()
    }
}

fn read_object(path: &Path) -> Result<Object, String> {
    let file = std::fs::File::open(path).map_err(|error| {
        format!("cannot be opened ({error}); --config or CONFIG names the file")
    })?;
    let mut bytes = Vec::new();
    file.take(CONFIG_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read ({error})"))?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(format!(
            "is over {CONFIG_FILE_BYTES_MAX} bytes: this is no configuration"
        ));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        format!(
            "is not UTF-8 at byte {}: save it as UTF-8",
            error.valid_up_to()
        )
    })?;
    // Some editors begin a UTF-8 file with a byte order mark, which JSON does not allow.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str(text)
        .map_err(|error| format!("is not a JSON object of keys and values: {error}"))
}

/// The keys of a JSON object in their order, repeated ones included: a map would keep one of them
/// in silence.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, { \"Key\": value, ... }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut keys = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    keys.push(entry);
                }
                Ok(Object(keys))
            }
        }

        deserializer.deserialize_map(Keys)
    }
}
