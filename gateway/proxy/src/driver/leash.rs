//! Ends a request from outside of Pingora: its deadline passes after its response has begun, its body comes too slowly, its client has ended
//! its side and the response does not come, or the configuration no longer lets it in.
//!
//! Until response headers there is something left to answer. An attempt whose head is late ends with an error that the client's own connection
//! raises ([`is_late`]), so that it is tried again or answered 504; where Pingora reads nothing from the client meanwhile (HTTP/2), its read
//! timeout does that for a backend that says nothing at all, and a head that trickles in is cut off a little later. Whose permission is gone gets
//! 403 instead of the response ([`permitted`]).
//! Afterwards the stream is reset by dropping the whole request, which closes an HTTP/1.1 connection and resets an HTTP/2 stream on both
//! sides.

use super::context::Context;
use super::fail;
use crate::permit::Withdrawal;
use pingora_core::Result;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A request that has lost its permission is refused when its response comes, or the next part of its body; the response has this long.
const LAST_CHANCE: Duration = Duration::from_secs(5);
/// A head that is late and has not been answered for is cut off so long after its time.
const HEAD_GRACE: Duration = Duration::from_secs(1);

tokio::task_local! {
    static LEASH: Leash;
}

/// What ends the request that runs now.
#[derive(Default)]
struct Leash {
    expiry: Cell<Option<Instant>>,
    pace: Cell<Option<Instant>>,
    /// Until when the head of the attempt's response must have come.
    head: Cell<Option<Instant>>,
    /// It has not.
    late: Cell<bool>,
    /// Once the client has ended its side: until when the response may begin.
    abandoned: Cell<Option<Instant>>,
    /// How long that is.
    patience: Duration,
    withdrawal: RefCell<Option<Arc<Withdrawal>>>,
    /// Set once its permission is seen to be gone.
    withdrawn: Cell<Option<Instant>>,
    /// The response has begun: a refusal comes too late.
    answered: Cell<bool>,
}

/// Runs one request (`HttpProxy::process_new_http`); `None` if it was ended. `patience` is for its response to begin once its client has ended its
/// side. Costs nothing while there is nothing to end it for.
pub async fn on_leash<T>(patience: Duration, request: impl Future<Output = Option<T>>) -> Option<T> {
    let guarded = async {
        let mut request = pin!(request);
        let mut timer: Option<(Instant, Pin<Box<Sleep>>)> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = request.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            LEASH.with(|leash| {
                let withdrawn = leash.withdrawal.borrow().as_ref().is_some_and(|withdrawal| withdrawal.poll(cx).is_ready());
                if withdrawn && leash.answered.get() {
                    return Poll::Ready(None);
                }
                if withdrawn && leash.withdrawn.get().is_none() {
                    leash.withdrawn.set(Some(Instant::now() + LAST_CHANCE));
                }
                if leash.head.get().is_some_and(|at| at <= Instant::now()) {
                    if leash.late.replace(true) {
                        return Poll::Ready(None);
                    }
                    leash.head.set(Some(Instant::now() + HEAD_GRACE));
                    // Polled again, the client's connection says so.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let abandoned = leash.abandoned.get().filter(|_| !leash.answered.get());
                let ends = [leash.expiry.get(), leash.pace.get(), leash.withdrawn.get(), leash.head.get(), abandoned];
                let Some(at) = ends.into_iter().flatten().min() else { return Poll::Pending };
                let (set, sleep) = timer.get_or_insert_with(|| (at, Box::pin(sleep_until(at))));
                if *set != at {
                    (*set, *sleep) = (at, Box::pin(sleep_until(at)));
                }
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if leash.head.get() == Some(at) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(None)
            })
        })
        .await
    };
    LEASH.scope(Leash { patience, ..Leash::default() }, guarded).await
}

/// An error, and so a refusal, where the permission of a request that has no response yet is gone.
pub(super) fn permitted(ctx: &mut Context) -> Result<()> {
    match ctx.permit.as_ref().and_then(|permit| permit.withdrawal().denial()).cloned() {
        Some(denial) if !ctx.answered => Err(fail::denied(ctx, denial)),
        Some(_) | None => Ok(()),
    }
}

/// The response begins.
pub(super) fn answered() {
    let _ = LEASH.try_with(|leash| leash.answered.set(true));
}

/// The client of the request that runs now has ended its side.
pub fn client_ended() {
    let _ = LEASH.try_with(|leash| {
        let until = leash.abandoned.get().unwrap_or_else(|| Instant::now() + leash.patience);
        leash.abandoned.set(Some(until));
    });
}

/// Ends the request that runs now at this time.
pub(super) fn arm(at: std::time::Instant) {
    // Outside of `on_leash` (a test's own loop) the read timeout is all there is.
    let _ = LEASH.try_with(|leash| leash.expiry.set(Some(at.into())));
}

/// An attempt begins whose response head must come by this time.
pub(super) fn await_head(until: Option<std::time::Instant>) {
    let _ = LEASH.try_with(|leash| {
        leash.head.set(until.map(Into::into));
        leash.late.set(false);
    });
}

/// The attempt is over, or has its head; whether that was late.
pub(super) fn head_ended() -> bool {
    LEASH
        .try_with(|leash| {
            leash.head.set(None);
            leash.late.replace(false)
        })
        .unwrap_or(false)
}

/// Whether the head of the response that is awaited now is late.
pub fn is_late() -> bool {
    LEASH.try_with(|leash| leash.late.get()).unwrap_or(false)
}

/// Ends the request that runs now unless more of its body comes by this time.
pub(super) fn pace(until: Option<std::time::Instant>) {
    let _ = LEASH.try_with(|leash| leash.pace.set(until.map(Into::into)));
}

/// Ends the request that runs now when its permission is withdrawn: at once if its response has begun, otherwise after a last chance to
/// refuse it.
pub(super) fn hold(withdrawal: &Arc<Withdrawal>) {
    let _ = LEASH.try_with(|leash| leash.withdrawal.replace(Some(withdrawal.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_ends_at_its_deadline_and_not_before() {
        let armed = on_leash(Duration::ZERO, async {
            arm((Instant::now() + Duration::from_millis(100)).into_std());
            tokio::time::sleep(Duration::from_secs(10)).await;
            Some("late")
        });
        let began = Instant::now();
        assert_eq!(armed.await, None);
        assert!((100..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        let unarmed = on_leash(Duration::ZERO, async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            Some("in time")
        });
        assert_eq!(unarmed.await, Some("in time"));
    }
}
