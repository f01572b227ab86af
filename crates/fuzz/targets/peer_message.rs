//! What a peer sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use raft::convert::{EncodedEntries, from_wire, to_wire};
use wire::raft::PeerMessage;

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = PeerMessage::decode(data)
        && let Ok(message) = from_wire(message)
    {
        let again = to_wire(message.clone(), &mut EncodedEntries::default());
        let again =
            PeerMessage::decode(&again.encode_to_vec()[..]).expect("what was written is read");
        assert_eq!(from_wire(again), Ok(message));
    }
});
