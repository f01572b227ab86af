//! What a log should hold, and random writes for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{
    ClusterId, Command, Configuration, Entry, HardState, Index, NodeId, Payload, Position,
    Recovered, SnapshotMeta, Write,
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
    /// Where the log begins: it was reset behind a snapshot there, or (when this is what was found)
    /// compacted.
    pub base: Position,
    /// The snapshot that it was reset behind.
    pub reset: Option<Arc<SnapshotMeta>>,
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn apply(&mut self, write: &Write) {
        if let Some(hard_state) = &write.hard_state {
            self.hard_state = hard_state.clone();
        }
        if let Some(meta) = &write.install {
            self.reset_behind(meta);
        }
        if let Some(from) = write.truncate_from {
            self.entries.truncate((from - self.base.index) as usize - 1);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    pub fn reset_behind(&mut self, meta: &Arc<SnapshotMeta>) {
        self.base = meta.position;
        self.reset = Some(meta.clone());
        self.entries.clear();
    }

    pub fn last(&self) -> Position {
        self.entries.last().map_or(self.base, Entry::position)
    }

    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let place = index.checked_sub(self.base.index + 1)?;
        self.entries.get(place as usize)
    }

    /// What a snapshot up to this entry, which is in the log, says.
    pub fn meta_at(&self, index: Index, cluster_id: ClusterId) -> SnapshotMeta {
        let mut configuration = match &self.reset {
            Some(meta) => (meta.configuration_index, meta.configuration.clone()),
            None => (0, Arc::default()),
        };
        for entry in self.entries.iter().filter(|entry| entry.index <= index) {
            if let Some(newer) = configuration_of(entry) {
                configuration = (entry.index, newer);
            }
        }
        let entry = self.entry(index).unwrap();
        SnapshotMeta {
            position: entry.position(),
            cluster_id,
            log_time_ms: entry.log_time_ms,
            configuration_index: configuration.0,
            configuration: configuration.1,
        }
    }

    /// Whether `found` is this log, perhaps without entries up to `covered`.
    pub fn is_found_as(&self, found: &Model, covered: Index) -> bool {
        let base = found.base.index;
        if base < self.base.index || base > covered.max(self.base.index) {
            return false;
        }
        let gone = (base - self.base.index) as usize;
        let before = match gone.checked_sub(1) {
            None => Some(self.base),
            Some(place) => self.entries.get(place).map(Entry::position),
        };
        found.hard_state == self.hard_state
            && before == Some(found.base)
            && found.entries[..] == self.entries[gone..]
    }

    /// What the store read back, after it was compared with itself in every way.
    pub fn of(store: &LogStore, recovered: &Recovered) -> Model {
        let last = store.last();
        let reader = store.reader();
        let first = reader.first();
        let entries = reader.read(first, Index::MAX, usize::MAX).unwrap();
        let model = Model {
            hard_state: recovered.hard_state.clone(),
            base: recovered.base,
            reset: None,
            entries,
        };
        assert_eq!(first, model.base.index + 1);
        assert_eq!(reader.last(), last.index);
        assert_eq!(store.base(), model.base);
        for covered in [0, 1, first - 1] {
            if covered < first {
                assert_eq!(reader.read(covered, Index::MAX, 999).unwrap(), []);
            }
        }
        assert_eq!(model.last(), last);
        assert_eq!(model.last(), recovered.last);
        let mut terms = Vec::new();
        let mut configurations = Vec::new();
        let mut cluster_id = None;
        let mut log_time_ms = model.entries.last().map_or(0, |entry| entry.log_time_ms);
        if let Some(snapshot) = &recovered.snapshot {
            cluster_id = Some(snapshot.cluster_id);
            let index = snapshot.configuration_index;
            configurations.push((index, snapshot.configuration.clone()));
            log_time_ms = log_time_ms.max(snapshot.log_time_ms);
            assert!(snapshot.position.index >= model.base.index);
        }
        let covered = configurations.last().map_or(0, |(index, _)| *index);
        for (index, entry) in (first..).zip(&model.entries) {
            assert_eq!(entry.index, index);
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((index, entry.term));
            }
            if let Some(configuration) = configuration_of(entry)
                && index > covered
            {
                configurations.push((index, configuration));
            }
            if let Payload::Founding { cluster_id: id, .. } = entry.payload {
                cluster_id = Some(id);
            }
        }
        assert_eq!(cluster_id, recovered.cluster_id);
        assert_eq!(cluster_id, store.cluster_id());
        assert_eq!(log_time_ms, recovered.last_log_time_ms);
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

/// The configuration that an entry says.
pub fn configuration_of(entry: &Entry) -> Option<Arc<Configuration>> {
    match &entry.payload {
        Payload::Founding { founder, alone, .. } => {
            Some(Arc::new(Configuration::founding(*founder, *alone)))
        }
        Payload::Configuration(configuration) => Some(configuration.clone()),
        _ => None,
    }
}

/// Random writes that a core could make.
#[derive(Clone, Debug)]
pub struct Script {
    pub dice: Dice,
    pub model: Model,
    pub sequence: u64,
    /// Nothing up to here is truncated.
    pub committed: Index,
    /// The cluster that is founded; a random one otherwise.
    pub cluster_id: Option<ClusterId>,
    pub term: u64,
    largest: u64,
}

impl Script {
    pub fn new(seed: u64) -> Script {
        Script {
            dice: Dice(seed),
            model: Model::default(),
            sequence: 0,
            committed: 0,
            cluster_id: None,
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
            let from = from.max(self.committed + 1);
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
                cluster_id: {
                    let random = ClusterId(self.dice.roll().into());
                    self.cluster_id.unwrap_or(random)
                },
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
        .rfind(|name| name.starts_with("log-") && !name.ends_with(".tmp"))
        .unwrap_or_default()
}

/// A write that asks for nothing, to be filled in.
pub fn nothing() -> Write {
    Write {
        sequence: 0,
        generation: 0,
        hard_state: None,
        install: None,
        truncate_from: None,
        entries: Vec::new(),
        compact_to: None,
    }
}
