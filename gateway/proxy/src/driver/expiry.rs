//! Ends a request whose deadline passes after its response has begun.
//!
//! Until response headers Pingora's read timeout answers 504. Afterwards there is nothing left to answer: the stream is reset by dropping
//! the whole request, which closes an HTTP/1.1 connection and resets an HTTP/2 stream on both sides.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::time::{Instant, Sleep, sleep_until};

tokio::task_local! {
    static EXPIRY: Cell<Option<Instant>>;
}

/// Runs one request (`HttpProxy::process_new_http`); `None` if its deadline ended it. Costs nothing while no deadline is set.
pub async fn within_deadline<T>(request: impl Future<Output = Option<T>>) -> Option<T> {
    let guarded = async {
        let mut request = pin!(request);
        let mut timer: Option<(Instant, Pin<Box<Sleep>>)> = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = request.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            let Some(at) = EXPIRY.with(Cell::get) else { return Poll::Pending };
            let (set, sleep) = timer.get_or_insert_with(|| (at, Box::pin(sleep_until(at))));
            if *set != at {
                (*set, *sleep) = (at, Box::pin(sleep_until(at)));
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    };
    EXPIRY.scope(Cell::new(None), guarded).await
}

/// Arms the timer of the request that runs now.
pub(super) fn arm(at: std::time::Instant) {
    // Outside of `within_deadline` (a test's own loop) the read timeout is all there is.
    let _ = EXPIRY.try_with(|expiry| expiry.set(Some(at.into())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_request_ends_at_its_deadline_and_not_before() {
        let armed = within_deadline(async {
            arm((Instant::now() + Duration::from_millis(100)).into_std());
            tokio::time::sleep(Duration::from_secs(10)).await;
            Some("late")
        });
        let began = Instant::now();
        assert_eq!(armed.await, None);
        assert!((100..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        let unarmed = within_deadline(async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            Some("in time")
        });
        assert_eq!(unarmed.await, Some("in time"));
    }
}
