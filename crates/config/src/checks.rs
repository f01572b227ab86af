//! The bounds of single values, and what must hold between several.
//!
//! A check of one value completes the sentence "must be ...".

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use crate::Config;

/// The longest name of a node, in bytes: that of a DNS name.
const NAME_BYTES_MAX: usize = 253;

/// At most so many places to look for members.
const INTRODUCERS_MAX: usize = 64;

/// Below this an `RPCTimeout` was surely meant in seconds, as the original had it.
const RPC_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// The longest `RPCTimeout`.
const RPC_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// How a number is shown in "between ... and ...".
pub(crate) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for Duration {
    fn shown(&self) -> String {
        format!("{} ms", self.as_millis())
    }
}

/// Whole numbers show as they are.
macro_rules! shown_as_is {
    ($($type:ty),+) => {$(
        impl Shown for $type {
            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
shown_as_is!(u16, u32, u64, usize);

pub(crate) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

pub(crate) fn between<T: PartialOrd + Shown>(
    least: T,
    most: T,
) -> impl Fn(&T) -> Result<(), String> {
    move |value| {
        if (&least..=&most).contains(&value) {
            return Ok(());
        }
        Err(format!("between {} and {}", least.shown(), most.shown()))
    }
}

pub(crate) fn odd_between(least: usize, most: usize) -> impl Fn(&usize) -> Result<(), String> {
    move |value| {
        if (least..=most).contains(value) && value % 2 == 1 {
            return Ok(());
        }
        Err(format!("an odd number between {least} and {most}"))
    }
}

pub(crate) fn port(value: &u16) -> Result<(), String> {
    between(1, u16::MAX)(value)
}

pub(crate) fn not_seconds(value: &Duration) -> Result<(), String> {
    if *value < RPC_TIMEOUT_MIN {
        return Err(format!(
            "at least {} ms (the unit is now milliseconds, it was seconds)",
            RPC_TIMEOUT_MIN.as_millis()
        ));
    }
    between(RPC_TIMEOUT_MIN, RPC_TIMEOUT_MAX)(value)
}

#[allow(clippy::ptr_arg)] // A check takes a reference to the field's own type.
pub(crate) fn node_name(value: &String) -> Result<(), String> {
    let printable = value.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if !value.is_empty() && value.len() <= NAME_BYTES_MAX && printable {
        return Ok(());
    }
    Err(format!("1 to {NAME_BYTES_MAX} bytes without white space"))
}

pub(crate) fn bind_ip(value: &IpAddr) -> Result<(), String> {
    if value.is_multicast() {
        return Err("an address of this machine, or 0.0.0.0".to_owned());
    }
    Ok(())
}

pub(crate) fn advertise_ip(value: &Option<IpAddr>) -> Result<(), String> {
    if value.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err("an address that other nodes can reach, or empty".to_owned());
    }
    Ok(())
}

#[allow(clippy::ptr_arg)] // A check takes a reference to the field's own type.
pub(crate) fn hosts(value: &Vec<String>) -> Result<(), String> {
    if value.len() > INTRODUCERS_MAX || !value.iter().all(|host| split_host(host).is_some()) {
        return Err(format!(
            "at most {INTRODUCERS_MAX} hosts, each \"host\", \"host:port\" or \"[IPv6]:port\""
        ));
    }
    Ok(())
}

/// Takes `host`, `host:port`, an IPv6 address or `[IPv6]:port` apart.
pub(crate) fn split_host(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip.to_string(), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((host, port)) => (
            host,
            Some(port.parse().ok().filter(|port: &u16| *port > 0)?),
        ),
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = bracketed {
        let ip: std::net::Ipv6Addr = inner.parse().ok()?;
        return Some((ip.to_string(), port));
    }
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = !host.is_empty() && host.len() <= NAME_BYTES_MAX && host.chars().all(plain);
    good.then(|| (host.to_owned(), port))
}

#[allow(clippy::ptr_arg)] // A check takes a reference to the field's own type.
pub(crate) fn filter(value: &String) -> Result<(), String> {
    let level = |word: &str| {
        matches!(
            word.to_ascii_lowercase().as_str(),
            "off" | "error" | "warn" | "info" | "debug" | "trace"
        )
    };
    let target = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-'))
    };
    let good = value
        .split(',')
        .map(str::trim)
        .all(|part| match part.split_once('=') {
            None => level(part),
            Some((name, word)) => target(name) && level(word),
        });
    if good {
        return Ok(());
    }
    Err(
        "a level (off, error, warn, info, debug, trace) or levels by target, \
         for example \"info,raft=debug\""
            .to_owned(),
    )
}

/// What must hold between several keys; a rule that names a key in `bad` is passed over, since
/// that key now holds its default and not what the person wrote.
pub(crate) fn between_keys(config: &Config, bad: &BTreeSet<&str>) -> Vec<(&'static str, String)> {
    let mut problems = Vec::new();
    let mut rule = |keys: [&'static str; 2], holds: bool, sentence: String| {
        if !holds && !keys.iter().any(|key| bad.contains(key)) {
            problems.push((keys[0], sentence));
        }
    };
    timing_rules(config, &mut rule);
    size_rules(config, &mut rule);
    rule(
        ["MinVoters", "Voters"],
        config.min_voters <= config.voters,
        above("Voters", config.min_voters, config.voters),
    );
    let ports = [
        ("MemberGossipPort", config.member_gossip_port),
        ("MemberHTTPPort", config.member_http_port),
        ("MemberRPCPort", config.member_rpc_port),
        ("HTTPPort", config.http_port),
        ("RPCPort", config.rpc_port),
        ("StateMachinePort", config.state_machine_port),
    ];
    for (place, (name, port)) in ports.iter().enumerate() {
        for (earlier, earlier_port) in &ports[..place] {
            let sentence = format!("is {port}, and so is {earlier}: each needs a port of its own");
            rule([name, earlier], port != earlier_port, sentence);
        }
    }
    problems
}

type Rule<'a> = &'a mut dyn FnMut([&'static str; 2], bool, String);

fn timing_rules(config: &Config, rule: Rule<'_>) {
    let ms = |duration: Duration| format!("{} ms", duration.as_millis());
    rule(
        ["ElectTimeoutMin", "ElectTimeoutMax"],
        config.elect_timeout_min < config.elect_timeout_max,
        format!(
            "is {}, and must be below ElectTimeoutMax, {}: each follower draws between the two",
            ms(config.elect_timeout_min),
            ms(config.elect_timeout_max)
        ),
    );
    rule(
        ["HeartbeatInterval", "ElectTimeoutMin"],
        config.heartbeat_interval * 2 <= config.elect_timeout_min,
        format!(
            "is {}, and must be at most half of ElectTimeoutMin, {}: one lost heartbeat must not \
             start an election",
            ms(config.heartbeat_interval),
            ms(config.elect_timeout_min)
        ),
    );
    rule(
        ["GossipInterval", "FailTimeout"],
        config.gossip_interval * 2 <= config.fail_timeout,
        format!(
            "is {}, and must be at most half of FailTimeout, {}: a suspected member needs time to \
             answer",
            ms(config.gossip_interval),
            ms(config.fail_timeout)
        ),
    );
    rule(
        ["FailTimeout", "CleanupTimeout"],
        config.fail_timeout < config.cleanup_timeout,
        format!(
            "is {}, and must be below CleanupTimeout, {}",
            ms(config.fail_timeout),
            ms(config.cleanup_timeout)
        ),
    );
    rule(
        ["DeadServerTimeout", "ElectTimeoutMax"],
        config.dead_server_timeout > config.elect_timeout_max,
        format!(
            "is {}, and must be above ElectTimeoutMax, {}: a voter must not count as dead before \
             it can tell that its leader is",
            ms(config.dead_server_timeout),
            ms(config.elect_timeout_max)
        ),
    );
    rule(
        ["DeadServerTimeout", "RemoveServerTimeout"],
        config.dead_server_timeout <= config.remove_server_timeout,
        format!(
            "is {}, and must not be above RemoveServerTimeout, {}",
            ms(config.dead_server_timeout),
            ms(config.remove_server_timeout)
        ),
    );
}

fn size_rules(config: &Config, rule: Rule<'_>) {
    let entry = config.max_entry_bytes;
    let batch = config.max_batch_bytes;
    let inflight = config.max_inflight_bytes;
    let waiting = config.max_waiting_bytes;
    let segment = config.segment_bytes;
    rule(
        ["MaxEntryBytes", "MaxInflightBytes"],
        entry <= inflight,
        above("MaxInflightBytes", entry, inflight),
    );
    rule(
        ["MaxBatchBytes", "MaxInflightBytes"],
        batch <= inflight,
        above("MaxInflightBytes", batch, inflight),
    );
    rule(
        ["MaxEntryBytes", "MaxWaitingBytes"],
        entry <= waiting,
        above("MaxWaitingBytes", entry, waiting),
    );
    rule(
        ["MaxLogBytes", "SegmentBytes"],
        config.max_log_bytes / 2 >= segment,
        format!(
            "is {}, and must be at least twice SegmentBytes, {segment}: the next segment is laid \
             out while the last one fills",
            config.max_log_bytes
        ),
    );
}

fn above(other: &str, value: impl Display, limit: impl Display) -> String {
    format!("is {value}, and must not be above {other}, {limit}")
}
