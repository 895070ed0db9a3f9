//! What was let in and is still under way, so that it ends when the configuration no longer lets it in.
//!
//! ```text
//! let in ──issue──> Permit (held by the exchange)     swap ──review──> guards changed? ──asked again──> denied: withdrawn, it ends
//!                     └─ its facts, on its connection's list ──────────────┘
//! ```
//!
//! A stream of a day was let in by the guards of that day's morning. With each Snapshot those are asked again whose listener, routes
//! or target have other guards than before; nothing is counted again. What the new configuration merely routes elsewhere lives on; what no
//! listener takes any more has a while to finish.

mod facts;
#[cfg(test)]
mod tests;

pub use facts::{Facts, HttpFacts, TargetFacts};

use crate::connection::Connection;
use crate::snapshot::{Listener, Snapshot};
use arc_swap::ArcSwap;
use facts::Asked;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use selvage_policy::{Denial, Reason};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// What the caller of an exchange that is ended hears and the log says.
const DETAIL: &str = "The configuration changed, and a policy refuses this exchange now.";
/// The same where nobody refuses it.
const GONE: &str = "The configuration changed, and no listener takes this exchange any more.";

/// The permission of one exchange (a request, or an opaque connection), which holds it until it ends.
#[derive(Debug)]
pub struct Permit {
    connection: Arc<Connection>,
    withdrawal: Arc<Withdrawal>,
}

/// Tells an exchange that its permission is gone.
#[derive(Debug, Default)]
pub struct Withdrawal {
    denial: OnceLock<Denial>,
    waker: AtomicWaker,
}

/// The permissions on one connection.
#[derive(Debug)]
pub struct Permits {
    held: Mutex<Vec<Held>>,
    /// What is left to an exchange whose listener is gone.
    linger: Duration,
}

/// One permission, as the review sees it.
#[derive(Debug)]
struct Held {
    facts: Facts,
    /// As of the last time it was asked.
    listener: Arc<Listener>,
    withdrawal: Arc<Withdrawal>,
    /// Withdraws it after a while: its listener is gone.
    leaving: Option<AbortOnDropHandle<()>>,
}

impl Permits {
    /// None yet.
    pub fn new(linger: Duration) -> Self {
        Self { held: Mutex::default(), linger }
    }
}

impl Permit {
    /// Notes what `seen` has let in on `connection`. If another Snapshot is in force by now, it is asked at once.
    pub fn issue(connection: &Arc<Connection>, listener: Arc<Listener>, facts: Facts, seen: u64, current: &ArcSwap<Snapshot>) -> Self {
        let withdrawal = Arc::new(Withdrawal::default());
        connection.permits.held.lock().push(Held { facts, listener, withdrawal: withdrawal.clone(), leaving: None });
        // A review that came before the line above has not seen it; the Snapshot it was for has been in force since before that.
        let now = current.load();
        if now.generation != seen {
            connection.review(&now);
        }
        Self { connection: connection.clone(), withdrawal }
    }

    /// The guards of a target have let it pass too.
    pub fn aim(&self, target: TargetFacts, seen: &Snapshot, current: &ArcSwap<Snapshot>) {
        if let Some(held) = self.connection.permits.held.lock().iter_mut().find(|held| Arc::ptr_eq(&held.withdrawal, &self.withdrawal)) {
            held.facts.target = Some(target);
        }
        let now = current.load();
        if now.generation != seen.generation {
            self.connection.review(&now);
        }
    }

    /// What tells of its end.
    pub fn withdrawal(&self) -> &Arc<Withdrawal> {
        &self.withdrawal
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut held = self.connection.permits.held.lock();
        if let Some(at) = held.iter().position(|held| Arc::ptr_eq(&held.withdrawal, &self.withdrawal)) {
            held.swap_remove(at);
        }
    }
}

impl Withdrawal {
    /// Why it was withdrawn, if it was.
    pub fn denial(&self) -> Option<&Denial> {
        self.denial.get()
    }

    /// Ready once it is withdrawn.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.denial.get().is_none() {
            self.waker.register(cx.waker());
        }
        // Looked at again: it may have been withdrawn just before the waker was there.
        if self.denial.get().is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Resolves once it is withdrawn.
    pub async fn withdrawn(&self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn withdraw(&self, because: Denial) {
        // Whoever was first has said why.
        let _ = self.denial.set(because);
        self.waker.wake();
    }

    async fn withdraw_after(self: Arc<Self>, linger: Duration) {
        sleep(linger).await;
        self.withdraw(Denial::of(Reason::PolicyChanged, GONE));
    }
}

impl Connection {
    /// Asks the guards of what is under way on it, where they changed; what they refuse now is told to end.
    pub fn review(&self, snapshot: &Snapshot) {
        for held in self.permits.held.lock().iter_mut().filter(|held| held.withdrawal.denial().is_none()) {
            // A fault of ours in here must neither stop the reviews nor let anything pass.
            let asked = catch_unwind(AssertUnwindSafe(|| held.facts.ask(self, &mut held.listener, snapshot)));
            match asked.unwrap_or_else(|_| Asked::Refused(Denial::of(Reason::PolicyError, DETAIL))) {
                Asked::Allowed => held.leaving = None,
                // Policy and rule are those that refuse now; the reason says that it was let in before.
                Asked::Refused(denial) => {
                    held.withdrawal.withdraw(Denial { reason: Reason::PolicyChanged, detail: DETAIL.into(), retry_after: None, ..denial });
                }
                Asked::Homeless => {
                    let leave = || AbortOnDropHandle::new(tokio::spawn(held.withdrawal.clone().withdraw_after(self.permits.linger)));
                    held.leaving.get_or_insert_with(leave);
                }
            }
        }
    }
}
