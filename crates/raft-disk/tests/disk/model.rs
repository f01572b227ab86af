//! What a log should hold, and random writes for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{
    ClusterId, Command, Configuration, Entry, HardState, Index, NodeId, Payload, Position,
    Recovered, Write,
};
use raft_disk::{Disk, LogStore, OpenError, Options, SimDisk};

/// Small enough that a few writes change the segment.
pub const SEGMENT_BYTES: u64 = 4096;

pub fn options() -> Options {
    Options {
        segment_bytes: SEGMENT_BYTES,
        tail_cache_bytes: 3000,
        lay_out_ahead: false,
    }
}

pub fn open(disk: &SimDisk) -> Result<(LogStore, Recovered), OpenError> {
    LogStore::open(Arc::new(disk.clone()), options())
}

/// splitmix64: every test is its seed.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to `below`, which is not included.
    pub fn below(&mut self, below: u64) -> u64 {
        self.roll() % below
    }

    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.roll() as u8).collect()
    }
}

/// The log as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn apply(&mut self, write: &Write) {
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(from) = write.truncate_from {
            self.entries.truncate(from as usize - 1);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    pub fn last(&self) -> Position {
        self.entries.last().map_or(Position::ZERO, Entry::position)
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        match self.entries.first()?.payload {
            Payload::Founding { cluster_id, .. } => Some(cluster_id),
            _ => None,
        }
    }

    /// What the store read back, after it was compared with itself in every way.
    pub fn of(store: &LogStore, recovered: &Recovered) -> Model {
        let last = store.last();
        let entries = store.reader().read(1, Index::MAX, usize::MAX).unwrap();
        let model = Model {
            hard_state: recovered.hard_state.clone(),
            entries,
        };
        assert_eq!(model.last(), last);
        assert_eq!(model.last(), recovered.last);
        assert_eq!(model.cluster_id(), recovered.cluster_id);
        assert_eq!(model.cluster_id(), store.cluster_id());
        let mut terms = Vec::new();
        let mut configurations = Vec::new();
        for (index, entry) in (1..).zip(&model.entries) {
            assert_eq!(entry.index, index);
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((index, entry.term));
            }
            match &entry.payload {
                Payload::Founding { founder, alone, .. } => {
                    let first = Configuration::founding(*founder, *alone);
                    configurations.push((index, Arc::new(first)));
                }
                Payload::Configuration(c) => configurations.push((index, c.clone())),
                _ => {}
            }
        }
        assert_eq!(terms, recovered.terms);
        assert_eq!(configurations, recovered.configurations);
        let tail = &recovered.tail;
        assert_eq!(tail[..], model.entries[model.entries.len() - tail.len()..]);
        let cost: usize = tail.iter().map(Entry::cost_bytes).sum();
        assert!(cost <= options().tail_cache_bytes);
        if let Some(next) = model.entries.iter().rev().nth(tail.len()) {
            assert!(
                cost + next.cost_bytes() > options().tail_cache_bytes,
                "more would have fitted"
            );
        }
        model
    }
}

/// Random writes that a core could make.
#[derive(Clone, Debug)]
pub struct Script {
    pub dice: Dice,
    pub model: Model,
    pub sequence: u64,
    term: u64,
    largest: u64,
}

impl Script {
    pub fn new(seed: u64) -> Script {
        Script {
            dice: Dice(seed),
            model: Model::default(),
            sequence: 0,
            term: 1,
            largest: 300,
        }
    }

    /// Now and then an entry of up to `bytes`.
    pub fn with_largest(mut self, bytes: u64) -> Script {
        self.largest = bytes;
        self
    }

    /// Goes on from what a disk held after a crash.
    pub fn restart(&mut self, model: Model) {
        self.model = model;
        self.sequence = 0;
    }

    pub fn group(&mut self) -> Vec<Write> {
        (0..=self.dice.below(3)).map(|_| self.write()).collect()
    }

    pub fn write(&mut self) -> Write {
        self.sequence += 1;
        let mut write = Write {
            sequence: self.sequence,
            ..nothing()
        };
        if self.dice.below(4) == 0 {
            self.term += self.dice.below(3);
            let peers = (0..self.dice.below(4)).map(|n| (NodeId(n.into()), (n, self.term)));
            write.hard_state = Some(HardState {
                current_term: self.term,
                voted_for: (self.dice.below(2) == 0).then_some(NodeId(7)),
                peers: peers.collect::<BTreeMap<_, _>>(),
            });
        }
        let mut last = self.model.last().index;
        if self.dice.below(6) == 0 {
            let from = last + 2 - self.dice.below(5).min(last + 1);
            write.truncate_from = Some(from);
            last = last.min(from - 1);
            self.term += 1;
        }
        for index in (last + 1..).take(self.dice.below(4) as usize) {
            write.entries.push(self.entry(index));
        }
        self.model.apply(&write);
        write
    }

    pub fn entry(&mut self, index: Index) -> Entry {
        let payload = match (index, self.dice.below(12)) {
            (1, _) => Payload::Founding {
                cluster_id: ClusterId(self.dice.roll().into()),
                founder: NodeId(1),
                alone: self.dice.below(2) == 0,
            },
            (_, 0) => Payload::Noop,
            (_, 1) => Payload::Configuration(Arc::new(Configuration {
                voters: (0..self.dice.below(5)).map(|n| NodeId(n.into())).collect(),
                reason: "a test".to_owned(),
                ..Configuration::default()
            })),
            (_, 2) => Payload::RegisterSession,
            (_, kind) => {
                let most = if kind == 3 { self.largest } else { 60 };
                let length = self.dice.below(most + 1);
                let bytes = self.dice.bytes(length).into();
                Payload::Command(Command {
                    session: 1,
                    sequence: index,
                    acked_below: 0,
                    bytes,
                })
            }
        };
        Entry {
            index,
            term: self.term,
            log_time_ms: index * 10,
            payload,
        }
    }
}

/// The files of a disk with their contents: to damage them and put them back.
pub fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.list().unwrap();
    names
        .into_iter()
        .map(|name| (name.clone(), disk.contents(&name).unwrap()))
        .collect()
}

/// The last segment; nothing's name before there is one.
pub fn last_segment(disk: &SimDisk) -> String {
    disk.list()
        .unwrap()
        .into_iter()
        .rfind(|name| !name.ends_with(".tmp"))
        .unwrap_or_default()
}

/// A write that asks for nothing, to be filled in.
pub fn nothing() -> Write {
    Write {
        sequence: 0,
        generation: 0,
        hard_state: None,
        truncate_from: None,
        entries: Vec::new(),
    }
}
