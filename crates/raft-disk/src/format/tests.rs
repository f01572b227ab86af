//! What is written is read; what is changed is refused.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use raft_core::Command;

use super::*;

fn hard_state() -> impl Strategy<Value = HardState> {
    let peers =
        prop::collection::btree_map(any::<u128>().prop_map(NodeId), any::<(u64, u64)>(), 0..5);
    (any::<u64>(), any::<Option<u128>>(), peers).prop_map(|(current_term, voted_for, peers)| {
        HardState {
            current_term,
            voted_for: voted_for.map(NodeId),
            peers,
        }
    })
}

fn record() -> impl Strategy<Value = Record> {
    let payload = prop_oneof![
        Just(Payload::Noop),
        (any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(n, bytes)| {
            Payload::Command(Command {
                session: n,
                sequence: n,
                acked_below: 0,
                bytes: bytes.into(),
            })
        }),
    ];
    let entry = (any::<[u64; 3]>(), payload).prop_map(|([index, term, log_time_ms], payload)| {
        Record::Entry(Entry {
            index,
            term,
            log_time_ms,
            payload,
        })
    });
    prop_oneof![
        hard_state().prop_map(Record::HardState),
        any::<u64>().prop_map(Record::Truncate),
        any::<[u64; 3]>().prop_map(|[index, term, log_time_ms]| Record::Reset {
            base: Position { index, term },
            log_time_ms,
        }),
        any::<[u64; 3]>().prop_map(|[first, index, term]| Record::Lost {
            first,
            last: Position { index, term },
        }),
        entry,
    ]
}

fn put(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::HardState(hard_state) => put_hard_state_record(out, hard_state),
        Record::Truncate(from) => put_truncate_record(out, *from),
        Record::Reset { base, log_time_ms } => put_reset_record(out, *base, *log_time_ms),
        Record::Lost { first, last } => put_lost_record(out, *first, *last),
        Record::Entry(entry) => put_entry_record(out, entry),
    }
}

proptest! {
    /// What is written is read, one record behind the other, and `write_len` never says less
    /// than they take.
    #[test]
    fn records_come_back(records in prop::collection::vec(record(), 1..8)) {
        let mut out = Vec::new();
        records.iter().for_each(|record| put(&mut out, record));
        let bytes = Bytes::from(out);
        let mut at = 0;
        for record in &records {
            let Item::Record(found, length) = item(&bytes, at).unwrap() else { panic!() };
            prop_assert_eq!(&found, record);
            let mut write = raft_core::Write {
                sequence: 1, generation: 1, hard_state: None, install: None, truncate_from: None,
                entries: vec![], compact_to: None,
            };
            match found {
                Record::HardState(hard_state) => write.hard_state = Some(hard_state),
                Record::Truncate(from) => write.truncate_from = Some(from),
                Record::Reset { base, log_time_ms } => {
                    write.install = Some(std::sync::Arc::new(raft_core::SnapshotMeta {
                        position: base,
                        cluster_id: raft_core::ClusterId(1),
                        log_time_ms,
                        configuration_index: 1,
                        configuration: std::sync::Arc::default(),
                    }));
                }
                Record::Entry(entry) => write.entries.push(entry),
                // Nobody asks for it: it has a batch of its own, whose room is known.
                Record::Lost { .. } => {
                    at += length;
                    continue;
                }
            }
            prop_assert!(write_len(&write) >= length);
            at += length;
        }
        prop_assert_eq!(at, bytes.len());
    }

    /// A record that is cut short or changed in any bit is not taken for another one.
    #[test]
    fn a_changed_record_is_refused(record in record(), place in any::<prop::sample::Index>()) {
        let mut out = Vec::new();
        put(&mut out, &record);
        let cut = Bytes::copy_from_slice(&out[..place.index(out.len())]);
        prop_assert!(!matches!(item(&cut, 0), Ok(Item::Record(..))));
        let bit = place.index(out.len() * 8);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!matches!(item(&out.into(), 0), Ok(Item::Record(..))));
    }

    /// Any bytes are something, or nothing: never a panic, and never more than there is.
    #[test]
    fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..220) {
        let _ = SegmentHeader::length(&bytes);
        let _ = SegmentHeader::decode(&bytes);
        let _ = BatchHeader::decode(&bytes);
        let bytes = Bytes::from(bytes);
        if let Ok(Item::Record(_, length)) = item(&bytes, at) {
            prop_assert!(at + length <= bytes.len());
        }
    }

    /// Lengths that lie, under checksums that do not.
    #[test]
    fn a_sound_checksum_over_nonsense_is_no_record(
        kind in 0u8..7,
        content in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut out = Vec::new();
        let start = begin(&mut out, kind);
        out.extend_from_slice(&content);
        seal(&mut out, start);
        match item(&out.clone().into(), 0) {
            Ok(Item::Record(record, length)) => {
                prop_assert_eq!(length, out.len());
                let mut again = Vec::new();
                put(&mut again, &record);
                prop_assert!(again.len() == out.len());
            }
            Ok(Item::Padding) => prop_assert_eq!(kind, 0),
            Ok(Item::Batch) => prop_assert!(false),
            Err(_) => {}
        }
    }

    #[test]
    fn segment_headers_come_back(
        hard_state in hard_state(),
        [generation, number, index, term, previous_end] in any::<[u64; 5]>(),
        previous_checksum in any::<u32>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let last = Position { index, term };
        let header = SegmentHeader {
            generation, number, last, previous_end, previous_checksum, hard_state,
        };
        let mut out = Vec::new();
        let checksum = header.encode(&mut out);
        prop_assert_eq!(SegmentHeader::length(&out).unwrap(), out.len() as u64);
        prop_assert_eq!(SegmentHeader::decode(&out).unwrap(), (header, checksum));
        let bit = bit.index(out.len() * 8);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(SegmentHeader::decode(&out).is_err());
    }

    #[test]
    fn batch_headers_come_back(
        [generation, offset, synced] in any::<[u64; 3]>(),
        [body_bytes, previous, count, body_crc] in any::<[u32; 4]>(),
        following in any::<Option<u32>>(),
        [index, term, current_term] in any::<[u64; 3]>(),
        voted_for in any::<Option<u128>>(),
        bit in 0..BATCH_HEADER_BYTES * 8,
    ) {
        let standing = Standing {
            last: Position { index, term }, current_term, voted_for: voted_for.map(NodeId),
        };
        let header = BatchHeader {
            body_bytes, generation, offset, synced, previous, count, body_crc, following, standing,
        };
        let mut out = [0; BATCH_HEADER_BYTES];
        let checksum = header.encode(&mut out);
        prop_assert_eq!(BatchHeader::decode(&out), Some((header, checksum)));
        prop_assert!(header.end() >= offset);
        out[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(BatchHeader::decode(&out), None);
    }
}
