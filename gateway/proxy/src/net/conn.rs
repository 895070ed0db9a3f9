//! The connection that HTTP runs on: ours below, Pingora's traits above.
//!
//! Pingora bounds single reads only, so what bounds a connection as a whole is here: how long it may idle between requests, and how
//! long and how large a request head may be. The head is read completely before Pingora sees any of it.

mod chunks;
mod extent;
mod scan;

use super::closing::Closing;
use super::raw::Raw;
use crate::connection::Connection;
use async_trait::async_trait;
use bytes::BytesMut;
use extent::Extent;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
use scan::Scan;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::server::TlsStream;

/// Between requests, and before the first.
pub const IDLE: Duration = Duration::from_secs(60);
/// From the first byte of a request head to its end, by the wall clock: slow senders are not served.
pub const HEAD: Duration = Duration::from_secs(10);
/// Bytes of a request head; as many as HTTP/2 header lists may have.
pub const MAX_HEAD: usize = 32 * 1024;
/// Fields of a request head.
pub const MAX_FIELDS: usize = 100;
/// Read at once.
const READ: usize = 4 * 1024;
/// One TCP segment: a head and a small body leave in one write, larger writes pass by the buffer.
const WRITE: usize = 1460;
/// A refused client may still be sending; its bytes are dropped for so long and so many, lest a reset overtakes the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// How reading a request head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// All of it is here.
    Complete,
    /// The client left, nothing came for [`IDLE`], or the connection is going away.
    Ended,
    /// It did not end within [`HEAD`].
    Late,
    /// It has more than [`MAX_HEAD`] bytes or [`MAX_FIELDS`] fields.
    TooLarge,
    /// Its request line does not end within [`MAX_LINE`](super::detect::MAX_LINE).
    LongTarget,
    /// It does not begin with a request line of HTTP/1.
    Malformed,
}

#[derive(Debug)]
enum Layer {
    Plain(Raw),
    Tls(Box<TlsStream<Raw>>),
}

/// An accepted connection, TLS ended.
#[derive(Debug)]
pub struct Conn {
    io: BufWriter<Layer>,
    /// What was read of requests and not handed on yet.
    head: BytesMut,
    /// What of the bytes to come is this request; what follows belongs to the next one, and Pingora breaks a request off over bytes after
    /// its end.
    extent: Extent,
    about: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    ssl: Option<Arc<SslDigest>>,
    established: SystemTime,
}

impl Conn {
    /// A plain connection.
    pub fn plain(raw: Raw, connection: Arc<Connection>) -> pingora_core::Result<Self> {
        Self::new(Layer::Plain(raw), None, connection)
    }

    /// A connection inside TLS.
    pub fn tls(tls: TlsStream<Raw>, connection: Arc<Connection>) -> pingora_core::Result<Self> {
        let session = tls.get_ref().1;
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let ssl = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        Self::new(Layer::Tls(Box::new(tls)), Some(ssl), connection)
    }

    fn new(layer: Layer, ssl: Option<Arc<SslDigest>>, connection: Arc<Connection>) -> pingora_core::Result<Self> {
        let socket = SocketDigest::from_raw_fd(layer.raw().as_raw_fd());
        // Filled in now: later they would be asked of a file descriptor that may be somebody else's by then.
        let _ = socket.peer_addr.set(Some(PingoraAddr::Inet(connection.peer)));
        let _ = socket.local_addr.set(layer.raw().tcp().local_addr().ok().map(PingoraAddr::Inet));
        let _ = socket.original_dst.set(Some(PingoraAddr::Inet(connection.destination)));
        let about = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(connection)));
        Ok(Self {
            io: BufWriter::with_capacity(WRITE, layer),
            head: BytesMut::new(),
            extent: Extent::Open,
            about: Arc::new(about),
            socket: Arc::new(socket),
            ssl,
            established: SystemTime::now(),
        })
    }

    /// What is known of it.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        Connection::in_digest(&self.about)
    }

    /// What Pingora's HTTP/2 sessions carry.
    pub fn digest(&self) -> Digest {
        Digest {
            ssl_digest: self.ssl.clone(),
            timing_digest: self.get_timing_digest(),
            proxy_digest: Some(self.about.clone()),
            socket_digest: Some(self.socket.clone()),
        }
    }

    /// Waits for a request and reads its head; the bytes stay to be read.
    pub async fn head(&mut self, closing: &Closing) -> Head {
        self.extent = Extent::Open;
        if self.head.is_empty() {
            let first = tokio::select! {
                biased;
                first = timeout(IDLE, self.first()) => first,
                () = closing.drained() => return Head::Ended,
            };
            match first {
                Ok(Ok(n)) if n > 0 => {}
                _ => return Head::Ended,
            }
        }
        let deadline = Instant::now() + HEAD;
        let mut scan = Scan::default();
        loop {
            match scan.look(&self.head) {
                Some(Head::Complete) => {
                    self.extent = Extent::of(&self.head[..scan.at]);
                    return Head::Complete;
                }
                Some(head) => return head,
                None if self.head.len() >= MAX_HEAD => return Head::TooLarge,
                None => {}
            }
            self.head.reserve(READ.min(MAX_HEAD - self.head.len()));
            match timeout_at(deadline, self.io.get_mut().read_buf(&mut self.head)).await {
                Err(_) => return Head::Late,
                Ok(Ok(n)) if n > 0 => {}
                Ok(_) => return Head::Ended,
            }
        }
    }

    /// The first bytes, without holding a buffer while there are none.
    async fn first(&mut self) -> io::Result<usize> {
        let head = &mut self.head;
        match self.io.get_mut() {
            Layer::Plain(raw) if raw.seen().is_empty() => loop {
                raw.tcp().readable().await?;
                head.reserve(READ);
                match raw.tcp().try_read_buf(head) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => *head = BytesMut::new(),
                    result => return result,
                }
            },
            layer => {
                let mut one = [0; 1];
                let n = layer.read(&mut one).await?;
                head.extend_from_slice(&one[..n]);
                Ok(n)
            }
        }
    }

    /// Answers with raw bytes and ends the connection in an orderly way.
    pub async fn answer(mut self, response: &[u8]) {
        let (time, most) = LINGER;
        let _ = timeout(time, async {
            self.io.write_all(response).await?;
            self.io.flush().await?;
            self.io.shutdown().await?;
            let mut dropped = 0;
            let mut buffer = [0; 1024];
            while dropped < most {
                match self.io.get_mut().read(&mut buffer).await? {
                    0 => break,
                    n => dropped += n,
                }
            }
            io::Result::Ok(())
        })
        .await;
    }
}

impl Layer {
    fn raw(&self) -> &Raw {
        match self {
            Self::Plain(raw) => raw,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Layer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_read(cx, to),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, to),
        }
    }
}

impl AsyncWrite for Layer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write(cx, from),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write_vectored(cx, from),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Conn {
    /// The request is read: whether the client leaves is still to be known, what it sends is kept for the next request.
    fn poll_after(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.head.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = [0; 1024];
        let mut next = ReadBuf::new(&mut bytes);
        ready!(Pin::new(self.io.get_mut()).poll_read(cx, &mut next))?;
        if next.filled().is_empty() {
            crate::driver::client_ended();
            return Poll::Ready(Ok(()));
        }
        self.head.extend_from_slice(next.filled());
        Poll::Pending
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if crate::driver::is_late() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let Self { io, head, extent, .. } = &mut *self;
        if extent.is_over() {
            return self.poll_after(cx);
        }
        if !head.is_empty() {
            let most = head.len().min(to.remaining());
            let taken = extent.take(&head[..most]);
            to.put_slice(&head.split_to(taken));
            if head.is_empty() {
                *head = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let io = Pin::new(io.get_mut());
        match extent {
            Extent::Open => io.poll_read(cx, to),
            Extent::Bytes(left) => {
                let mut part = ReadBuf::new(to.initialize_unfilled_to((*left).min(to.remaining())));
                ready!(io.poll_read(cx, &mut part))?;
                let read = part.filled().len();
                *left -= read;
                to.advance(read);
                Poll::Ready(Ok(()))
            }
            Extent::Chunks(..) => {
                let before = to.filled().len();
                ready!(io.poll_read(cx, to))?;
                let taken = before + extent.take(&to.filled()[before..]);
                head.extend_from_slice(&to.filled()[taken..]);
                to.set_filled(taken);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shutdown for Conn {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody to tell.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl AsRawFd for Conn {
    fn as_raw_fd(&self) -> RawFd {
        self.io.get_ref().raw().as_raw_fd()
    }
}

impl UniqueID for Conn {
    fn id(&self) -> UniqueIDType {
        self.as_raw_fd()
    }
}

impl Ssl for Conn {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.ssl.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.io.get_ref() {
            Layer::Plain(_) => None,
            Layer::Tls(tls) => match tls.get_ref().1.alpn_protocol()? {
                b"h2" => Some(ALPN::H2),
                b"http/1.1" => Some(ALPN::H1),
                _ => None,
            },
        }
    }
}

impl GetTimingDigest for Conn {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.established, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Conn {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.about.clone())
    }
}

impl GetSocketDigest for Conn {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Conn {}

#[cfg(test)]
mod tests;
