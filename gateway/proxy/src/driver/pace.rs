//! How fast a request body must come: whoever sends a byte now and then holds a connection to the backend for it.
//!
//! ```text
//! HTTP/1.x      every body (an upgrade has none)         too slow: 408
//! HTTP/2        a body with a declared length            too slow: the stream is reset
//!               gRPC, and bodies without a length        streams: they may be silent, as their callers mean them to be
//! ```
//!
//! Time runs from the attempt's connection on, the wait for `100 Continue` excepted. Only strangers are held to it: what an application
//! sends through its own proxy, or a fellow proxy sends on, is as slow as it is meant to be.

use super::context::Context;
use super::hygiene::Standing;
use super::leash;
use http::header::CONTENT_LENGTH;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use selvage_policy::refusal::Caller;
use std::time::{Duration, Instant};

/// For a body to begin, and for pauses: a phone that changes cells is back by then.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// Bytes a second on the average, the grace aside: less than the slowest mobile network gives.
pub(super) const RATE: u32 = 500;
/// One read, however much was sent before.
const READ: Duration = crate::net::http::TRANSFER;

/// A body that must come at a pace.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    bytes: u64,
}

/// A connection to the backend is there: the body is awaited.
pub(super) fn begin(session: &mut Session, ctx: &mut Context) {
    ctx.pace = None;
    let stream = session.is_http2() && (ctx.head.caller() == Caller::Grpc || !session.req_header().headers.contains_key(CONTENT_LENGTH));
    if ctx.standing != Standing::Stranger || stream || ctx.head.upgrade || session.is_body_done() {
        return;
    }
    ctx.pace = Some(Pace { began: Instant::now(), bytes: 0 });
    if !ctx.head.expects {
        wait(session, ctx);
    }
}

/// A part of the body has come; an error where it all comes too slowly.
pub(super) fn came(session: &mut Session, ctx: &mut Context, bytes: usize, end: bool) -> Result<()> {
    let Some(pace) = &mut ctx.pace else { return Ok(()) };
    if end {
        ctx.pace = None;
        leash::pace(None);
        return Ok(());
    }
    if pace.bytes == 0 && ctx.head.expects {
        pace.began = Instant::now();
    }
    pace.bytes += bytes as u64;
    if is_late(ctx) {
        return Err(Error::create(ErrorType::ReadTimedout, ErrorSource::Downstream, None, None));
    }
    wait(session, ctx);
    Ok(())
}

/// Whether the body should have come by now.
pub(super) fn is_late(ctx: &Context) -> bool {
    ctx.pace.as_ref().is_some_and(|pace| pace.until(ctx) <= Instant::now())
}

impl Pace {
    /// Until when what has come is enough.
    fn until(&self, ctx: &Context) -> Instant {
        let options = &ctx.shared.options;
        self.began + options.body_grace + Duration::from_millis(self.bytes.saturating_mul(1000) / u64::from(options.body_rate.max(1)))
    }
}

fn wait(session: &mut Session, ctx: &Context) {
    let Some(pace) = &ctx.pace else { return };
    let until = pace.until(ctx);
    if session.is_http2() {
        leash::pace(Some(until));
    } else {
        session.as_downstream_mut().set_read_timeout(Some(until.saturating_duration_since(Instant::now()).min(READ)));
    }
}
