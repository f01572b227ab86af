//! Connections to other processes.
//!
//! Each is dialled by hand and carries one HTTP/2 connection that is never replaced behind the
//! caller's back: a caller that must know when a connection ended (every one of them, R3 and E2)
//! would not learn it otherwise.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint, Uri};
use wire::gather::Gather;

use crate::limits::{KEEP_ALIVE, UNACKNOWLEDGED, WINDOW_BYTES};

/// Opens a TCP connection, from `bind` unless that is unspecified: a node that listens on one
/// address also speaks from it, so that a pair of nodes can be cut by their addresses.
///
/// # Errors
/// As the system says, or `TimedOut` after `deadline`.
pub async fn dial(address: SocketAddr, bind: IpAddr, deadline: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if !bind.is_unspecified() && bind.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    let stream = tokio::time::timeout(deadline, socket.connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    prepare(&stream)?;
    Ok(stream)
}

/// Sets what every TCP connection of the daemon has, dialled or accepted.
///
/// # Errors
/// When the connection is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Where the system cannot do it, keep-alive still ends such a connection, only later.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    Ok(())
}

/// An HTTP/2 connection over `io`, for one life: when it ends, every later call fails.
///
/// # Errors
/// When the other end does not begin to speak HTTP/2.
pub async fn channel<IO>(io: IO) -> Result<Channel, tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut once = Some(TokioIo::new(Gather::new(io)));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.take();
        async move { io.ok_or_else(|| io::Error::other("the connection has ended")) }
    });
    Endpoint::from_static("http://node.invalid")
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// [`channel`], and a receiver that resolves when the connection has ended, used or idle.
///
/// # Errors
/// As [`channel`].
pub async fn watched_channel<IO>(
    io: IO,
) -> Result<(Channel, oneshot::Receiver<()>), tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (_ended, receiver) = oneshot::channel();
    Ok((channel(Watched { io, _ended }).await?, receiver))
}

/// Lets go of a sender when the connection lets go of its socket.
struct Watched<IO> {
    io: IO,
    _ended: oneshot::Sender<()>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// What stands at the bottom of an error: "Connection refused", not "transport error".
pub fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// A status in one line: the sentence of whoever made it, or what broke the connection.
pub fn status_line(status: &tonic::Status) -> String {
    use std::error::Error as _;
    match status.source() {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}
