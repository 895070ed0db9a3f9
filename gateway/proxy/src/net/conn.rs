//! The connection that HTTP runs on: ours below, Pingora's traits above.
//!
//! Pingora bounds single reads only, so what bounds a connection as a whole is here: how long it may idle between requests, and how
//! long and how large a request head may be. The head is read completely before Pingora sees any of it.

use super::closing::Closing;
use super::detect::{Spoken, classify};
use super::raw::{Raw, take};
use crate::connection::Connection;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_http::ResponseHeader;
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
    /// Bytes of this request that may still be read; what follows belongs to the next one, and Pingora breaks a request off over bytes after
    /// its end. Absent: as many as come, because only they tell where it ends (chunks, upgrades).
    left: Option<usize>,
    about: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    ssl: Option<Arc<SslDigest>>,
    established: SystemTime,
}

impl Conn {
    /// A plain connection.
    pub fn plain(raw: Raw, connection: Connection) -> pingora_core::Result<Self> {
        Self::new(Layer::Plain(raw), None, connection)
    }

    /// A connection inside TLS.
    pub fn tls(tls: TlsStream<Raw>, connection: Connection) -> pingora_core::Result<Self> {
        let session = tls.get_ref().1;
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let ssl = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        Self::new(Layer::Tls(Box::new(tls)), Some(ssl), connection)
    }

    fn new(layer: Layer, ssl: Option<Arc<SslDigest>>, connection: Connection) -> pingora_core::Result<Self> {
        let socket = SocketDigest::from_raw_fd(layer.raw().as_raw_fd());
        // Filled in now: later they would be asked of a file descriptor that may be somebody else's by then.
        let _ = socket.peer_addr.set(Some(PingoraAddr::Inet(connection.peer)));
        let _ = socket.local_addr.set(layer.raw().tcp().local_addr().ok().map(PingoraAddr::Inet));
        let _ = socket.original_dst.set(Some(PingoraAddr::Inet(connection.destination)));
        let about = ProxyDigest::new(Box::new(ResponseHeader::build(200, Some(0))?), Some(Box::new(connection)));
        Ok(Self {
            io: BufWriter::with_capacity(WRITE, layer),
            head: BytesMut::new(),
            left: None,
            about: Arc::new(about),
            socket: Arc::new(socket),
            ssl,
            established: SystemTime::now(),
        })
    }

    /// What is known of it.
    pub fn connection(&self) -> Option<&Connection> {
        self.about.user_data.as_ref()?.downcast_ref()
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
        self.left = None;
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
                    self.left = extent(&self.head[..scan.at]);
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

/// Finds the end of a head step by step, never looking at a byte twice.
#[derive(Default)]
struct Scan {
    at: usize,
    lines: usize,
    request_line: bool,
}

impl Scan {
    fn look(&mut self, head: &[u8]) -> Option<Head> {
        // Empty lines before a request are allowed (RFC 9112 section 2.2); a few, not a stream of them.
        let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
        if start > 16 {
            return Some(Head::Malformed);
        }
        if !self.request_line {
            match classify(&head[start..]) {
                None => return None,
                Some(Spoken::Http1) => self.request_line = true,
                Some(_) => return Some(Head::Malformed),
            }
        }
        self.at = self.at.max(start);
        while let Some(offset) = head[self.at..].iter().position(|byte| *byte == b'\n') {
            let after = self.at + offset + 1;
            match head[after..] {
                [first @ b'\n', ..] | [first @ b'\r', b'\n', ..] => {
                    self.at = after + if first == b'\n' { 1 } else { 2 };
                    return Some(if self.lines > MAX_FIELDS { Head::TooLarge } else { Head::Complete });
                }
                // The next bytes decide; look at this line end again.
                [] | [b'\r'] => {
                    self.at = after - 1;
                    return None;
                }
                _ => {
                    self.at = after;
                    self.lines += 1;
                    if self.lines > MAX_FIELDS {
                        return Some(Head::TooLarge);
                    }
                }
            }
        }
        self.at = head.len();
        None
    }
}

/// How many bytes the request with this head has, where its head says so without doubt.
fn extent(head: &[u8]) -> Option<usize> {
    let mut length = None;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let is = |known: &str| name.trim_ascii().eq_ignore_ascii_case(known.as_bytes());
        if matches!(line, [b' ' | b'\t', ..]) || is("transfer-encoding") || is("upgrade") || (is("content-length") && length.is_some()) {
            return None;
        }
        if is("content-length") {
            length = Some(std::str::from_utf8(value.get(1..)?).ok()?.trim().parse::<usize>().ok()?);
        }
    }
    head.len().checked_add(length.unwrap_or(0))
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
            return Poll::Ready(Ok(()));
        }
        self.head.extend_from_slice(next.filled());
        Poll::Pending
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(left) = self.left else {
            if self.head.is_empty() {
                return Pin::new(self.io.get_mut()).poll_read(cx, to);
            }
            take(&mut self.head, to);
            return Poll::Ready(Ok(()));
        };
        if left == 0 {
            return self.poll_after(cx);
        }
        let most = left.min(to.remaining());
        let read = if self.head.is_empty() {
            let mut part = ReadBuf::new(to.initialize_unfilled_to(most));
            ready!(Pin::new(self.io.get_mut()).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            to.advance(read);
            read
        } else {
            let read = most.min(self.head.len());
            to.put_slice(&self.head.split_to(read));
            read
        };
        self.left = Some(left - read);
        Poll::Ready(Ok(()))
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
