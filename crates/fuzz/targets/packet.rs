//! A datagram of members.
#![no_main]

use libfuzzer_sys::fuzz_target;
use member_core::Packet;

fn is_sound(bytes: &[u8]) {
    if let Ok(packet) = Packet::decode(bytes)
        && let Some(again) = packet.encode()
    {
        assert_eq!(Packet::decode(&again), Ok(packet));
    }
}

fuzz_target!(|data: &[u8]| {
    is_sound(data);
    // Past magic, version and checksum.
    if data.len() >= 8 {
        let mut bytes = data.to_vec();
        bytes[..3].copy_from_slice(b"LR\x01");
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..]);
        bytes[4..8].copy_from_slice(&checksum.to_be_bytes());
        is_sound(&bytes);
    }
});
