//! A call in one write.
//!
//! HTTP/2 sends a call as headers, data and an end, each when it is ready; the task that has the connection
//! and the task that has the call take turns for each of them. Three writes, and up to three times the other
//! end is woken, for what could be one: small calls pay more for that than for anything else.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// More than this is not gathered: it is written as it comes.
pub const GATHER_BYTES: usize = 16 << 10;

/// How often a flush lets the other tasks go first, as long as each time brings more.
const TURNS: u8 = 3;

/// Gathers small writes: a flush first gives every other task that is ready its turn, and what they wrote
/// meanwhile leaves with it. No timer is involved; when nobody has anything to add, the bytes leave at once.
#[derive(Debug)]
pub struct Gather<IO> {
    io: IO,
    gathered: BytesMut,
    /// Something came since the last turn.
    grown: bool,
    turns: u8,
}

impl<IO: AsyncWrite + Unpin> Gather<IO> {
    /// Nothing gathered yet.
    pub fn new(io: IO) -> Gather<IO> {
        Gather {
            io,
            gathered: BytesMut::new(),
            grown: false,
            turns: 0,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        self.grown = false;
        self.turns = 0;
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes. Whether they are to be gathered.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        if self.gathered.len() + bytes > GATHER_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(bytes <= GATHER_BYTES))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !ready!(self.poll_room(cx, bytes.len()))? {
            return Pin::new(&mut self.io).poll_write(cx, bytes);
        }
        self.gathered.extend_from_slice(bytes);
        self.grown = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if !ready!(self.poll_room(cx, bytes))? {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        for slice in slices {
            self.gathered.extend_from_slice(slice);
        }
        self.grown = true;
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.grown && self.turns < TURNS {
            self.grown = false;
            self.turns += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    type Log = Arc<Mutex<Vec<Vec<u8>>>>;

    /// Takes at most so many bytes at a time, and keeps apart what came in each write.
    struct Writes {
        most: usize,
        log: Log,
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.most);
            let mut log = self.log.lock().expect("nobody panicked");
            log.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gather(most: usize) -> (Gather<Writes>, Log) {
        let log = Log::default();
        let io = Writes {
            most,
            log: Arc::clone(&log),
        };
        (Gather::new(io), log)
    }

    fn write(gather: &mut Gather<Writes>, bytes: &[u8]) -> usize {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(gather).poll_write(&mut cx, bytes) {
            Poll::Ready(Ok(written)) => written,
            other => panic!("{other:?}"),
        }
    }

    fn flush(gather: &mut Gather<Writes>) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match Pin::new(gather).poll_flush(&mut cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => false,
        }
    }

    #[test]
    fn what_others_add_before_the_flush_comes_back_leaves_in_the_same_write() {
        let (mut gather, log) = gather(usize::MAX);
        write(&mut gather, b"headers ");
        assert!(!flush(&mut gather), "the others have their turn");
        write(&mut gather, b"data ");
        assert!(!flush(&mut gather));
        write(&mut gather, b"end");
        assert!(!flush(&mut gather));
        assert!(flush(&mut gather), "nobody had anything to add");
        assert_eq!(*log.lock().expect("here"), [b"headers data end"]);
    }

    #[test]
    fn who_never_stops_adding_does_not_hold_the_bytes_back() {
        let (mut gather, log) = gather(usize::MAX);
        let mut flushes = 0;
        loop {
            write(&mut gather, b"x");
            flushes += 1;
            if flush(&mut gather) {
                break;
            }
        }
        assert_eq!(flushes, usize::from(TURNS) + 1);
        assert_eq!(*log.lock().expect("here"), [vec![b'x'; flushes]]);
        assert!(flush(&mut gather), "there is nothing left to wait for");
    }

    #[test]
    fn all_bytes_leave_in_order_through_an_end_that_takes_few_at_a_time() {
        let (mut gather, log) = gather(1_000);
        let sent: Vec<u8> = (0..100_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut rest = &sent[..];
        for size in [10, 5_000, GATHER_BYTES, 70_000, 3, GATHER_BYTES + 1].repeat(4) {
            let mut piece = &rest[..size.min(rest.len())];
            rest = &rest[piece.len()..];
            while !piece.is_empty() {
                piece = &piece[write(&mut gather, piece)..];
                assert!(gather.gathered.len() <= GATHER_BYTES);
            }
        }
        assert!(rest.is_empty());
        while !flush(&mut gather) {}
        assert_eq!(log.lock().expect("here").concat(), sent);
    }
}
