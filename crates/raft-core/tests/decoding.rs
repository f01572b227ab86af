//! Bytes from strangers: every sequence of them is a value or a reason, never a panic, and what was
//! written is read.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use raft_core::configuration::MAX_CONFIGURATION_NODES;
use raft_core::sessions::{BadTable, MAX_SESSIONS, SESSION_WINDOW};
use raft_core::{
    BadPayload, ClusterId, Command, Configuration, Entry, NodeId, Payload, SessionTable,
};

fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
    prop::collection::btree_set(any::<u128>().prop_map(NodeId), 0..5)
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let sets = (nodes(), nodes(), nodes(), nodes());
    (sets, any::<bool>(), "\\PC{0,20}").prop_map(|(sets, grown, reason)| Configuration {
        voters: sets.0,
        outgoing: sets.1,
        learners: sets.2,
        removed: sets.3,
        grown,
        reason,
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let numbers = any::<[u64; 3]>();
    let bytes = prop::collection::vec(any::<u8>(), 0..100);
    prop_oneof![
        Just(Payload::Noop),
        Just(Payload::RegisterSession),
        Just(Payload::Dissolve),
        (any::<u128>(), any::<u128>(), any::<bool>()).prop_map(|(cluster, founder, alone)| {
            Payload::Founding {
                cluster_id: ClusterId(cluster),
                founder: NodeId(founder),
                alone,
            }
        }),
        configuration().prop_map(|one| Payload::Configuration(Arc::new(one))),
        (numbers, bytes).prop_map(|([session, sequence, acked_below], bytes)| {
            Payload::Command(Command {
                session,
                sequence,
                acked_below,
                bytes: bytes.into(),
            })
        }),
        any::<[u64; 2]>().prop_map(|[session, acked_below]| Payload::KeepAlive {
            session,
            acked_below
        }),
        any::<[u64; 2]>().prop_map(|[session, seen_activity]| Payload::ExpireSession {
            session,
            seen_activity
        }),
        any::<u64>().prop_map(|index| Payload::Skip { index }),
    ]
}

/// Nothing was invented: the value says no more than the bytes do, and says it again.
fn is_sound(bytes: &Bytes) {
    if let Ok(payload) = Payload::decode(bytes.clone()) {
        let again = payload.to_bytes();
        assert_eq!(again.len(), payload.encoded_len());
        assert_eq!(Payload::decode(again), Ok(payload));
    }
}

proptest! {
    #[test]
    fn a_payload_is_read_as_it_was_written(payload in payload()) {
        let bytes = payload.to_bytes();
        prop_assert_eq!(bytes.len(), payload.encoded_len());
        prop_assert_eq!(Payload::decode(bytes), Ok(payload));
    }

    #[test]
    fn any_bytes_are_a_payload_or_a_reason(
        kind in 0_u8..10, bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        is_sound(&bytes.clone().into());
        is_sound(&[&[kind], &bytes[..]].concat().into());
    }

    #[test]
    fn a_damaged_payload_is_a_payload_or_a_reason(
        payload in payload(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = payload.to_bytes().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        is_sound(&bytes.clone().into());
        bytes.truncate(cut.index(bytes.len()));
        is_sound(&bytes.into());
    }

    /// A snapshot's configuration is followed by other things: it takes its own bytes, and no more.
    #[test]
    fn a_configuration_takes_its_own_bytes(one in configuration(), behind: Vec<u8>) {
        let mut bytes = BytesMut::new();
        one.encode(&mut bytes);
        bytes.extend_from_slice(&behind);
        let mut bytes = bytes.freeze();
        prop_assert_eq!(Configuration::decode(&mut bytes), Ok(one));
        prop_assert_eq!(bytes, behind);
    }

    #[test]
    fn any_bytes_are_a_session_table_or_a_reason(
        mut bytes in prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..300),
        counts in any::<[u8; 2]>(),
    ) {
        let is_sound = |bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Ok(table) = SessionTable::decode(bytes.clone()) {
                assert_eq!(table.encode(), bytes, "a table that was never written");
            }
        };
        is_sound(&bytes);
        // Past version, index, hash and flag, to few sessions of few outcomes.
        if bytes.len() > 66 {
            bytes[0] = SessionTable::default().encode()[0];
            bytes[17] = 0;
            bytes[18..22].copy_from_slice(&[0, 0, 0, counts[0] % 3]);
            bytes[54..58].copy_from_slice(&[0, 0, 0, counts[1] % 3]);
            is_sound(&bytes);
        }
    }
}

/// A length is no reason to make room: only what is there is.
#[test]
fn lengths_that_lie_are_refused() {
    let nodes = |count: u32| Bytes::from([&[2][..], &count.to_be_bytes(), &[0; 40]].concat());
    assert_eq!(Payload::decode(nodes(3)), Err(BadPayload::Length));
    assert_eq!(
        Payload::decode(nodes(MAX_CONFIGURATION_NODES)),
        Err(BadPayload::Length)
    );
    let many = MAX_CONFIGURATION_NODES + 1;
    assert_eq!(
        Payload::decode(nodes(many)),
        Err(BadPayload::TooManyNodes(many))
    );
    let head = SessionTable::default().encode();
    let head = &head[..head.len() - 4];
    for count in [1, MAX_SESSIONS as u32, u32::MAX] {
        let bytes = [head, &count.to_be_bytes()].concat();
        assert!(SessionTable::decode(bytes.into()).is_err());
    }
    for outcomes in [1, SESSION_WINDOW as u32, u32::MAX] {
        let session = [&[0; 32][..], &outcomes.to_be_bytes()].concat();
        let bytes = [head, &1_u32.to_be_bytes(), &session].concat();
        assert!(SessionTable::decode(bytes.into()).is_err());
    }
}

/// Equal tables have equal bytes (S4): the same sessions in another order are no table.
#[test]
fn a_table_in_another_order_is_none() {
    let mut table = SessionTable::default();
    for index in 1..=4 {
        let payload = match index {
            1 | 2 => Payload::RegisterSession,
            _ => Payload::Command(Command {
                session: 1,
                sequence: 5 - index,
                acked_below: 0,
                bytes: Bytes::new(),
            }),
        };
        let (term, log_time_ms) = (1, index);
        table.admit(&Entry {
            index,
            term,
            log_time_ms,
            payload,
        });
    }
    let bytes = table.encode();
    assert!(SessionTable::decode(bytes.clone()).is_ok());
    // Head, then a session of two outcomes without data, then one without outcomes.
    let (head, sessions) = bytes.split_at(22);
    let (first, second) = sessions.split_at(36 + 2 * 13);
    assert_eq!(second.len(), 36);
    let swapped = [head, second, first].concat();
    assert_eq!(
        SessionTable::decode(swapped.into()),
        Err(BadTable::Contradiction)
    );
    let (session, outcomes) = first.split_at(36);
    let (one, other) = outcomes.split_at(13);
    let swapped = [head, session, other, one, second].concat();
    assert_eq!(
        SessionTable::decode(swapped.into()),
        Err(BadTable::Contradiction)
    );
}
