//! Every key of the configuration, declared once.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::checks::{
    advertise_ip, any, between, bind_ip, filter, hosts, node_name, not_seconds, odd_between, port,
};
use crate::value::{LogFormat, Setting};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
const GIB: u64 = 1024 * 1024 * 1024;

/// One key: what a person needs to know of it, and how it gets into a [`Config`].
pub struct Key {
    /// The name in the file and for `--set`.
    pub name: &'static str,
    /// The field of [`Config`]; with `LEEKY_` before it, in capitals, the environment variable.
    pub field: &'static str,
    /// The unit of a number, or the kind of the value.
    pub unit: &'static str,
    /// What the original Leeky Raft called it; empty: it had no such key.
    pub seed: &'static str,
    /// The meaning, in one or two sentences.
    pub doc: &'static str,
    /// Reads a value of the file into the configuration, or says what it must be.
    pub set_json: fn(&mut Config, &Value) -> Result<(), String>,
    /// Reads a value of a flag or of the environment, or says what it must be.
    pub set_text: fn(&mut Config, &str) -> Result<(), String>,
    /// The value as the file would hold it.
    pub get: fn(&Config) -> Value,
}

impl Key {
    /// The environment variable, `LEEKY_ELECT_TIMEOUT_MIN` for example.
    pub fn environment(&self) -> String {
        format!("LEEKY_{}", self.field.to_ascii_uppercase())
    }

    /// A name without the prefix, kept because the original was started by it.
    pub fn environment_alias(&self) -> Option<&'static str> {
        (self.name == "Introducer").then_some("INTRODUCER")
    }
}

/// Declares the struct, the defaults and [`KEYS`] together.
///
/// A line reads: field, type, name in the file, default, unit, the seed's name, check.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $name:literal, $default:expr, $unit:literal, $seed:literal, $check:expr;
    )+) => {
        /// The whole configuration of a node; each daemon takes from it what concerns it.
        ///
        /// [`Config::load`] is the way to get one from outside; it checks every bound. Tests may
        /// start from [`Config::default`] and change fields, at their own risk.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        /// Every key there is, in the order in which the table shows them.
        pub const KEYS: &[Key] = &[ $( Key {
            name: $name,
            field: stringify!($field),
            unit: $unit,
            seed: $seed,
            doc: concat!($($doc),+),
            set_json: |config, value| {
                config.$field = accept(<$type>::from_json(value), &value.to_string(), $check)?;
                Ok(())
            },
            set_text: |config, text| {
                config.$field = accept(<$type>::from_text(text), &format!("{text:?}"), $check)?;
                Ok(())
            },
            get: |config| config.$field.to_json(),
        }, )+ ];
    };
}

/// Passes a value that was read and is in bounds; otherwise says what it must be and what it was.
fn accept<T: Setting>(
    value: Option<T>,
    given: &str,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<T, String> {
    let given = given.chars().take(GIVEN_CHARACTERS_MAX);
    let given: String = given.map(visible).collect();
    let value = value.ok_or_else(|| format!("must be {}, and is {given}", T::WANTED))?;
    check(&value).map_err(|wanted| format!("must be {wanted}, and is {given}"))?;
    Ok(value)
}

/// A value is repeated to a terminal: control characters are not. JSON leaves some of them as they are.
fn visible(character: char) -> String {
    if character.is_control() {
        character.escape_debug().to_string()
    } else {
        character.to_string()
    }
}

/// How much of a wrong value an error repeats, in characters.
const GIVEN_CHARACTERS_MAX: usize = 80;

settings! {
    /// Where everything durable lies: `raft`, `member` and `state-machine` have a folder of that name in it.
    data_dir: PathBuf = "DataDir", PathBuf::from("/data"), "path", "`Filedir`, renamed", any;
    /// What people call this node, unique in the cluster; `raft-client leader` prints it.
    name: String = "Name", host_name(), "text", "", node_name;
    /// The address that every listener binds; when it is not 0.0.0.0, outgoing connections leave from it too.
    bind_ip: IpAddr = "BindIp", IpAddr::V4(Ipv4Addr::UNSPECIFIED), "IP", "", bind_ip;
    /// The address that others reach this node at; empty: `BindIp` when that is one, else found by the daemon.
    advertise_ip: Option<IpAddr> = "AdvertiseIp", None, "IP", "", advertise_ip;
    /// With an empty disk, this node may found a cluster, if it is also the first of `Introducers`.
    introducer: bool = "Introducer", false, "true/false", "kept: the environment's `INTRODUCER=1`", any;
    /// Where members are looked for, `host` or `host:port` (of gossip); the first one alone may found a cluster.
    introducers: Vec<String> = "Introducers", vec!["introducer".to_owned(), "worker".to_owned()], "list",
        "`Introducer` where it named a host, `ServerPrefix`: renamed", hosts;

    /// Gossip between the `member` daemons, UDP.
    member_gossip_port: u16 = "MemberGossipPort", 6000, "port", "fixed 6000 and 6001", port;
    /// Metrics of `member`.
    member_http_port: u16 = "MemberHTTPPort", 6001, "port", "", port;
    /// gRPC of `member`.
    member_rpc_port: u16 = "MemberRPCPort", 6002, "port", "kept", port;
    /// Health and metrics of `raft`.
    http_port: u16 = "HTTPPort", 6003, "port", "", port;
    /// gRPC of `raft`, for clients and for the other nodes.
    rpc_port: u16 = "RPCPort", 6004, "port", "kept; `RaftRPCPort`, renamed", port;
    /// gRPC of the state machine beside `raft`; callers of the same machine only.
    state_machine_port: u16 = "StateMachinePort", 6005, "port", "`FilesystemRPCPort`, renamed", port;
    /// A Unix socket to reach the state machine by, instead of `StateMachinePort`; empty: TCP.
    state_machine_socket: Option<PathBuf> = "StateMachineSocket", None, "path", "", any;

    /// How often a member gossips.
    gossip_interval: Duration = "GossipInterval", 1000 * MS, "ms", "fixed 2 s", between(10 * MS, 60 * SECOND);
    /// A crashed member is shown as failed everywhere within so long.
    fail_timeout: Duration = "FailTimeout", 6000 * MS, "ms", "fixed 6 s", between(100 * MS, HOUR);
    /// A failed member is shown as dead for so long before it is hidden.
    cleanup_timeout: Duration = "CleanupTimeout", 12_000 * MS, "ms", "fixed 12 s", between(100 * MS, 24 * HOUR);

    /// The shortest time without a leader before a follower seeks election, when nothing tells it sooner.
    elect_timeout_min: Duration = "ElectTimeoutMin", 750 * MS, "ms", "kept", between(20 * MS, 600 * SECOND);
    /// The longest such time; each follower draws between the two.
    elect_timeout_max: Duration = "ElectTimeoutMax", 1500 * MS, "ms", "kept", between(30 * MS, 600 * SECOND);
    /// How often a leader that has nothing else to say tells its followers that it leads.
    heartbeat_interval: Duration = "HeartbeatInterval", 375 * MS, "ms", "kept", between(5 * MS, 300 * SECOND);
    /// How long the founder waits for a sign of an existing cluster after another empty node has answered.
    discovery_window: Duration = "DiscoveryWindow", 2000 * MS, "ms", "", between(100 * MS, 600 * SECOND);
    /// Found a cluster of one node at once, without waiting for a second. Never in a node that should join others.
    found_alone: bool = "FoundAlone", false, "true/false", "", any;

    /// At most so many nodes vote; the others are learners, ready to replace one.
    voters: usize = "Voters", 5, "odd number", "", odd_between(1, 9);
    /// Once reached, leaves and automatic removals never go below so many voters.
    min_voters: usize = "MinVoters", 3, "odd number", "", odd_between(1, 9);
    /// A voter that the leader has not heard for so long is replaced, if a learner is ready.
    dead_server_timeout: Duration = "DeadServerTimeout", 10_000 * MS, "ms", "", between(100 * MS, 24 * HOUR);
    /// A voter that the leader has not heard for so long is removed even without a replacement.
    remove_server_timeout: Duration = "RemoveServerTimeout", 72 * HOUR, "ms", "", between(SECOND, 8760 * HOUR);
    /// A learner must have been caught up and in contact for so long before it becomes a voter.
    server_stabilization_time: Duration = "ServerStabilizationTime", 500 * MS, "ms", "", between(Duration::ZERO, HOUR);
    /// So many configuration changes without a person asking are allowed in an hour.
    automatic_changes_per_hour: u32 = "AutomaticChangesPerHour", 60, "count", "", between(0, 100_000);
    /// On SIGTERM, leave the cluster for good; otherwise hand over leadership, stop, and stay a voter.
    leave_on_terminate: bool = "LeaveOnTerminate", false, "true/false", "", any;

    /// The largest entry that a client may put.
    max_entry_bytes: usize = "MaxEntryBytes", 4 * MIB, "bytes", "", between(1, 8 * MIB);
    /// What one AppendEntries, and one write to disk, aims at; a single larger entry still travels, alone.
    max_batch_bytes: usize = "MaxBatchBytes", MIB, "bytes", "", between(KIB, 8 * MIB);
    /// At most so many entries in one AppendEntries.
    max_batch_entries: usize = "MaxBatchEntries", 1024, "count", "", between(1, 65_536);
    /// At most so many AppendEntries may be unanswered per peer.
    max_inflight_batches: usize = "MaxInflightBatches", 64, "count", "", between(1, 4096);
    /// At most so many bytes of entries may be unanswered per peer.
    max_inflight_bytes: usize = "MaxInflightBytes", 16 * MIB, "bytes", "", between(KIB, 1024 * MIB);
    /// At most so many entries of clients may wait or be uncommitted; the next one is refused as overload.
    max_waiting_entries: usize = "MaxWaitingEntries", 16_384, "count", "", between(1, 1_048_576);
    /// The same, in bytes.
    max_waiting_bytes: usize = "MaxWaitingBytes", 64 * MIB, "bytes", "", between(KIB, 4096 * MIB);
    /// How much of the log's end is kept in memory, for followers that lag a little.
    log_cache_bytes: usize = "LogCacheBytes", 64 * MIB, "bytes", "", between(KIB, 65_536 * MIB);
    /// The size of one file of the log.
    segment_bytes: u64 = "SegmentBytes", 16 * MIB as u64, "bytes", "", between(64 * KIB as u64, 4 * GIB);
    /// A snapshot is taken when the log has grown by this, and by as much as the last snapshot took; so much again may be kept for nodes that are behind.
    snapshot_bytes: u64 = "SnapshotBytes", 64 * MIB as u64, "bytes", "", between(64 * KIB as u64, 1024 * GIB);
    /// Or when so many entries were applied: a node that starts walks through those behind its snapshot.
    snapshot_entries: u64 = "SnapshotEntries", 100_000, "count", "", between(10, 1_000_000_000);
    /// A client's session in which nothing happened for so long is ended: a retry in it is refused from then on.
    session_timeout: Duration = "SessionTimeout", HOUR, "ms", "", between(SECOND, 8760 * HOUR);
    /// When the log has grown to this, client entries are refused until there is room.
    max_log_bytes: u64 = "MaxLogBytes", 10 * GIB, "bytes", "", between(128 * KIB as u64, 1024 * 1024 * GIB);

    /// The daemon's own limit for one request, when the caller states none.
    rpc_timeout: Duration = "RPCTimeout", 3000 * MS, "ms", "kept, but it was in seconds", not_seconds;

    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, and `target=level` after commas.
    log_level: String = "LogLevel", "info".to_owned(), "text", "the `Log...` switches, replaced", filter;
    /// `human` lines or `json` objects.
    log_format: LogFormat = "LogFormat", LogFormat::Human, "text", "", any;
}

/// The host's name, in a container the container's; `localhost` where the system has none.
fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if node_name(&name).is_ok() {
        name
    } else {
        "localhost".to_owned()
    }
}
