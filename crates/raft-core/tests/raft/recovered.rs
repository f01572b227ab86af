//! What a start finds on a disk, for the benches of these tests.

use std::sync::Arc;

use raft_core::{Configuration, Entry, HardState, Payload, Position, Recovered, SnapshotMeta};

/// A log of these entries behind `base`, and a snapshot that covers what is missing; all of the
/// entries are in memory.
pub fn recovered(
    hard_state: HardState,
    base: Position,
    snapshot: Option<Arc<SnapshotMeta>>,
    entries: &[Entry],
) -> Recovered {
    let mut recovered = Recovered {
        hard_state,
        base,
        last: base,
        snapshot,
        tail: entries.to_vec(),
        ..Recovered::default()
    };
    if let Some(snapshot) = &recovered.snapshot {
        recovered.cluster_id = Some(snapshot.cluster_id);
        recovered.last_log_time_ms = snapshot.log_time_ms;
        let first = (snapshot.configuration_index, snapshot.configuration.clone());
        recovered.configurations.push(first);
    }
    for entry in entries {
        if entry.term > recovered.last.term || recovered.terms.is_empty() {
            recovered.terms.push((entry.index, entry.term));
        }
        recovered.last = entry.position();
        recovered.last_log_time_ms = recovered.last_log_time_ms.max(entry.log_time_ms);
        let known = recovered.configurations.last().map_or(0, |(at, _)| *at);
        match &entry.payload {
            Payload::Dissolve => recovered.dissolved_at = Some(entry.index),
            Payload::Skip { index } => recovered.skips.push((entry.index, *index)),
            Payload::Configuration(next) if entry.index > known => {
                recovered.configurations.push((entry.index, next.clone()));
            }
            Payload::Founding {
                cluster_id,
                founder,
                alone,
            } if entry.index > known => {
                recovered.cluster_id = Some(*cluster_id);
                let first = Configuration::founding(*founder, *alone);
                recovered.configurations.push((entry.index, first.into()));
            }
            _ => {}
        }
    }
    recovered
}
