//! A snapshot on its way: bytes cut into numbered chunks with a checksum each, and put together
//! again. Neither direction ever holds more than one chunk.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};

use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::refusal::Refusal;

/// One piece of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What the whole snapshot is as of.
    pub index: u64,
    /// The term of the entry there.
    pub term: u64,
    /// Its place among the chunks, from 0.
    pub number: u64,
    /// The bytes.
    pub data: Bytes,
    /// CRC-32C of the data.
    pub crc32c: u32,
    /// No chunk follows.
    pub last: bool,
}

/// Hands a chunk on, or says why there is no use in going on.
pub type Send<'a> = dyn Fn(Chunk) -> Result<(), Refusal> + 'a;

/// Gets the next chunk; none when the sender has ended.
pub type Next<'a> = dyn FnMut() -> Result<Option<Chunk>, Refusal> + 'a;

/// Cuts what is written to it into chunks.
pub(crate) struct Outgoing<'a> {
    send: &'a Send<'a>,
    /// Index and term, once they are known.
    position: &'a Cell<Option<(u64, u64)>>,
    /// Why a chunk was not handed on, for the error that the writer passes through is only words.
    refusal: &'a Cell<Option<Refusal>>,
    buffer: Vec<u8>,
    /// Chunk 0 is sent by [`Outgoing::announce`].
    next: u64,
}

impl<'a> Outgoing<'a> {
    pub fn new(
        send: &'a Send<'a>,
        position: &'a Cell<Option<(u64, u64)>>,
        refusal: &'a Cell<Option<Refusal>>,
    ) -> Self {
        Self {
            send,
            position,
            refusal,
            buffer: Vec::new(),
            next: 1,
        }
    }

    /// Chunk 0, without data: it tells the index before any of the state is read.
    pub fn announce(send: &Send<'_>, (index, term): (u64, u64)) -> Result<(), Refusal> {
        send(Chunk {
            index,
            term,
            number: 0,
            data: Bytes::new(),
            crc32c: crc32c::crc32c(&[]),
            last: false,
        })
    }

    /// Sends what is left. Without this no chunk is the last, and nobody takes it for a whole.
    pub fn finish(mut self) -> io::Result<()> {
        self.send_buffer(true)
    }

    fn send_buffer(&mut self, last: bool) -> io::Result<()> {
        if let Some(refusal) = self.refusal.take() {
            return Err(self.refuse(refusal));
        }
        let Some((index, term)) = self.position.get() else {
            return Err(io::Error::other("the state was written before it was read"));
        };
        let data = Bytes::from(std::mem::take(&mut self.buffer));
        let chunk = Chunk {
            index,
            term,
            number: self.next,
            crc32c: crc32c::crc32c(&data),
            data,
            last,
        };
        self.next += 1;
        (self.send)(chunk).map_err(|refusal| self.refuse(refusal))
    }

    fn refuse(&self, refusal: Refusal) -> io::Error {
        let error = io::Error::other(refusal.to_string());
        self.refusal.set(Some(refusal));
        error
    }
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(SNAPSHOT_CHUNK_BYTES);
        }
        let taken = bytes.len().min(SNAPSHOT_CHUNK_BYTES - self.buffer.len());
        self.buffer.extend(bytes.iter().take(taken));
        if self.buffer.len() == SNAPSHOT_CHUNK_BYTES {
            self.send_buffer(false)?;
        }
        Ok(taken)
    }

    /// Chunks are full but for the last one, whatever the writer thinks.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts chunks together again. `&Incoming` is the reader, so that its owner can look meanwhile.
pub(crate) struct Incoming<'a> {
    inner: RefCell<Inner<'a>>,
}

struct Inner<'a> {
    next: &'a mut Next<'a>,
    /// Asked with the bytes that have come until now, before they are handed on.
    room: &'a dyn Fn(u64) -> Result<(), Refusal>,
    index: u64,
    term: u64,
    expected: u64,
    received: u64,
    rest: Bytes,
    last_seen: bool,
    refusal: Option<Refusal>,
}

impl<'a> Incoming<'a> {
    pub fn new(
        (index, term): (u64, u64),
        next: &'a mut Next<'a>,
        room: &'a dyn Fn(u64) -> Result<(), Refusal>,
    ) -> Self {
        Self {
            inner: RefCell::new(Inner {
                next,
                room,
                index,
                term,
                expected: 0,
                received: 0,
                rest: Bytes::new(),
                last_seen: false,
                refusal: None,
            }),
        }
    }

    /// Whether the snapshot came whole and was read to its end.
    pub fn finish(&self) -> Result<(), Refusal> {
        let mut inner = self.inner.borrow_mut();
        match inner.fill() {
            Err(refusal) => Err(refusal),
            Ok(false) => Ok(()),
            Ok(true) => Err(inner.refuse(Refusal::BadSnapshot(
                "there are bytes after its end".to_owned(),
            ))),
        }
    }

    /// Why no more could be read, if that was so.
    pub fn refusal(self) -> Option<Refusal> {
        self.inner.into_inner().refusal
    }
}

impl Read for &Incoming<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.inner.borrow_mut();
        inner
            .fill()
            .map_err(|refusal| io::Error::other(refusal.to_string()))?;
        let length = out.len().min(inner.rest.len());
        let (to, _) = out.split_at_mut(length);
        inner.rest.copy_to_slice(to);
        Ok(length)
    }
}

impl Inner<'_> {
    /// Gets chunks until there is a byte to read; false when there is none to come.
    fn fill(&mut self) -> Result<bool, Refusal> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        while self.rest.is_empty() && !self.last_seen {
            let checked = (self.next)().and_then(|chunk| self.check(chunk));
            self.rest = checked.map_err(|refusal| self.refuse(refusal))?;
        }
        Ok(!self.rest.is_empty())
    }

    fn refuse(&mut self, refusal: Refusal) -> Refusal {
        self.refusal = Some(refusal.clone());
        refusal
    }

    fn check(&mut self, chunk: Option<Chunk>) -> Result<Bytes, Refusal> {
        let expected = self.expected;
        let bad = |what: String| Err(Refusal::BadSnapshot(what));
        let Some(chunk) = chunk else {
            return bad(format!(
                "it ends before chunk {expected}, and none was the last"
            ));
        };
        let Chunk {
            index,
            term,
            number,
            data,
            ..
        } = chunk;
        if number != expected {
            return bad(format!(
                "chunk {number} came where chunk {expected} should be"
            ));
        }
        if (index, term) != (self.index, self.term) {
            let (of_index, of_term) = (self.index, self.term);
            return bad(format!(
                "chunk {number} is of index {index} in term {term}, and the snapshot is of index \
                 {of_index} in term {of_term}"
            ));
        }
        if data.len() > SNAPSHOT_CHUNK_BYTES {
            let length = data.len();
            return Err(Refusal::TooLarge(format!(
                "chunk {number} has {length} bytes, and may have {SNAPSHOT_CHUNK_BYTES}"
            )));
        }
        let (found, given) = (crc32c::crc32c(&data), chunk.crc32c);
        if found != given {
            return bad(format!(
                "chunk {number} is damaged: its bytes have the checksum {found:08x}, and \
                 {given:08x} came with them"
            ));
        }
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(length);
        (self.room)(self.received)?;
        self.expected += 1;
        self.last_seen = chunk.last;
        Ok(data)
    }
}
