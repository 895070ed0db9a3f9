//! The response: what a hop must not pass back, what filters change, and whether the attempt is tried again instead.

use super::context::{Context, Way};
use super::hygiene::ORIGIN;
use super::{fail, leash, retries};
use crate::observe::labels::Attempt;
use crate::snapshot::rewrite;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, StatusCode, Version};
use pingora_core::Result;
use pingora_core::protocols::http::HttpTask;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use smallvec::SmallVec;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Nothing of this reply's request reached the application.
pub(super) const PROXY: &str = "proxy";
/// The application answered, or may have seen the request.
pub(super) const APPLICATION: &str = "application";

/// The final head of an attempt, before anything is passed on: an error means another attempt.
pub(super) fn attempted(session: &Session, ctx: &mut Context, response: &ResponseHeader) -> Result<()> {
    leash::permitted(ctx)?;
    if is_interim(response.status) {
        return Ok(());
    }
    let status = response.status.as_u16();
    let failed = response.status.is_server_error();
    ctx.tries.finish(if failed { Err(()) } else { Ok(()) });
    let cause = if unreached(ctx, response) { retries::Cause::Unreached } else { retries::Cause::Status(status) };
    if retries::again(session, ctx, cause) {
        ctx.shared.metrics.upstream.attempt(Attempt::RetriedStatus);
        return Err(fail::retry(status));
    }
    ctx.shared.metrics.upstream.attempt(Attempt::Answered);
    ctx.answered = true;
    leash::answered();
    ctx.status = status;
    ctx.has_trailers = response.version == Version::HTTP_2 && session.is_http2();
    // A day-long stream keeps what its rule needs, not a configuration.
    ctx.snapshot = None;
    leash::head_ended();
    if let Some(deadline) = ctx.deadline.filter(|_| status != 101) {
        leash::arm(deadline);
    }
    Ok(())
}

/// A fellow could not reach its application, and says so.
fn unreached(ctx: &Context, response: &ResponseHeader) -> bool {
    let fellow = ctx.tries.last.as_ref().is_some_and(|state| state.endpoint.identity.is_some());
    let unavailable =
        || matches!(response.status.as_u16(), 502..=504) || response.headers.get(&GRPC_STATUS).is_some_and(|status| status == "14");
    fellow && unavailable() && response.headers.get(&ORIGIN).is_some_and(|origin| origin == PROXY)
}

/// The head that is passed on.
pub(super) fn pass(session: &mut Session, ctx: &mut Context, response: &mut ResponseHeader) -> Result<()> {
    let fellow = ctx.tries.last.as_ref().is_some_and(|state| state.endpoint.identity.is_some());
    let origin = response.headers.get(&ORIGIN).filter(|_| fellow).cloned();
    remove_ours(response);
    remove_hop_by_hop(response, ctx.has_trailers);
    if is_interim(response.status) {
        return Ok(());
    }
    say_length_once(response)?;
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        // From here on silence is the application's right, as on any opaque connection.
        session.as_downstream_mut().set_read_timeout(Some(crate::l4::IDLE));
    } else {
        change_fields(ctx, response);
        fields(ctx, response)?;
    }
    if ctx.standing.is_fellow() {
        response.insert_header(ORIGIN, origin.unwrap_or(HeaderValue::from_static(APPLICATION)))?;
    }
    closing(session, ctx);
    Ok(())
}

/// Answers a redirect.
pub(super) async fn redirect(session: &mut Session, ctx: &mut Context, status: u16, location: &str) -> Result<()> {
    let mut response = ResponseHeader::build(status, Some(4))?;
    response.insert_header(LOCATION, location)?;
    response.insert_header(CONTENT_LENGTH, "0")?;
    fields(ctx, &mut response)?;
    if ctx.standing.is_fellow() {
        response.insert_header(ORIGIN, PROXY)?;
    }
    closing(session, ctx);
    fail::settle_body(session, ctx).await;
    session.as_downstream_mut().response_duplex_vec(vec![HttpTask::Header(Box::new(response), true)]).await?;
    fail::linger(session).await;
    Ok(())
}

/// A connection that goes away says so with the response.
pub(super) fn closing(session: &mut Session, ctx: &Context) {
    if ctx.connection().is_some_and(|connection| connection.closing.is_draining()) {
        session.set_keepalive(None);
    }
}

/// `RateLimit` and its like.
pub(super) fn fields(ctx: &Context, response: &mut ResponseHeader) -> Result<()> {
    for (name, value) in &ctx.decision.fields {
        response.append_header(*name, value.as_str())?;
    }
    Ok(())
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn remove_ours(response: &mut ResponseHeader) {
    let ours: SmallVec<[HeaderName; 2]> = response.headers.keys().filter(|name| name.as_str().starts_with("selvage-")).cloned().collect();
    for name in &ours {
        response.remove_header(name);
    }
}

/// RFC 9110 section 7.6.1. `Connection` itself Pingora writes anew.
fn remove_hop_by_hop(response: &mut ResponseHeader, has_trailers: bool) {
    let switching = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let nominated: SmallVec<[HeaderName; 2]> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| ![UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name))
        .collect();
    for name in &nominated {
        response.remove_header(name);
    }
    let gone = |name: &HeaderName| match name.as_str() {
        "keep-alive" | "proxy-connection" | "proxy-authenticate" | "te" => true,
        "upgrade" | "connection" => !switching,
        // None will come: see `hygiene::ends_here`.
        "trailer" => !has_trailers,
        _ => false,
    };
    let gone: SmallVec<[HeaderName; 4]> = response.headers.keys().filter(|name| gone(name)).cloned().collect();
    for name in &gone {
        response.remove_header(name);
    }
}

/// A length that the backend repeated is one length to every client (RFC 9110 section 8.6). Pingora refuses those that differ.
fn say_length_once(response: &mut ResponseHeader) -> Result<()> {
    let mut lengths = response.headers.get_all(CONTENT_LENGTH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let Some(first) = lengths.next().map(<[u8]>::trim_ascii) else { return Ok(()) };
    let mut more = lengths.map(<[u8]>::trim_ascii).peekable();
    if more.peek().is_some() && more.all(|length| length == first) {
        let first = first.to_vec();
        response.insert_header(CONTENT_LENGTH, first)?;
    }
    Ok(())
}

fn change_fields(ctx: &Context, response: &mut ResponseHeader) {
    if let (Way::Backend(matched, _), Some(chosen)) = (&ctx.way, ctx.chosen()) {
        rewrite::response_fields(&matched.rule.filters, response);
        rewrite::response_fields(&chosen.filters, response);
    }
}
