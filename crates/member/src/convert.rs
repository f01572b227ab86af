//! From the core's types to those that travel by gRPC.

use std::time::Duration;

use member_core::{RING_BITS, State};
use wire::member::{Finger, MemberNode, MemberState, SelfReply, Suspicion};

use crate::driver::Published;

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    /// As configured, resolved or not.
    pub(crate) introducers: Vec<String>,
}

pub(crate) fn self_reply(published: &Published, own: &Own, now: Duration) -> SelfReply {
    let view = &*published.view;
    let millis_since = |at: Duration| now.saturating_sub(at).as_millis() as u64;
    let member_map = view.members.iter().map(|member| {
        let record = &member.record;
        let metadata = &record.metadata;
        let is_me = record.node_id == view.me.node_id;
        MemberNode {
            pid: record.pid().0,
            node_id: wire::id_bytes(record.node_id.0),
            ip: metadata.address.ip().to_string(),
            gossip_port: metadata.address.port().into(),
            raft_port: metadata.raft_port.into(),
            name: metadata.name.clone(),
            state: state(record.state).into(),
            incarnation: record.incarnation.value(),
            cluster_id: metadata
                .cluster_id
                .map(|id| wire::id_bytes(id.0))
                .unwrap_or_default(),
            heard_ms_ago: if is_me {
                0
            } else {
                millis_since(member.heard_at)
            },
            raft_announced: metadata.raft_announced,
        }
    });
    let fingers = view.fingers.iter().map(|finger| Finger {
        exponent: finger.exponent,
        start: finger.start.0,
        pid: finger.pid.0,
    });
    let suspicions = view.suspicions.iter().map(|suspicion| Suspicion {
        pid: suspicion.node_id.pid().0,
        since_ms: millis_since(suspicion.since),
        accusers: suspicion
            .accusers
            .iter()
            .map(|accuser| accuser.pid().0)
            .collect(),
    });
    SelfReply {
        m: RING_BITS,
        pid: view.me.pid().0,
        member_map: member_map.collect(),
        finger_table: fingers.collect(),
        suspicion_map: suspicions.collect(),
        rejoin: view.rejoin,
        node_id: wire::id_bytes(view.me.node_id.0),
        boot_epoch: view.me.incarnation.boot_epoch().into(),
        incarnation: view.me.incarnation.value(),
        view_version: published.version,
        joined: view.joined,
        introducers: own.introducers.clone(),
        first_introducer: published.first_introducer,
    }
}

fn state(state: State) -> MemberState {
    match state {
        State::Alive => MemberState::Alive,
        State::Suspect => MemberState::Suspect,
        State::Dead => MemberState::Dead,
        State::Left => MemberState::Left,
    }
}
