//! Copying both ways: each side's end is passed on alone, silence of both ends it, and bytes are counted whatever happens.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};

/// Bytes on their way in each direction.
const BUFFER: usize = 16 * 1024;

/// What was copied.
#[derive(Debug, Default)]
pub struct Bytes {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Bytes {
    /// From the caller to the endpoint.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From the endpoint to the caller.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn both(&self) -> u64 {
        self.sent() + self.received()
    }
}

/// Copies until both sides have ended, one fails, or neither says anything for `idle`.
pub async fn both<A, B>(caller: A, endpoint: B, bytes: &Bytes, idle: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut caller = Counted { io: caller, read: &bytes.sent };
    let mut endpoint = Counted { io: endpoint, read: &bytes.received };
    let copy = copy_bidirectional_with_sizes(&mut caller, &mut endpoint, BUFFER, BUFFER);
    tokio::select! {
        biased;
        result = copy => result.map(drop),
        () = silence(bytes, idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Resolves once nothing has been read for a whole period: one timer a period instead of one a read.
async fn silence(bytes: &Bytes, idle: Duration) {
    let mut before = bytes.both();
    loop {
        sleep_until(Instant::now() + idle).await;
        let now = bytes.both();
        if now == before {
            return;
        }
        before = now;
    }
}

struct Counted<'a, S> {
    io: S,
    read: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, to))?;
        self.read.fetch_add((to.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
