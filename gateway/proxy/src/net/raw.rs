//! The accepted socket, with the bytes that detection has read put back in front.

use bytes::BytesMut;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// A connection whose first bytes can be looked at and read again.
#[derive(Debug)]
pub struct Raw<S = TcpStream> {
    io: S,
    seen: BytesMut,
}

impl<S> Raw<S> {
    /// Nothing has been looked at yet.
    pub fn new(io: S) -> Self {
        Self { io, seen: BytesMut::new() }
    }

    /// What has been looked at and not yet been read.
    pub fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Looks further; 0 is the end. Safe to cancel: nothing is lost.
    pub async fn look(&mut self) -> io::Result<usize>
    where
        S: AsyncRead + Unpin,
    {
        self.io.read_buf(&mut self.seen).await
    }
}

impl Raw {
    /// The socket itself.
    pub fn tcp(&self) -> &TcpStream {
        &self.io
    }
}

/// A connection that can be made to end so that its peer sees a failure instead of an orderly end.
pub trait Abrupt {
    /// When it is dropped, the peer gets a reset.
    fn reset_on_drop(&self);
}

impl Abrupt for TcpStream {
    fn reset_on_drop(&self) {
        // Where it fails the connection ends in order, which is as good as we can do.
        let _ = self.set_zero_linger();
    }
}

impl<S: Abrupt> Abrupt for Raw<S> {
    fn reset_on_drop(&self) {
        self.io.reset_on_drop();
    }
}

impl<S: Abrupt> Abrupt for TlsStream<S> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

impl<S: Abrupt> Abrupt for tokio_rustls::client::TlsStream<S> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

/// A connection whose peer gets a reset when it is dropped, unless it has ended before.
pub struct Breaking<S: Abrupt> {
    /// It.
    pub io: S,
    has_ended: bool,
}

impl<S: Abrupt> Breaking<S> {
    /// It has not ended yet.
    pub fn new(io: S) -> Self {
        Self { io, has_ended: false }
    }

    /// Both sides have ended it in order.
    pub fn ended(&mut self) {
        self.has_ended = true;
    }
}

impl<S: Abrupt> Drop for Breaking<S> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.io.reset_on_drop();
        }
    }
}

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.io.as_raw_fd()
    }
}

/// Moves what fits from `from` to `to` and frees `from` once it is empty.
fn take(from: &mut BytesMut, to: &mut ReadBuf<'_>) {
    let n = from.len().min(to.remaining());
    to.put_slice(&from.split_to(n));
    if from.is_empty() {
        *from = BytesMut::new();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Raw<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, to);
        }
        take(&mut self.seen, to);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Raw<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
