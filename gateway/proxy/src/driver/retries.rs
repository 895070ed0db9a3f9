//! Whether a failed attempt is tried again. One proxy owns the retries of a request: the first that it meets.
//!
//! ```text
//! cause      nothing sent (connect, refused stream, a fellow's "nothing reached the application")   any method
//!            a kept connection had ended                                                             idempotent
//!            perhaps sent (reset, time-out, status)                                                  idempotent, or methods: All
//! limit      without a retry setting: one more try, and only where nothing was sent; attempts: 0: none
//! then       body still at hand, time left, budget of the backend
//! ```

use super::context::Context;
use super::{fail, leash};
use crate::observe::labels::{Attempt as Outcome, Retry};
use crate::state::balance::{EndpointState, InFlight};
use http::Method;
use pingora_core::{Error, ErrorSource, ErrorType, RetryType};
use pingora_proxy::Session;
use rand::RngExt;
use selvage_policy::traffic::{Budget, RetryMethods};
use selvage_policy::{Denial, Reason};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The least wait before a configured retry, where it says none.
const BACKOFF: Duration = Duration::from_millis(25);
/// However often it doubles.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Attempts begun.
    pub(super) made: u32,
    /// Their addresses.
    pub(super) tried: SmallVec<[SocketAddr; 4]>,
    /// The endpoint of the next attempt, where it is chosen already.
    pub(super) next: Option<Arc<EndpointState>>,
    /// The endpoint tried last.
    pub(super) last: Option<Arc<EndpointState>>,
    /// The attempt under way.
    pub(super) current: Option<InFlight>,
    /// Wait before the next one.
    pub(super) wait: Duration,
    /// Endpoints without a sidecar whose guards have been asked: two may be those of different Services.
    pub(super) guarded: SmallVec<[SocketAddr; 2]>,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// No connection: nothing was sent.
    Connect,
    /// A pooled connection had ended before it carried anything, or a fellow says that nothing reached the application.
    Unreached,
    /// This status.
    Status(u16),
    /// No answer in time.
    TimedOut,
    /// Broken off.
    Reset,
}

impl Tries {
    /// Notes how the attempt under way ended.
    pub(super) fn finish(&mut self, outcome: Result<(), ()>) {
        if let Some(mut current) = self.current.take() {
            current.answered(outcome);
        }
    }
}

/// Decides about another attempt, and counts what was decided.
pub(super) fn again(session: &Session, ctx: &mut Context, cause: Cause) -> bool {
    match wish(session, ctx, cause) {
        None => false,
        Some(outcome) => {
            ctx.shared.metrics.upstream.retry(outcome);
            outcome == Retry::Made
        }
    }
}

/// What becomes of the wish to try again; `None` where nobody wishes.
fn wish(session: &Session, ctx: &mut Context, cause: Cause) -> Option<Retry> {
    let configured = ctx.settings.attempts.is_some() || ctx.settings.codes.is_some();
    let nothing_sent = matches!(cause, Cause::Connect | Cause::Unreached);
    let wanted = nothing_sent
        || match cause {
            Cause::Status(status) => ctx.settings.codes.as_ref().is_some_and(|codes| codes.contains(&status)),
            _ => configured,
        };
    if !wanted || ctx.answered || ctx.settings.attempts == Some(0) {
        return None;
    }
    if ctx.told.owns_retries {
        return Some(Retry::NotOwner);
    }
    let limit = if configured { ctx.settings.attempts.unwrap_or(1) } else { 1 };
    if ctx.tries.made > limit {
        return Some(Retry::Exhausted);
    }
    let repeatable = nothing_sent || ctx.settings.methods == Some(RetryMethods::All) || is_idempotent(&session.req_header().method);
    if !repeatable || session.as_ref().retry_buffer_truncated() {
        return Some(Retry::NotRepeatable);
    }
    let wait =
        if configured { backoff(ctx.settings.backoff.unwrap_or(BACKOFF), ctx.tries.made, rand::rng().random()) } else { Duration::ZERO };
    if ctx.left().is_some_and(|left| left <= wait) {
        return Some(Retry::Exhausted);
    }
    let backend = ctx.chosen().and_then(|chosen| chosen.backend.clone());
    let budget = ctx.settings.budget.unwrap_or(Budget::DEFAULT);
    if backend.is_some_and(|backend| !backend.retries.try_retry(budget, crate::state::clock::now())) {
        return Some(Retry::BudgetExhausted);
    }
    ctx.tries.wait = wait;
    Some(Retry::Made)
}

/// Doubles with each attempt; up to half as much again at random, so that callers do not come back together.
fn backoff(least: Duration, made: u32, random: u32) -> Duration {
    let doubled = least.saturating_mul(1 << made.saturating_sub(1).min(16)).min(MAX_BACKOFF);
    doubled + doubled.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

/// No connection was made.
pub(super) fn connect_failed(session: &Session, ctx: &mut Context, mut error: Box<Error>) -> Box<Error> {
    ctx.tries.finish(Err(()));
    ctx.shared.metrics.upstream.attempt(Outcome::ConnectFailed);
    error.retry = again(session, ctx, Cause::Connect).into();
    error
}

/// The attempt failed after a connection was there.
pub(super) fn attempt_failed(session: &Session, ctx: &mut Context, mut error: Box<Error>, reused: bool) -> Box<Error> {
    let is_late = leash::head_ended();
    if fail::is_retry(&error) {
        return error;
    }
    let stale = error.retry == RetryType::ReusedOnly && reused && is_idempotent(&session.req_header().method);
    // A stream that was refused or came after GOAWAY was not processed (RFC 9113 section 8.7); one that was answered with nonsense may have been.
    let refused = error.retry == RetryType::Decided(true) && error.etype() != &ErrorType::InvalidH2;
    error.retry = false.into();
    if error.esource() != &ErrorSource::Upstream && !is_late {
        return error;
    }
    let (cause, outcome) = match error.etype() {
        _ if is_late => (Cause::TimedOut, Outcome::TimedOut),
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => (Cause::TimedOut, Outcome::TimedOut),
        _ if (stale || refused) && !ctx.answered => (Cause::Unreached, Outcome::Reset),
        _ => (Cause::Reset, Outcome::Reset),
    };
    if cause == Cause::Unreached {
        ctx.reached = ctx.reached.saturating_sub(1);
    }
    if !ctx.answered {
        ctx.tries.finish(Err(()));
        ctx.shared.metrics.upstream.attempt(outcome);
    }
    let again = again(session, ctx, cause);
    if is_late && !again {
        return fail::denied(ctx, Denial::of(Reason::UpstreamTimeout, "the backend did not answer in time"));
    }
    error.retry = again.into();
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_and_end_somewhere() {
        let least = Duration::from_millis(100);
        for (made, floor) in [(1, 100), (2, 200), (3, 400), (4, 800), (11, 10_000), (99, 10_000)] {
            assert_eq!(backoff(least, made, 0), Duration::from_millis(floor), "{made}");
            assert_eq!(backoff(least, made, u32::MAX), Duration::from_millis(floor * 3 / 2), "{made}");
        }
    }

    #[test]
    fn only_safe_and_repeatable_methods_are_idempotent() {
        for (method, expected) in [("GET", true), ("PUT", true), ("DELETE", true), ("POST", false), ("PATCH", false), ("LOCK", false)] {
            assert_eq!(is_idempotent(&method.parse().unwrap()), expected, "{method}");
        }
    }
}
