//! What a person may write, what wins, and what they are told when it is wrong.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use config::{Arguments, Config, ConfigErrors, KEYS, LogFormat};

fn load(
    json: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, String> {
    let owned = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        pairs.collect::<Vec<(String, String)>>()
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json.as_bytes()).unwrap();
    let place = file.path().display().to_string();
    Config::load(
        Some(file.path()),
        owned(environment).into_iter(),
        &owned(flags),
    )
    .map_err(|errors| errors.to_string().replace(&place, "config.json"))
}

fn load_bytes(bytes: &[u8]) -> ConfigErrors {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Config::load(Some(file.path()), std::iter::empty(), &[]).unwrap_err()
}

#[test]
fn without_any_source_the_defaults_hold_and_pass_every_check() {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.elect_timeout_min, Duration::from_millis(750));
    assert_eq!(config.remove_server_timeout, Duration::from_secs(72 * 3600));
    assert_eq!(config.max_entry_bytes, 4_194_304);
    assert_eq!(config.max_log_bytes, 10_737_418_240);
    assert!(!config.name.is_empty());
}

#[test]
fn what_is_described_reads_back_as_the_same() {
    let flags = [
        ("Introducers", "a, b:7000"),
        ("AdvertiseIp", "10.0.0.7"),
        ("LogFormat", "json"),
    ];
    let config = load("{}", &[], &flags).unwrap();
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(load(&config.describe(), &[], &[]).unwrap(), config);
    assert_eq!(
        config.introducer_addresses(),
        vec![("a".to_owned(), 6000), ("b".to_owned(), 7000)]
    );
}

#[test]
fn the_shipped_file_says_what_holds_without_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config.json");
    assert_eq!(
        Config::load(Some(&path), std::iter::empty(), &[]).unwrap(),
        Config::default()
    );
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let file = r#"{ "ElectTimeoutMin": 760, "RPCPort": 7004, "Voters": 3, "MinVoters": 1 }"#;
    let environment = [
        ("LEEKY_RPC_PORT", "7104"),
        ("LEEKY_VOTERS", "7"),
        ("HOME", "/root"),
        ("LEEKY_NAME", ""),
    ];
    let config = load(file, &environment, &[("Voters", "9")]).unwrap();
    assert_eq!(config.voters, 9);
    assert_eq!(config.rpc_port, 7104);
    assert_eq!(config.elect_timeout_min, Duration::from_millis(760));
    assert_eq!(config.min_voters, 1);
    assert_eq!(config.http_port, 6003);
    assert_eq!(
        config.name,
        Config::default().name,
        "an empty variable is an unset one"
    );
}

#[test]
fn the_original_starts_its_introducer_by_one_variable() {
    assert!(load("{}", &[("INTRODUCER", "1")], &[]).unwrap().introducer);
    let both = [("LEEKY_INTRODUCER", "0"), ("INTRODUCER", "1")];
    assert!(!load("{}", &both, &[]).unwrap().introducer);
    let wrong = load("{}", &[("INTRODUCER", "maybe")], &[]).unwrap_err();
    assert_eq!(
        wrong,
        "environment: INTRODUCER must be true or false, and is \"maybe\""
    );
}

#[test]
fn everything_wrong_is_told_in_one_run() {
    let told = load(
        r#"{ "Quorum": 0.6, "ElectTimeoutMim": 750, "Voters": 4, "RPCTimeout": 3, "HTTPPort": "6003" }"#,
        &[("LEEKY_ELECT_TIMEOUT_MINN", "1"), ("LEEKY_RAFT_SERVICE_HOST", "10.0.0.1")],
        &[("Nmae", "x"), ("BindIp", "localhost")],
    )
    .unwrap_err();
    let expected = "\
config.json: Quorum is not configurable: a majority of the voters in the configuration in the log, always; a smaller one lets two leaders be elected
config.json: ElectTimeoutMim is unknown; the nearest valid name is ElectTimeoutMin
config.json: Voters must be an odd number between 1 and 9, and is 4
config.json: RPCTimeout must be at least 100 ms (the unit is now milliseconds, it was seconds), and is 3
config.json: HTTPPort must be a whole number, and is \"6003\"
environment: LEEKY_ELECT_TIMEOUT_MINN is unknown; LEEKY_ELECT_TIMEOUT_MIN is meant?
--set: Nmae is unknown; the nearest valid name is Name
--set: BindIp must be an IP address, and is \"localhost\"";
    assert_eq!(told, expected);
}

/// The keys of the original's three files, as they stand in them.
const SEED_FILE: &str = r#"{
  "Introducer": "introducer", "ElectTimeoutMin": 750, "ElectTimeoutMax": 1500,
  "HeartbeatInterval": 375, "Timescale": 1, "Quorum": 0.6, "RestoreWait": 3, "RestoreTimeout": 5,
  "RPCPort": 6004, "RPCMaxRetries": 3, "RPCTimeout": 3, "RPCRetryInterval": 1,
  "FilesystemRPCPort": 6005, "MemberRPCPort": 6002, "MemberRPCRetryInterval": 3,
  "MemberRPCRetryMax": 5, "MemberInterval": 2, "Prefix": "[RAFT]", "Logfile": "raft.log",
  "LogHeartbeats": false, "LogHeartbeatsLead": false, "LogAppendEntries": true, "LogPutEntry": true,
  "LogTimers": false, "LogElections": true, "LogMembership": false, "LogGoroutines": false,
  "LogConnections": true, "LogConflictingEntries": true, "LogRestore": true,
  "LogDigestEntries": true, "LogDigestEntriesVerbose": false, "LogDigestCommits": true,
  "ServerPrefix": "chord-dfs_worker_", "MaxServerLookups": 10, "LogfileClient": "dfs-client.log",
  "RaftRPCPort": 6004, "Filedir": "/store/", "Replicas": 2, "RetryAttempts": 3, "RetryInterval": 1,
  "LogExecute": true, "LogFileReplication": true, "LogReads": true, "LogWrites": true,
  "LogDeletes": true, "LogPutAssign": true, "LogDelete": true, "LogGet": true, "LogLs": true,
  "LogStore": true
}"#;

#[test]
fn every_key_of_the_seed_is_kept_or_explained_in_one_run() {
    let kept = [
        "ElectTimeoutMin",
        "ElectTimeoutMax",
        "HeartbeatInterval",
        "RPCPort",
        "MemberRPCPort",
    ];
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(SEED_FILE).unwrap();
    let told = load(SEED_FILE, &[], &[]).unwrap_err();
    assert_eq!(told.lines().count(), keys.len() - kept.len(), "{told}");
    for name in keys.keys().filter(|name| !kept.contains(&name.as_str())) {
        let line = told
            .lines()
            .find(|line| line.starts_with(&format!("config.json: {name} ")));
        let line = line.unwrap_or_else(|| panic!("nothing is said of {name}"));
        assert!(!line.contains("is unknown"), "{line}");
    }
}

#[test]
fn what_took_over_from_a_key_of_the_seed_exists_and_none_is_both() {
    for gone in config::seed::GONE {
        if let Some(renamed) = gone.renamed {
            assert!(KEYS.iter().any(|key| key.name == renamed), "{renamed}");
            assert!(gone.verdict.contains(renamed), "{renamed}");
        }
        for name in gone.names {
            assert!(
                !KEYS.iter().any(|key| key.name == *name),
                "{name} is gone and is a key"
            );
        }
    }
}

#[test]
fn names_in_file_field_and_environment_belong_together() {
    for key in KEYS {
        let mut snake = String::new();
        let letters: Vec<char> = key.name.chars().collect();
        for (place, letter) in letters.iter().enumerate() {
            let after_small = place > 0 && letters[place - 1].is_lowercase();
            let ends_acronym =
                place > 0 && letters.get(place + 1).is_some_and(|c| c.is_lowercase());
            if letter.is_uppercase() && (after_small || ends_acronym) {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        assert_eq!(snake, key.field);
    }
    let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (
            &[("ElectTimeoutMin", "1500")],
            "ElectTimeoutMin is 1500 ms, and must be below ElectTimeoutMax, 1500 ms",
        ),
        (
            &[("HeartbeatInterval", "376")],
            "HeartbeatInterval is 376 ms, and must be at most half of ElectTimeoutMin, 750 ms",
        ),
        (
            &[("GossipInterval", "3001")],
            "GossipInterval is 3001 ms, and must be at most half of FailTimeout, 6000 ms",
        ),
        (
            &[("FailTimeout", "12000")],
            "FailTimeout is 12000 ms, and must be below CleanupTimeout, 12000 ms",
        ),
        (
            &[("DeadServerTimeout", "1500")],
            "DeadServerTimeout is 1500 ms, and must be above ElectTimeoutMax, 1500 ms",
        ),
        (
            &[("RemoveServerTimeout", "9000")],
            "DeadServerTimeout is 10000 ms, and must not be above RemoveServerTimeout, 9000 ms",
        ),
        (
            &[("Voters", "1")],
            "MinVoters is 3, and must not be above Voters, 1",
        ),
        (
            &[("HTTPPort", "6004")],
            "RPCPort is 6004, and so is HTTPPort",
        ),
        (
            &[("MaxInflightBytes", "2097152")],
            "MaxEntryBytes is 4194304, and must not be above MaxInflightBytes, 2097152",
        ),
        (
            &[("MaxInflightBytes", "1024"), ("MaxEntryBytes", "1024")],
            "MaxBatchBytes is 1048576, and must not be above MaxInflightBytes, 1024",
        ),
        (
            &[("MaxWaitingBytes", "4194303")],
            "MaxEntryBytes is 4194304, and must not be above MaxWaitingBytes, 4194303",
        ),
        (
            &[("MaxLogBytes", "33554431")],
            "MaxLogBytes is 33554431, and must be at least twice SegmentBytes, 16777216",
        ),
    ];
    for (flags, sentence) in cases {
        let told = load("{}", &[], flags).unwrap_err();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(
            told.starts_with(&format!("configuration: {sentence}")),
            "{told}"
        );
    }
}

#[test]
fn bounds_of_single_values() {
    let cases = [
        ("Voters", "11"),
        ("Voters", "0"),
        ("MinVoters", "2"),
        ("RPCPort", "0"),
        ("RPCPort", "65536"),
        ("RPCTimeout", "99"),
        ("RPCTimeout", "3s"),
        ("ElectTimeoutMin", "-1"),
        ("Name", "two words"),
        ("Name", ""),
        ("AdvertiseIp", "0.0.0.0"),
        ("BindIp", "224.0.0.1"),
        ("LogLevel", "loud"),
        ("LogLevel", "info,raft="),
        ("LogFormat", "xml"),
        ("Introducers", "a b"),
        ("Introducers", "host:0"),
        ("Introducers", "host:port"),
        ("DataDir", ""),
        ("MaxEntryBytes", "0"),
        ("MaxEntryBytes", "8388609"),
        ("FoundAlone", "2"),
    ];
    for (name, text) in cases {
        let told = load("{}", &[], &[(name, text)]).unwrap_err();
        assert!(
            told.starts_with(&format!("--set: {name} must be ")),
            "{name}={text}: {told}"
        );
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    for (name, text) in [
        ("LogLevel", "info,raft::core=debug"),
        ("Introducers", "[::1]:6000,::1,10.0.0.1:7,a_b.c"),
        ("Introducers", ""),
        ("AdvertiseIp", ""),
        ("StateMachineSocket", "/run/machine.sock"),
        ("BindIp", "127.0.0.3"),
        ("BindIp", "::"),
        ("FoundAlone", "Yes"),
    ] {
        load("{}", &[], &[(name, text)]).unwrap();
    }
}

#[test]
fn a_file_that_is_no_configuration() {
    let told = load_bytes(b"{ \"Name\": \"\xff\" }").to_string();
    assert!(
        told.ends_with(": is not UTF-8 at byte 11: save it as UTF-8"),
        "{told}"
    );
    let told = load_bytes(b"{ \"Name\": \n").to_string();
    assert!(
        told.contains("is not a JSON object of keys and values: EOF") && told.contains("line 2")
    );
    assert!(
        load_bytes(b"[1]")
            .to_string()
            .contains("expected an object")
    );
    let large = vec![b' '; usize::try_from(config::CONFIG_FILE_BYTES_MAX).unwrap() + 1];
    assert!(
        load_bytes(&large)
            .to_string()
            .contains("is over 1048576 bytes")
    );
    let missing = Config::load(Some(Path::new("/no/such/file")), std::iter::empty(), &[]);
    let told = missing.unwrap_err().to_string();
    assert!(
        told.starts_with("/no/such/file: cannot be opened"),
        "{told}"
    );
    assert_eq!(load("\u{feff}{}", &[], &[]).unwrap(), Config::default());
}

#[test]
fn a_key_given_twice_is_a_problem() {
    let told = load(r#"{ "Voters": 3, "Voters": 5 }"#, &[], &[]).unwrap_err();
    assert_eq!(
        told,
        "config.json: Voters is given twice: keep one of the two"
    );
}

#[test]
fn a_name_cannot_write_to_the_terminal() {
    let told = load("{ \"\\u001b[2J\": 1 }", &[], &[]).unwrap_err();
    assert!(
        told.contains("\\u{1b}[2J is unknown") && !told.contains('\u{1b}'),
        "{told}"
    );
}

#[derive(Parser)]
struct Daemon {
    #[command(flatten)]
    configuration: Arguments,
}

#[test]
fn the_flags_of_a_daemon() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(br#"{ "Voters": 3, "RPCPort": 7004 }"#)
        .unwrap();
    let path = file.path().to_str().unwrap();
    let line = [
        "raft",
        "--config",
        path,
        "--set",
        "RPCPort=7104",
        "--set",
        "Name=a=b",
        "--check-config",
    ];
    let daemon = Daemon::try_parse_from(line).unwrap();
    assert!(daemon.configuration.check_config);
    let config = daemon.configuration.load().unwrap();
    assert_eq!(
        (config.voters, config.rpc_port, config.name.as_str()),
        (3, 7104, "a=b")
    );
    assert!(Daemon::try_parse_from(["raft", "--set", "RPCPort"]).is_err());
}
