//! A state of the cluster as a few numbers, and the steps between states.

use raft_core::Message;

use super::bounds::{MAX_IN_FLIGHT, MAX_NODES};

/// No message.
pub(super) const NONE: u32 = u32::MAX;

/// Not a message, but a node's write that was just handed over: this, less the node's place.
pub(super) const WRITE: u32 = u32::MAX - 1;

/// What may be new at once.
pub(super) const MAX_FRESH: usize = 16;

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Envelope {
    pub from: usize,
    pub to: usize,
    pub message: Message,
}

/// What the budgets have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Left {
    pub campaigns: u8,
    pub silences: u8,
    pub entries: u8,
    pub crashes: u8,
    pub duplicates: u8,
    pub leaves: u8,
    pub transfers: u8,
    pub reads: u8,
}

/// The whole cluster: numbers of nodes, of messages, and of what an onlooker remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub nodes: [u32; MAX_NODES],
    /// What was just sent or written, in order: what becomes of the first one is decided before anything
    /// else happens.
    pub fresh: [u32; MAX_FRESH],
    /// Messages that are delayed, as a set.
    pub delayed: [u32; MAX_IN_FLIGHT],
    pub history: u32,
    pub left: Left,
}

/// What happens to which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// A message arrives; `again`: and will so once more.
    Deliver {
        message: u32,
        again: bool,
    },
    /// A message never arrives.
    Lose {
        message: u32,
    },
    /// A message stays on its way.
    Delay {
        message: u32,
    },
    Persist {
        all: bool,
    },
    /// A write stays on its way to the disk.
    Hold,
    Timeout,
    Heartbeat,
    Silence,
    Crash {
        parts: u8,
    },
    Put,
    Leave {
        leaver: u8,
    },
    Transfer,
    Read,
}

impl Step {
    pub fn name(self) -> &'static str {
        match self {
            Step::Deliver { again: false, .. } => "deliver",
            Step::Deliver { again: true, .. } => "duplicate",
            Step::Lose { .. } => "lose",
            Step::Delay { .. } => "delay",
            Step::Hold => "hold",
            Step::Persist { .. } => "persist",
            Step::Timeout => "timeout",
            Step::Heartbeat => "heartbeat",
            Step::Silence => "silence",
            Step::Crash { .. } => "crash",
            Step::Put => "put",
            Step::Leave { .. } => "leave",
            Step::Transfer => "transfer",
            Step::Read => "read",
        }
    }
}

/// The numbers that there are.
pub(super) fn of(numbers: &[u32]) -> impl Iterator<Item = u32> + '_ {
    numbers.iter().copied().take_while(|one| *one != NONE)
}

pub(super) fn fixed<const N: usize>(numbers: &[u32]) -> [u32; N] {
    let mut places = [NONE; N];
    for (place, one) in places.iter_mut().zip(numbers) {
        *place = *one;
    }
    places
}
