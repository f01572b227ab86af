//! A snapshot's bytes: every key with its value, in order.
//!
//! In format [`FORMAT`] the name of the format and a line feed come first. Each pair is the length
//! of the key and the length of the value, four bytes each, and then the two; the keys ascend. A key
//! of length 0, which no key has, ends them, and the number of the pairs in eight bytes ends it all.
//! Numbers are unsigned and begin with their largest part. The same state has the same bytes.

use std::io::{self, Read, Write};

use state_machine_sdk::TransferError;

use crate::key_value::MAX_KEY_BYTES;

/// What the format is called between daemons.
pub const FORMAT: &str = "leeky-kv-1";

/// The longest value, in bytes, of a snapshot that is read. No entry is as large as that.
pub const MAX_VALUE_BYTES: u32 = 64 << 20;

/// Writes pairs, which must come in order of their keys.
pub struct Encoder<'a> {
    out: &'a mut dyn Write,
    pairs: u64,
}

impl<'a> Encoder<'a> {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: &'a mut dyn Write) -> io::Result<Self> {
        out.write_all(FORMAT.as_bytes())?;
        out.write_all(b"\n")?;
        Ok(Self { out, pairs: 0 })
    }

    /// Writes one pair.
    ///
    /// # Errors
    /// Those of `out`, and when one of the two is too long to be read again.
    pub fn pair(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for part in [key, value] {
            let length = u32::try_from(part.len())
                .ok()
                .filter(|length| *length <= MAX_VALUE_BYTES)
                .ok_or_else(|| io::Error::other("a value is too long for a snapshot"))?;
            self.out.write_all(&length.to_be_bytes())?;
        }
        self.out.write_all(key)?;
        self.out.write_all(value)?;
        self.pairs += 1;
        Ok(())
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(&0_u32.to_be_bytes())?;
        self.out.write_all(&self.pairs.to_be_bytes())
    }
}

/// What becomes of a key and its value.
pub type Pair<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), TransferError> + 'a;

/// Reads a snapshot to its end, and hands each pair on. It holds one pair at a time, and a length
/// that is a lie takes no memory.
///
/// # Errors
/// Those of `source` and of `pair` as they are, and [`TransferError::Content`] for bytes that are
/// no snapshot in this format. Pairs were handed on until then.
pub fn decode(source: &mut dyn Read, pair: &mut Pair<'_>) -> Result<(), TransferError> {
    let mut begin = [0; FORMAT.len() + 1];
    source.read_exact(&mut begin)?;
    if begin.strip_suffix(b"\n") != Some(FORMAT.as_bytes()) {
        return Err(content(0, "does not begin as a snapshot in this format"));
    }
    let (mut before, mut key, mut value) = (Vec::new(), Vec::new(), Vec::new());
    let mut pairs = 0_u64;
    loop {
        let key_length = read_length(source)?;
        if key_length == 0 {
            break;
        }
        let value_length = read_length(source)?;
        if usize::try_from(key_length).map_or(true, |length| length > MAX_KEY_BYTES) {
            return Err(content(pairs, "has a key that is too long"));
        }
        if value_length > MAX_VALUE_BYTES {
            return Err(content(pairs, "has a value that is too long"));
        }
        read_part(source, key_length, &mut key)?;
        read_part(source, value_length, &mut value)?;
        if key <= before {
            return Err(content(
                pairs,
                "has a key that does not come after the one before it",
            ));
        }
        pair(&key, &value)?;
        std::mem::swap(&mut before, &mut key);
        pairs += 1;
    }
    let mut counted = [0; 8];
    source.read_exact(&mut counted)?;
    if u64::from_be_bytes(counted) != pairs {
        return Err(content(pairs, "counts another number of pairs than it has"));
    }
    Ok(())
}

fn content(pairs: u64, what: &str) -> TransferError {
    TransferError::Content(format!("the snapshot, after {pairs} pairs, {what}"))
}

fn read_length(source: &mut dyn Read) -> io::Result<u32> {
    let mut length = [0; 4];
    source.read_exact(&mut length)?;
    Ok(u32::from_be_bytes(length))
}

fn read_part(source: &mut dyn Read, length: u32, part: &mut Vec<u8>) -> io::Result<()> {
    part.clear();
    // Grows with what really comes.
    let read = source.take(length.into()).read_to_end(part)?;
    if u32::try_from(read) == Ok(length) {
        return Ok(());
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

    fn encoded<'p>(pairs: impl IntoIterator<Item = (&'p [u8], &'p [u8])>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::begin(&mut bytes).unwrap();
        for (key, value) in pairs {
            encoder.pair(key, value).unwrap();
        }
        encoder.end().unwrap();
        bytes
    }

    fn of(pairs: &Pairs) -> Vec<u8> {
        encoded(pairs.iter().map(|(key, value)| (&key[..], &value[..])))
    }

    fn decoded(mut bytes: &[u8]) -> Result<Pairs, TransferError> {
        let mut pairs = Pairs::new();
        decode(&mut bytes, &mut |key, value| {
            pairs.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        assert!(bytes.is_empty() || bytes.len() < 64, "it read to the end");
        Ok(pairs)
    }

    #[track_caller]
    fn refused(bytes: &[u8], sentence: &str) {
        let error = decoded(bytes).unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
        let of_content = matches!(error, TransferError::Content(_));
        assert_eq!(of_content, sentence != "failed to fill whole buffer");
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = encoded([(&b"a"[..], &b"1"[..]), (b"b", b"")]);
        let expected = [
            &b"leeky-kv-1\n"[..],
            &[0, 0, 0, 1, 0, 0, 0, 1],
            b"a1",
            &[0, 0, 0, 1, 0, 0, 0, 0],
            b"b",
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0, 0, 2],
        ];
        assert_eq!(bytes, expected.concat());
        assert_eq!(encoded([]).len(), FORMAT.len() + 1 + 4 + 8);
    }

    #[test]
    fn what_is_no_snapshot_is_refused_with_the_reason() {
        let good = encoded([(&b"a"[..], &b"1"[..]), (b"b", b"22")]);
        assert_eq!(decoded(&good).unwrap().len(), 2);
        for length in 0..good.len() {
            let mut given = Vec::new();
            let mut pair = |key: &[u8], value: &[u8]| {
                given.push([key, value].concat());
                Ok(())
            };
            decode(&mut &good[..length], &mut pair).unwrap_err();
            // None that was cut off is handed on.
            assert!(
                [&b"a1"[..], b"b22"]
                    .starts_with(&given.iter().map(Vec::as_slice).collect::<Vec<_>>())
            );
        }
        refused(&[b"leeky-kv-2\n", &good[11..]].concat(), "begin");
        let count = good.len() - 1;
        let mut bad = good.clone();
        bad[count] = 3;
        refused(&bad, "counts another number");
        refused(
            &encoded([(&b"b"[..], &b""[..]), (b"a", b"")]),
            "does not come after",
        );
        refused(
            &encoded([(&b"a"[..], &b""[..]), (b"a", b"")]),
            "does not come after",
        );
        let long = vec![b'k'; MAX_KEY_BYTES + 1];
        refused(&encoded([(&long[..], &b""[..])]), "key that is too long");
        assert_eq!(
            decoded(&encoded([(&long[1..], &b""[..])])).unwrap().len(),
            1
        );
        let mut bad = good.clone();
        bad[15..19].copy_from_slice(&(MAX_VALUE_BYTES + 1).to_be_bytes());
        refused(&bad, "value that is too long");
        // A length that is a lie is found out when the bytes end.
        bad[15..19].copy_from_slice(&MAX_VALUE_BYTES.to_be_bytes());
        decoded(&bad).unwrap_err();
    }

    #[test]
    fn a_value_that_could_not_be_read_again_is_not_written() {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::begin(&mut bytes).unwrap();
        let value = vec![0; MAX_VALUE_BYTES as usize + 1];
        assert!(encoder.pair(b"k", &value).is_err());
    }

    proptest! {
        #[test]
        fn what_was_written_is_what_is_read(pairs in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..20),
            prop::collection::vec(any::<u8>(), 0..50),
            0..20,
        )) {
            let bytes = of(&pairs);
            let read = decoded(&bytes).unwrap();
            prop_assert_eq!(&read, &pairs);
            prop_assert_eq!(of(&read), bytes);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, after_the_name: bool) {
            let name = if after_the_name { &b"leeky-kv-1\n"[..] } else { b"" };
            let _ = decoded(&[name, &bytes].concat());
        }

        /// Never another state: a change is refused, or is one of a key or a value alone.
        #[test]
        fn a_bit_that_flips_is_refused_or_is_in_the_content(
            pairs in prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..5),
            at: prop::sample::Index,
            bit in 0_u8..8,
        ) {
            let pairs: Pairs = pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
            let mut bytes = of(&pairs);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            if let Ok(read) = decoded(&bytes) {
                prop_assert_eq!(read.len(), pairs.len());
            }
        }
    }
}
