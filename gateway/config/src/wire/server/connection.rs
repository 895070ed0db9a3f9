//! How many connections there are and from where, and what becomes of one that carries no stream.
//!
//! ```text
//! accept ──► Place ──► TLS ──► Connection { Peer } ──► each stream is Carried
//!              │                    │ none for too long: cut
//!              └── given back ◄─────┘
//! ```

use parking_lot::Mutex;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// The connections there may be, those whose handshake is under way included.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    of_one_address: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Places {
    pub(super) fn new(all: usize, of_one_address: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one_address, taken: Mutex::default() })
    }

    /// A place for a connection from `address`, if there is one.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let (all, of_this) = (taken.values().sum::<usize>(), taken.get(&address).copied().unwrap_or_default());
        if all >= self.all || of_this >= self.of_one_address {
            return None;
        }
        taken.insert(address, of_this + 1);
        Some(Place { places: self.clone(), address })
    }
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// The other side of a connection, as its requests know it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    streams: watch::Sender<usize>,
}

impl Peer {
    /// One more stream of this connection, until it is dropped.
    pub(super) fn carry(&self) -> Carried {
        self.streams.send_modify(|streams| *streams += 1);
        Carried(self.streams.clone())
    }
}

/// A stream that keeps its connection.
#[derive(Debug)]
pub(super) struct Carried(watch::Sender<usize>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.send_modify(|streams| *streams -= 1);
    }
}

/// A TLS connection that ends when nobody has a stream on it for too long.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Place,
}

impl Connection {
    /// The connection, and what has to run as long as it: it may be without a stream for `patience`.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        place: Place,
        patience: Duration,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (streams, seen) = watch::channel(0);
        let cut = CancellationToken::new();
        let peer = Peer { address, streams };
        let connection = Self { stream, peer, cut: Box::pin(cut.clone().cancelled_owned()), _place: place };
        (connection, watch_over(seen, patience, cut))
    }

    fn cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody has a stream on this connection")),
            Poll::Pending => Ok(()),
        }
    }
}

/// Ends with the connection.
async fn watch_over(mut streams: watch::Receiver<usize>, patience: Duration, cut: CancellationToken) {
    loop {
        match tokio::time::timeout(patience, streams.wait_for(|streams| *streams > 0)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
            Err(_) => return cut.cancel(),
        }
        if streams.wait_for(|streams| *streams == 0).await.is_err() {
            return;
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.cut(context)?;
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.cut(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_given_back() {
        let places = Places::new(3, 2);
        let [one, other] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
        let taken = [one, one, one, other, other].map(|address| places.take(address));
        assert_eq!(taken.each_ref().map(Option::is_some), [true, true, false, true, false]);
        drop(taken);
        assert!(places.taken.lock().is_empty());
        assert!(places.take(one).is_some());
    }
}
