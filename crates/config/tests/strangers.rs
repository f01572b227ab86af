//! Whatever stands in a file, a variable or a flag: it is a configuration that passes every check, or
//! sentences that name what is wrong.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use config::{Config, ConfigErrors, KEYS};
use proptest::prelude::*;
use serde_json::Value;

type Pairs = Vec<(String, String)>;

fn load(file: &[u8], environment: Pairs, flags: &Pairs) -> Result<Config, ConfigErrors> {
    let mut place = tempfile::NamedTempFile::new().unwrap();
    place.write_all(file).unwrap();
    Config::load(Some(place.path()), environment.into_iter(), flags)
}

/// What was taken can be told, and is taken again; what was not is told, each thing in a short line.
fn is_sound(loaded: Result<Config, ConfigErrors>, most: usize) {
    match loaded {
        Ok(config) => {
            let again = load(config.describe().as_bytes(), Vec::new(), &Vec::new());
            assert_eq!(again.unwrap(), config);
        }
        Err(errors) => {
            assert!(!errors.problems.is_empty() && errors.problems.len() <= most);
            for problem in errors.problems {
                let line = problem.to_string();
                assert!(!problem.sentence.is_empty());
                assert!(line.len() < 2_000, "{} bytes: {line:.200}", line.len());
                assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    let names: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
    prop_oneof![
        9 => prop::sample::select(names),
        1 => "\\PC{0,200}",
        1 => "[\\x00-\\x7f]{0,100}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..2_000_u32).prop_map(Value::from),
    ];
    let text = prop_oneof![
        any::<String>(),
        "[\\x00-\\x7f]{0,30}",
        "[0-9a-z.:-]{0,300}",
        "(human|json|true|info|/tmp|a:[0-9]{1,6})",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number,
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-z]{0,3}", inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\\x00-\\x7f]{0,30}",
        "[0-9]{1,25}",
        "[0-9a-z.:, -]{0,60}",
        "(human|json|true|false|debug|/data|a:[0-9]{1,6}|10.0.0.[0-9]{1,4})",
    ]
}

proptest! {
    #[test]
    fn any_bytes_in_a_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        is_sound(load(&bytes, Vec::new(), &Vec::new()), 300);
    }

    #[test]
    fn any_values_of_any_keys(pairs in prop::collection::vec((name(), value()), 0..6)) {
        let lines: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{}: {value}", Value::from(name.as_str())))
            .collect();
        let file = format!("{{{}}}", lines.join(","));
        is_sound(load(file.as_bytes(), Vec::new(), &Vec::new()), 40);
    }

    #[test]
    fn a_good_file_that_was_damaged(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = include_bytes!("../../../config.json").to_vec();
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        is_sound(load(&file, Vec::new(), &Vec::new()), 100);
    }

    #[test]
    fn any_variables_and_flags(
        variables in prop::collection::vec((any::<prop::sample::Index>(), "[A-Z_]{0,2}", text()), 0..6),
        flags in prop::collection::vec((name(), text()), 0..6),
    ) {
        let environment = variables.into_iter().map(|(key, more, text)| {
            let key = &KEYS[key.index(KEYS.len())];
            (format!("{}{more}", key.environment()), text)
        });
        is_sound(load(b"{}", environment.collect(), &flags), 60);
    }
}

/// JSON leaves DEL and what follows it as they are.
#[test]
fn a_value_is_not_repeated_to_a_terminal_as_it_is() {
    for value in ["[\"\u{7f}\"]", "{\"a\": \"\u{9b}2J\"}"] {
        let file = format!("{{\"DataDir\": {value}}}");
        is_sound(load(file.as_bytes(), Vec::new(), &Vec::new()), 1);
    }
}
