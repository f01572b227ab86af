//! Founding and giving way, by what is stored (F1, F2, F4).

use raft_core::{Index, NodeId, Payload, Write};

use super::ledger::Mirror;
use super::{Wrong, wrong};

/// What was ever stored, anywhere in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Founding {
    /// The first configuration that names a second node, or the founding for use alone.
    grown: Option<Index>,
    /// The first entry of a client, or about members.
    content: Option<Index>,
    /// The cluster has given way there.
    dissolved: Option<Index>,
}

fn is_of_client(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::Command(_)
            | Payload::RegisterSession
            | Payload::KeepAlive { .. }
            | Payload::ExpireSession { .. }
            | Payload::Skip { .. }
    )
}

fn lower(known: &mut Option<Index>, index: Index) {
    *known = Some(known.map_or(index, |known| known.min(index)));
}

impl Founding {
    /// That node, whose disk holds `mirror`, stores this.
    pub fn stores(&mut self, id: NodeId, mirror: &Mirror, write: &Write) -> Result<(), Wrong> {
        if write.truncate_from.is_some_and(|from| from <= 1) && mirror.last().index >= 1 {
            return wrong(
                "founding",
                format!("{id} takes its founding entry back (F4)"),
            );
        }
        for entry in &write.entries {
            let (index, payload) = (entry.index, &entry.payload);
            let before = |known: Option<Index>| known.is_some_and(|known| known < index);
            if is_of_client(payload) && !before(self.grown) {
                let what = format!("{id} stores {entry:?} before a second node is in (F1)");
                return wrong("founding", what);
            }
            if matches!(payload, Payload::Dissolve) && before(self.content) {
                let what = format!("{id} gives way at {index}, and has content (F2)");
                return wrong("founding", what);
            }
            if before(self.dissolved) && !matches!(payload, Payload::Noop | Payload::Dissolve) {
                let what = format!("{id} stores {entry:?} behind a Dissolve (F2)");
                return wrong("founding", what);
            }
            match payload {
                Payload::Founding { alone: true, .. } => lower(&mut self.grown, index),
                Payload::Configuration(next) => {
                    lower(&mut self.content, index);
                    if next.members().len() > 1 {
                        lower(&mut self.grown, index);
                    }
                }
                Payload::Dissolve => lower(&mut self.dissolved, index),
                payload if is_of_client(payload) => lower(&mut self.content, index),
                _ => {}
            }
        }
        Ok(())
    }
}
