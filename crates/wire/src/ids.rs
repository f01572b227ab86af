//! 128-bit identities as they travel: 16 bytes, big-endian.

use bytes::Bytes;

/// A field that should hold an identity holds something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be 16 bytes, and is {length}")]
pub struct BadId {
    /// The field as the proto file names it.
    pub field: &'static str,
    /// How many bytes it had.
    pub length: usize,
}

/// The 16 bytes of an identity.
pub fn id_bytes(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// Reads an identity that must be there.
///
/// # Errors
/// [`BadId`] unless there are exactly 16 bytes.
pub fn id_from_bytes(field: &'static str, bytes: &[u8]) -> Result<u128, BadId> {
    let array = bytes.try_into().map_err(|_| BadId {
        field,
        length: bytes.len(),
    })?;
    Ok(u128::from_be_bytes(array))
}

/// Reads an identity that may be left out: no bytes mean none.
///
/// # Errors
/// [`BadId`] when there are bytes, but not 16.
pub fn optional_id_from_bytes(field: &'static str, bytes: &[u8]) -> Result<Option<u128>, BadId> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        id_from_bytes(field, bytes).map(Some)
    }
}
