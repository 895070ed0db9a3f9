//! How a connection is asked to end: first gently, then at once.

use tokio_util::sync::CancellationToken;

/// A two-step end, inherited from the proxy by its sockets and from those by their connections.
#[derive(Clone, Debug, Default)]
pub struct Closing {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Closing {
    /// One that also ends when `self` does.
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), abort: self.abort.child_token() }
    }

    /// Finish what is under way, begin nothing new.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// End now.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Whether the end has been asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when the end is asked for.
    pub async fn drained(&self) {
        self.drain.cancelled().await;
    }

    /// Resolves when the time is over.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }
}
