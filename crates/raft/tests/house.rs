//! The house's own rules: what lies at the top, who may depend on whom, and that every package that was
//! chosen is really used.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The one optional dependency: the core keeps the list of mutants.
const OPTIONAL: (&str, &str) = (
    "state-machine-sdk",
    "raft-core = { workspace = true, optional = true }",
);

/// The names under `[dependencies]` of a crate's manifest. What is optional is left out: it is there for
/// builds with mutants, and never for what is shipped.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = root().join("crates").join(name).join("Cargo.toml");
    let text = fs::read_to_string(manifest).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if line.contains("optional = true") {
            assert_eq!((name, line), OPTIONAL, "another optional dependency");
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let end = line.find(['.', ' ', '=']).unwrap();
            names.insert(line[..end].to_owned());
        }
    }
    names
}

/// Stands among the crates, and is none of the workspace's: nothing is built with it.
const APART: &str = "fuzz";

fn crates() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("crates")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != APART)
        .collect()
}

/// What the fuzzer needs is in no lock file of ours, and nobody's dependency.
#[test]
fn the_fuzzer_stands_apart() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(text.contains(&format!("exclude = [\"crates/{APART}\"]")));
    let manifest = root().join("crates").join(APART).join("Cargo.toml");
    assert!(
        fs::read_to_string(manifest)
            .unwrap()
            .contains("\n[workspace]\n")
    );
    for name in crates() {
        assert!(
            !dependencies(&name).contains(APART),
            "{name} is built with it"
        );
    }
    let locked = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    assert!(!locked.contains("libfuzzer"));
}

fn sources(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Every crate, and which of ours it may depend on.
fn may_depend_on() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("raft-core", &[] as &[_]),
        ("member-core", &[]),
        ("raft-disk", &["raft-core"]),
        ("wire", &[]),
        ("config", &[]),
        ("member", &["member-core", "wire", "config"]),
        ("raft", &["raft-core", "raft-disk", "wire", "config"]),
        ("state-machine-sdk", &["wire"]),
        ("state-machine", &["state-machine-sdk", "config"]),
        // A saved snapshot is the file that a node keeps: who looks at it, or puts it where a node begins
        // with it, reads it as the node does.
        ("raft-client", &["wire", "config", "raft-disk", "raft-core"]),
        // Never shipped, and nobody's dependency but of tests.
        (
            "sim",
            &[
                "raft-core",
                "raft-disk",
                "state-machine",
                "state-machine-sdk",
            ],
        ),
    ])
}

#[test]
fn the_dependency_rule_holds() {
    let rule = may_depend_on();
    let ours = crates();
    assert_eq!(
        ours,
        rule.keys().map(|name| (*name).to_owned()).collect(),
        "the crates there are"
    );
    for (name, allowed) in rule {
        for used in dependencies(name).intersection(&ours) {
            assert!(
                allowed.contains(&used.as_str()),
                "{name} must not depend on {used}"
            );
        }
    }
}

/// Architecture invariant: the cores know nothing of I/O, time or async. They may use small pure
/// libraries, and no others.
#[test]
fn the_cores_are_pure() {
    let pure = ["bytes", "crc32c", "thiserror", "rand_core", "xxhash-rust"];
    for core in ["raft-core", "member-core"] {
        for used in dependencies(core) {
            assert!(
                pure.contains(&used.as_str()),
                "{core} must not depend on {used}"
            );
        }
        let mut text = String::new();
        sources(&root().join("crates").join(core).join("src"), &mut text);
        for forbidden in [
            "std::net::Udp",
            "std::net::Tcp",
            "std::fs",
            "std::thread",
            "std::time::Instant",
            "SystemTime",
            "tokio",
            "async fn",
            "HashMap",
            "HashSet",
            "std::env",
            "println!",
        ] {
            assert!(
                !text.contains(forbidden),
                "{core} must know nothing of {forbidden}"
            );
        }
    }
}

/// What every program holds that was built with the feature `mutants`.
const MUTANTS_MARKER: &str = "leeky-raft-was-built-with-mutants";

/// Rules can be taken out only in a build that was made for it: no crate turns the feature on for
/// another, and of what is shipped nothing has it.
#[test]
fn what_is_shipped_has_no_mutants() {
    let core = root().join("crates/raft-core/src/mutants.rs");
    let core = fs::read_to_string(core).unwrap();
    assert!(core.contains(MUTANTS_MARKER), "the marker is another now");
    for name in crates() {
        let manifest = root().join("crates").join(&name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        for line in manifest.lines().filter(|line| line.contains("mutants")) {
            let allowed = line.starts_with("mutants = [")
                || line.contains("sim-mutants")
                || line == "required-features = [\"mutants\"]"
                || line.starts_with('#');
            assert!(allowed, "{name} turns on mutants: {line}");
        }
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_raft")).parent().unwrap();
    let shipped = ["raft", "member", "state-machine", "raft-client"];
    // A build of this package alone makes no others.
    let built = shipped.map(|name| folder.join(name));
    for program in built.iter().filter(|program| program.exists()) {
        let bytes = fs::read(program).unwrap();
        let found = String::from_utf8_lossy(&bytes).contains(MUTANTS_MARKER);
        assert!(!found, "{} was built with mutants", program.display());
    }
}

#[test]
fn every_chosen_package_is_used() {
    let mut text = String::new();
    for name in crates() {
        sources(&root().join("crates").join(name).join("src"), &mut text);
    }
    for package in [
        "tokio",
        "tonic",
        "prost",
        "serde",
        "serde_json",
        "tracing",
        "tracing_subscriber",
        "rand",
        "clap",
        "anyhow",
    ] {
        assert!(
            text.contains(&format!("{package}::")),
            "{package} is not used"
        );
    }
}

#[test]
fn the_top_level_is_as_it_was_drawn() {
    let drawn = BTreeSet::from([
        "Cargo.toml",
        "Cargo.lock",
        "crates",
        "proto",
        "docker",
        "docker-compose.yml",
        "config.json",
        "scripts",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ]);
    // The build's own folder is no part of the house.
    let ignored = ["target"];
    let found: BTreeSet<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !ignored.contains(&name.as_str()))
        .collect();
    assert_eq!(found, drawn.into_iter().map(str::to_owned).collect());
}
