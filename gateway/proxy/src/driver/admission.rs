//! From the head to the decision: canonical head, hygiene, names, then the one sequence of decisions that `explain` shares.

use super::context::{Context, Way};
use super::{fail, head, hygiene, respond, trace};
use crate::connection::Connection;
use crate::snapshot::decide::{self, Arrival, Next};
use http::HeaderName;
use pingora_core::Result;
use pingora_proxy::Session;
use selvage_policy::list::Purpose;
use selvage_policy::traffic::Settings;
use selvage_policy::{Denial, Reason};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How long a gRPC caller waits.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A response that has been sent already ends the request; otherwise it goes upstream.
pub(super) async fn admit(session: &mut Session, ctx: &mut Context) -> Result<bool> {
    match prepare(session, ctx) {
        Ok(None) => Ok(false),
        Ok(Some((status, location))) => respond::redirect(session, ctx, status, &location).await.map(|()| true),
        Err(denial) => fail::refuse(session, ctx, denial).await.map(|()| true),
    }
}

/// Decides; `Some` is a redirect.
fn prepare(session: &mut Session, ctx: &mut Context) -> Result<Option<(u16, String)>, Denial> {
    let about = session.digest().and_then(|digest| digest.proxy_digest.clone());
    ctx.about.clone_from(&about);
    ctx.head.protocol = head::protocol(session.req_header());
    let snapshot = ctx.shared.snapshot.load_full();
    let Some(connection) = about.as_deref().and_then(Connection::in_digest).map(|connection| &**connection) else {
        return Err(Denial::of(Reason::ProxyError, "the connection is not known"));
    };
    ctx.source.address = connection.peer.ip();
    ctx.source.principal = connection.principal().cloned();
    ctx.destination.address = connection.destination;
    let canonical = head::canonical(session, snapshot.mesh.paths, &ctx.shared.options, connection.destination.ip());
    // As it is by now: canonical, or as it came where that failed.
    ctx.remember(session.req_header());
    ctx.head = canonical?;
    let arrival = Arrival::from(connection);
    let listener = decide::listener(&snapshot, arrival, Some(&ctx.head.host))?;
    ctx.standing = hygiene::Standing::of(&listener.spec, ctx.source.principal.as_ref());
    ctx.trace = trace::Trace::of(&session.req_header().headers, ctx.standing);
    ctx.told = hygiene::clean(session.req_header_mut(), ctx.standing, ctx.head.upgrade)?;
    ctx.source.address = ctx.told.client.unwrap_or(ctx.source.address);
    ctx.scheme = ctx.told.scheme.unwrap_or_else(|| decide::scheme(&listener, arrival));
    ctx.destination.address = decide::target(&listener, arrival.bind, arrival.destination);
    ctx.listener = Some(listener.clone());
    ctx.snapshot = Some(snapshot.clone());
    // The kernel denies where a filter panics; this is for what lies around it, so that no fault of ours lets a request pass.
    let decided = catch_unwind(AssertUnwindSafe(|| {
        let exchange = ctx.exchange(session.req_header());
        let decided = decide::request_at(&snapshot, listener, arrival, &exchange, Purpose::Live);
        let settings = match (&decided.next, &decided.listener) {
            (Ok(Next::Local(_) | Next::PassThrough(_)), Some(listener)) => listener.settings.resolve(&exchange).into_owned(),
            _ => Settings::default(),
        };
        (decided, settings)
    }));
    let Ok((decided, settings)) = decided else {
        ctx.shared.metrics.panics.inc();
        return Err(Denial::of(Reason::PolicyError, "the proxy failed while it decided about this request"));
    };
    ctx.listener = decided.listener.or(ctx.listener.take());
    ctx.matched = decided.matched;
    ctx.decision = decided.guards;
    match decided.next? {
        Next::Redirect(redirect) => return Ok(Some((redirect.status, redirect.location))),
        Next::Local(address) | Next::PassThrough(address) => {
            ctx.way = Way::Address(address);
            ctx.settings = settings;
        }
        Next::Forward => choose(session, ctx, None)?,
        Next::Pinned(address) => choose(session, ctx, Some(address))?,
    }
    ctx.deadline = deadline(session, ctx).map(|left| ctx.began + left);
    Ok(None)
}

/// Picks the backend, once for the whole Exchange.
fn choose(session: &Session, ctx: &mut Context, pin: Option<SocketAddr>) -> Result<(), Denial> {
    let Some(matched) = ctx.matched.clone() else {
        return Err(Denial::of(Reason::ProxyError, "an allowed request has no rule"));
    };
    let rule = matched.rule.clone();
    let chosen = rule.backend(rand::random())?;
    let index = rule.backends.iter().position(|backend| std::ptr::eq(backend, chosen)).unwrap_or_default();
    ctx.settings = chosen.settings.resolve(&ctx.exchange(session.req_header())).into_owned();
    ctx.way = pin.map_or_else(|| Way::Backend(matched.clone(), index), |address| Way::Pinned(matched.clone(), address));
    Ok(())
}

/// The least of what the route allows, what a fellow has left, and what a gRPC caller waits for. Hints only reduce.
fn deadline(session: &Session, ctx: &Context) -> Option<Duration> {
    let own = ctx.settings.request_timeout.filter(|timeout| !timeout.is_zero());
    let grpc = session.req_header().headers.get(&GRPC_TIMEOUT).and_then(|value| grpc_timeout(value.as_bytes()));
    [own, ctx.told.left, grpc].into_iter().flatten().min()
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol over HTTP/2: at most eight digits and a unit.
pub(super) fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}
