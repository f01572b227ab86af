//! Every limit and deadline of the daemon that is no setting, in one place.

use std::time::Duration;

/// Largest gRPC message in either direction, in bytes: a batch, or one entry of the largest size
/// that the configuration allows, with room for its frame.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Inputs that wait for the driver. A sender beyond that waits, and with it its stream.
pub const INBOX: usize = 4096;

/// Inputs that the driver takes in one round, before it looks at the disk and the clock again.
pub const INBOX_BATCH: usize = 1024;

/// Bytes of peers' messages that are decoded and wait for the driver.
pub const INBOUND_BYTES: usize = 64 << 20;

/// Messages that wait on a peer's small stream. They are worth little when they are old, so the
/// newest is dropped when there are more.
pub const SMALL_QUEUE: usize = 256;

/// Small messages kept while a stream is being opened: votes above all. The oldest is dropped.
pub const OPENING_QUEUE: usize = 64;

/// Messages that a bulk stream takes beyond `MaxInflightBatches`.
pub const BULK_QUEUE_MARGIN: usize = 64;

/// How long a TCP connection to another daemon may take to come about.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// First and longest wait between two attempts to reach a peer.
pub const PEER_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A stream that lived for so long was a success: the next attempt begins without a wait.
pub const STREAM_SETTLED: Duration = Duration::from_secs(1);

/// A connection whose data nobody acknowledges for so long is given up by the kernel, so that a
/// healed network is used again soon and not when an old connection happens to retransmit.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// How often HTTP/2 asks whether the other end of a connection lives, and how long it waits.
pub const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Refused streams of one address are logged no more often than this; all are counted.
pub const REFUSALS_LOGGED: Duration = Duration::from_secs(10);

/// The Hello of a stream must arrive within this.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(2);

/// "Do you lead this term?" is answered within this, or counts as no (E2).
pub const PROBE_DEADLINE: Duration = Duration::from_millis(30);

/// How long the leader waits for something that tells the others the commit index in passing, before it is
/// told by itself.
pub const NOTICE_PAUSE: Duration = Duration::from_millis(2);

/// How often a node to which nobody speaks asks the members whether it still belongs to them.
pub const KNOCK_INTERVAL: Duration = Duration::from_secs(1);

/// How often an empty cluster looks for another one at the configured introducers, at first and at
/// the most (F2).
pub const OTHERS_INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// "What is on your disk?" likewise.
pub const DISCOVER_DEADLINE: Duration = Duration::from_millis(500);

/// Nodes that are asked in one round of Discover.
pub const MAX_DISCOVERED: usize = 32;

/// Between two rounds of Discover while a node waits in the lobby.
pub const DISCOVER_INTERVAL: Duration = Duration::from_millis(250);

/// Nodes whose streams or addresses are kept.
pub const MAX_PEERS: usize = 4096;

/// Connections that the gRPC port serves at the same time.
pub const MAX_CONNECTIONS: usize = 4096;

/// Calls that one connection may have open.
pub const MAX_STREAMS: u32 = 4096;

/// HTTP/2 windows: of one stream, and of a connection, in bytes.
pub const WINDOW_BYTES: (u32, u32) = (2 << 20, 4 << 20);

/// Longest wait that a client may ask for.
pub const MAX_CLIENT_WAIT: Duration = Duration::from_secs(60);

/// A forwarder that found no leader, or a wrong one, looks again after this at the latest.
pub const FORWARD_RETRY: Duration = Duration::from_millis(25);

/// What a client is told to wait after OVERLOADED and the like, in milliseconds.
pub const RETRY_AFTER_MS: u64 = 50;

/// Reads that wait for an index or for the state machine.
pub const MAX_WAITING_READS: usize = 16_384;

/// Watches of clients that are open at the same time.
pub const MAX_WATCHES: usize = 256;

/// Watches of clients that read too slowly are cut: of each, one reply stays with the connection, until
/// the client reads on or goes. There may be so many of them beside those that stand; the next ones keep
/// their places.
pub const MAX_WATCH_STUMPS: usize = 256;

/// Replies of one watch that wait for its client here, in bytes: less than may wait at the state machine.
/// A larger reply waits alone.
pub const WATCH_RELAYED_BYTES: usize = 1 << 20;

/// What an event, and a mark, is reckoned to take beside its bytes.
pub const WATCH_EVENT_OVERHEAD: usize = 128;

/// How long a reply of a watch waits for room. Then the reader is too slow, and the watch ends here; it
/// may go on where it was. The SDK waits as long, and begins later.
pub const WATCH_WAIT: Duration = Duration::from_secs(10);

/// A watch ends at a node that has known no leader for so long.
pub const WATCH_LEADERLESS: Duration = Duration::from_secs(3);

/// One Execute takes longer: the epoch ends (P1).
pub const EXECUTE_DEADLINE: Duration = Duration::from_secs(10);

/// One Handshake takes longer: the attempt is given up. The SDK lets a handshake wait for the
/// batch before it, so this is no shorter than [`EXECUTE_DEADLINE`].
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(12);

/// First and longest wait between two attempts to reach the state machine.
pub const STATE_MACHINE_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_secs(1));

/// So many attempts at one entry, alone, and it is called poison: a state machine that is killed from
/// outside at just that moment does not fail so often.
pub const POISON_ATTEMPTS: u32 = 3;

/// How often it is looked whether an order to skip an entry is committed by now.
pub const SKIP_INTERVAL: Duration = Duration::from_millis(50);

/// The log may keep this many times `SnapshotBytes` for those who are behind.
pub const KEPT_FOR_OTHERS: u64 = 2;

/// How long the state machine may take to say of which index its snapshot is.
pub const SNAPSHOT_BEGIN_DEADLINE: Duration = Duration::from_secs(5);

/// A snapshot that could not be taken is tried again after this.
pub const SNAPSHOT_BACKOFF: Duration = Duration::from_secs(30);

/// The next part or chunk of a snapshot comes within this, or the transfer is cut.
pub const SNAPSHOT_PART_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of a snapshot in one message between peers.
pub const SNAPSHOT_PART_BYTES: usize = 256 << 10;

/// Parts or chunks of one snapshot that wait in memory.
pub const SNAPSHOT_PARTS: usize = 4;

/// Snapshots that are sent at the same time.
pub const MAX_SNAPSHOT_STREAMS: usize = 4;

/// Of those, so many go to clients: the rest is for peers, which the cluster waits for.
pub const MAX_SAVES: usize = 2;

/// After a snapshot that was fetched whole and cannot be used, the next one is fetched after this.
pub const SNAPSHOT_REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The largest file of a snapshot that is accepted from a peer.
pub const MAX_SNAPSHOT_BYTES: u64 = 1 << 40;

/// Longest wait for a snapshot that a client may ask for: a large state takes its time to be written
/// down.
pub const MAX_SAVE_WAIT: Duration = Duration::from_secs(3600);

/// A leader is asked for so long what the snapshot must hold. Then the client is sent to another node.
pub const SAVE_CONFIRM: Duration = Duration::from_secs(1);

/// How long a node with a snapshot to restore waits for its `member` to say that it is the first
/// introducer.
pub const RESTORE_PATIENCE: Duration = Duration::from_secs(15);

/// A snapshot that a peer pulls is kept for so long after the last part, so that it can go on with it.
pub const SNAPSHOT_SERVED: Duration = Duration::from_secs(60);

/// Bytes of one chunk of a state machine's snapshot.
pub const MAX_SNAPSHOT_CHUNK_BYTES: usize = 64 << 20;

/// A state machine that has all chunks of a snapshot takes longer to say so: the attempt is given up.
pub const RESTORE_DEADLINE: Duration = Duration::from_secs(600);

/// The leader looks for idle sessions (S3) so often within `SessionTimeout`, but no more often than this.
pub const SESSION_SWEEPS: u32 = 10;

/// See [`SESSION_SWEEPS`].
pub const SESSION_SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Sessions that are proposed to end at the same time.
pub const EXPIRED_AT_ONCE: usize = 256;

/// How often the leader compares what the state machines came to (P4), if anything was applied.
pub const COMPARE_INTERVAL: Duration = Duration::from_secs(5);

/// The others are asked so much later for what the leader has applied: they follow.
pub const COMPARE_DELAY: Duration = Duration::from_millis(200);

/// A node that does not answer a comparison within this is left out of it.
pub const COMPARE_DEADLINE: Duration = Duration::from_secs(1);

/// Indices for which a node knows what its outcomes came to: more than are applied within
/// [`COMPARE_DELAY`] and [`COMPARE_DEADLINE`].
pub const COMPARED_INDICES: usize = 32_768;

/// Between two handshakes while the state machine is quarantined or must be waited for.
pub const QUARANTINE_INTERVAL: Duration = Duration::from_secs(2);

/// Bytes of committed entries that wait in memory for the state machine; older ones are read from
/// the disk again.
pub const COMMITTED_BYTES: usize = 64 << 20;

/// First and longest wait between two attempts to reach the neighbouring `member`.
pub const MEMBER_BACKOFF: (Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(2));

/// One unary call to `member` takes longer: it is given up.
pub const MEMBER_DEADLINE: Duration = Duration::from_secs(3);

/// A `member` that has been silent for longer than this is an alarm. Well above what a restart of it takes.
pub const MEMBER_PATIENCE: Duration = Duration::from_secs(5);

/// How often a daemon that has no identity yet says that it waits for `member`.
pub const MEMBER_REMINDER: Duration = Duration::from_secs(5);

/// A member that is alive, but whose `raft` has not announced itself, may hold the cluster: the
/// lobby waits for it, but no longer than this many discovery windows.
pub const UNANNOUNCED_WINDOWS: u32 = 5;

/// How long a daemon that stops waits for leadership to be handed over.
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(3);

/// How long a daemon that leaves on SIGTERM waits for the leader's decision (M1).
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(20);

/// How long a client waits for a Leave's decision.
pub const LEAVE_WAIT: Duration = Duration::from_secs(30);

/// How long open calls and goodbyes may take once the daemon stops.
pub const FAREWELL: Duration = Duration::from_millis(500);

/// Room on the file system, in bytes, that client entries leave alone: hard state, elections and
/// configuration changes must be able to go on when the log may not grow. A smaller file system
/// keeps a sixteenth of itself.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// How long a measurement of the free space is believed.
pub const ROOM_MEASURED: Duration = Duration::from_millis(500);

/// Between two rounds of questions to the other nodes while the log is damaged (D6).
pub const REPAIR_PAUSE: Duration = Duration::from_secs(1);

/// A node that does not answer such a question within this is passed over.
pub const REPAIR_DEADLINE: Duration = Duration::from_secs(5);

/// Questions that one node is asked in one round: an answer brings a batch, or leads one term further
/// back.
pub const REPAIR_QUESTIONS: usize = 100_000;

/// How often a follower whose disk is full looks whether there is room again.
pub const ROOM_INTERVAL: Duration = Duration::from_secs(1);
