//! What peers send: any bytes and any messages are one for the core, or a reason.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use raft::convert::{EncodedEntries, cost_bytes, from_wire, to_wire};
use wire::raft::{self as pb, peer_message::Body};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        prop::collection::vec(any::<u8>(), 16).prop_map(Bytes::from),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from),
        // The kinds of payloads that there are.
        (0_u8..10, prop::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, rest)| [
            &[kind],
            &rest[..]
        ]
        .concat()
        .into()),
    ]
}

/// Small ones often, so that things fit together now and then.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..6_u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn position() -> impl Strategy<Value = Option<pb::Position>> {
    prop::option::of((number(), number()).prop_map(|(index, term)| pb::Position { index, term }))
}

fn entry() -> impl Strategy<Value = pb::LogEntry> {
    let one = (number(), number(), number(), bytes());
    one.prop_map(|(index, term, log_time_ms, payload)| pb::LogEntry {
        index,
        term,
        log_time_ms,
        payload,
    })
}

fn entries() -> impl Strategy<Value = Vec<pb::LogEntry>> {
    prop_oneof![
        prop::collection::vec(entry(), 0..4),
        // Without gaps.
        (0..6_u64, prop::collection::vec(entry(), 0..4)).prop_map(|(first, mut entries)| {
            for (entry, index) in entries.iter_mut().zip(first..) {
                entry.index = index;
                entry.term = 2;
            }
            entries
        }),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let numbers = (number(), number(), number(), number());
    let flags = any::<[bool; 3]>();
    let ids = prop::collection::vec(bytes(), 0..4);
    (0..13, numbers, flags, position(), entries(), ids).prop_map(
        |(kind, (term, index, round, boot), [one, two, three], position, entries, ids)| match kind {
            0 => Body::Hello(pb::Hello::default()),
            1 => Body::RequestVote(pb::RequestVote {
                term,
                pre_vote: one,
                last: position,
                transfer_token: index,
            }),
            2 => Body::RequestVoteReply(pb::RequestVoteReply {
                term,
                pre_vote: one,
                granted: two,
                request_term: index,
                hears_leader: three,
            }),
            3 => Body::AppendEntries(pb::AppendEntries {
                term,
                previous: position,
                entries,
                commit_index: index,
            }),
            4 => Body::AppendEntriesReply(pb::AppendEntriesReply {
                term,
                success: one,
                index,
                hint: position,
            }),
            5 => Body::Heartbeat(pb::Heartbeat {
                term,
                commit_index: index,
                round,
                succession: ids,
                boot,
            }),
            6 => Body::HeartbeatReply(pb::HeartbeatReply {
                term,
                round,
                disk_sick: one,
                state_machine_sick: two,
                stopping: three,
            }),
            7 => Body::TimeoutNow(pb::TimeoutNow {
                term,
                transfer_token: index,
            }),
            8 => Body::ReadIndex(pb::ReadIndex { term, ask: index }),
            9 => Body::ReadIndexReply(pb::ReadIndexReply {
                term,
                ask: index,
                index: round,
            }),
            10 => Body::HigherTerm(pb::HigherTerm { term }),
            11 => Body::InstallSnapshot(pb::InstallSnapshot { term, position }),
            _ => Body::Goodbye(pb::PeerGoodbye::default()),
        },
    )
}

/// What was taken can be sent on, and is taken as the same; what was not has a reason.
fn is_sound(message: pb::PeerMessage) {
    let length = message.encoded_len();
    match from_wire(message) {
        Ok(message) => {
            // Its cost is no lie: what is counted is in proportion to what came.
            assert!(cost_bytes(&message) <= 256 + 60 * length);
            let again = to_wire(message.clone(), &mut EncodedEntries::default());
            let bytes = again.encode_to_vec();
            let again = pb::PeerMessage::decode(&bytes[..]).unwrap();
            assert_eq!(from_wire(again), Ok(message));
        }
        Err(reason) => {
            let sentence = reason.to_string();
            assert!(!sentence.is_empty() && sentence.len() < 200, "{sentence}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = pb::PeerMessage::decode(&bytes[..]) {
            is_sound(message);
        }
    }

    #[test]
    fn any_message(body in body()) {
        is_sound(pb::PeerMessage { body: Some(body) });
    }

    #[test]
    fn a_message_that_was_damaged(
        body in body(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = pb::PeerMessage { body: Some(body) }.encode_to_vec();
        for (place, byte) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
        }
        if let Ok(message) = pb::PeerMessage::decode(&bytes[..]) {
            is_sound(message);
        }
    }

    /// What a daemon puts into a status, and what anything else may put there.
    #[test]
    fn any_details_of_a_status(details: Vec<u8>, code in 0..20_i32) {
        let status = tonic::Status::with_details(code.into(), "no", details.into());
        let _ = wire::status::detail_of(&status);
    }
}
