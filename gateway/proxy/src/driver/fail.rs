//! The one place that makes and reads Pingora's errors, and that refuses.
//!
//! An early answer leaves its connection safe: an unread request body is read up to a cap, or the connection is closed after the answer,
//! and then lingers a moment, because a reset would take the answer with it.

use super::context::Context;
use super::hygiene::{ORIGIN, Standing};
use super::respond::{self, APPLICATION, PROXY};
use super::trace::Trace;
use http::Method;
use http::header::CONTENT_LENGTH;
use pingora_core::protocols::http::HttpTask;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use selvage_policy::refusal::{Caller, render};
use selvage_policy::{Denial, Reason};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A request body that is read for the sake of its connection.
const MAX_SETTLED: usize = 64 * 1024;
/// How long that may take.
const SETTLE: Duration = Duration::from_secs(1);
/// What a client may still be sending when it is refused and its connection closed.
const MAX_LINGER: usize = 256 * 1024;

const DENIED: &str = "selvage denial";
const RETRY: &str = "selvage retry";

/// Carries a denial through Pingora to [`answer`].
pub(super) fn denied(ctx: &mut Context, denial: Denial) -> Box<Error> {
    ctx.denial = Some(denial);
    Error::new_in(ErrorType::Custom(DENIED))
}

/// Makes Pingora try again instead of passing this status on.
pub(super) fn retry(status: u16) -> Box<Error> {
    let mut error = Error::new_up(ErrorType::CustomCode(RETRY, status));
    error.set_retry(true);
    error
}

/// Whether it is one of ours for another attempt.
pub(super) fn is_retry(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::CustomCode(RETRY, _))
}

/// Answers a request that failed; gives the status, 0 where nobody is left to answer.
pub(super) async fn answer(session: &mut Session, error: &Error, ctx: &mut Context) -> u16 {
    let denial = ctx.denial.take().or_else(|| denial(error, ctx));
    let begun = session.response_written().is_some_and(|response| !response.status.is_informational() || response.status == 101);
    let Some(denial) = denial else { return 0 };
    tracing::debug!(%error, reason = %denial.reason, "request failed");
    if begun {
        // The head is gone; the stream breaks off, which tells the client.
        ctx.denial = Some(denial);
        return 0;
    }
    // Pingora gives the connection up after an attempt has failed; the client shall know.
    session.set_keepalive(None);
    let status = if ctx.head.caller() == Caller::Grpc { 200 } else { denial.reason.status() };
    match refuse(session, ctx, denial).await {
        Ok(()) => status,
        Err(_) => 0,
    }
}

/// What an error of Pingora's means; `None` where the client has gone.
fn denial(error: &Error, ctx: &Context) -> Option<Denial> {
    use ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, ConnectionClosed, H2Error, HandshakeError, InvalidCert,
        InvalidHTTPHeader, ReadError, ReadTimedout, SocketError, TLSHandshakeFailure, TLSHandshakeTimedout, WriteError, WriteTimedout,
    };
    let because = |reason, detail: &str| Some(Denial::of(reason, detail));
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ReadTimedout) => because(Reason::RequestTimeout, "the request's body did not arrive in time"),
        (ErrorSource::Downstream, ReadError | WriteError | WriteTimedout | ConnectionClosed | ConnectError | H2Error) => None,
        (ErrorSource::Downstream, InvalidHTTPHeader) => because(Reason::BadRequest, "the request is malformed"),
        (ErrorSource::Downstream, _) => because(Reason::BadRequest, "the request's body is malformed"),
        (ErrorSource::Upstream, _) if ctx.left() == Some(Duration::ZERO) => {
            because(Reason::UpstreamTimeout, "the backend did not answer within the request's deadline")
        }
        (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => because(Reason::UpstreamTimeout, "the backend did not answer in time"),
        (ErrorSource::Upstream, ConnectTimedout | TLSHandshakeTimedout) => {
            because(Reason::UpstreamTimeout, "connecting to the backend took too long")
        }
        (
            ErrorSource::Upstream,
            ConnectRefused | ConnectNoRoute | ConnectError | SocketError | TLSHandshakeFailure | InvalidCert | HandshakeError,
        ) => because(Reason::UpstreamConnect, "connecting to the backend failed"),
        (ErrorSource::Upstream, _) if ctx.head.caller() == Caller::Grpc => {
            because(Reason::UpstreamReset, "the backend broke off, or answered something that is no HTTP/2, which gRPC needs")
        }
        (ErrorSource::Upstream, _) => because(Reason::UpstreamReset, "the backend broke off or answered something that is no HTTP"),
        (ErrorSource::Internal | ErrorSource::Unset, _) => because(Reason::ProxyError, "the proxy failed"),
    }
}

/// Sends a refusal.
pub(super) async fn refuse(session: &mut Session, ctx: &mut Context, denial: Denial) -> Result<()> {
    if ctx.trace.request_id().is_empty() {
        // Refused before it was known who sent it: then nobody's names count.
        ctx.trace = Trace::of(&session.req_header().headers, Standing::Stranger);
    }
    let caller = ctx.head.caller();
    let refusal = render(&denial, caller, ctx.trace.request_id());
    let mut response = ResponseHeader::build(refusal.status, Some(refusal.fields.len() + 4))?;
    for (name, value) in &refusal.fields {
        response.insert_header(*name, value.as_str())?;
    }
    respond::fields(ctx, &mut response)?;
    if ctx.standing.is_fellow() {
        response.insert_header(ORIGIN, if ctx.reached > 0 { APPLICATION } else { PROXY })?;
    }
    if matches!(
        denial.reason,
        Reason::BadRequest | Reason::TargetTooLong | Reason::HeadersTooLarge | Reason::BodyTooLarge | Reason::RequestTimeout
    ) {
        // Where the framing is in doubt, what follows is no request.
        session.set_keepalive(None);
    }
    ctx.denial = Some(denial);
    respond::closing(session, ctx);
    settle_body(session, ctx).await;
    let bodyless = refusal.body.is_empty() || session.req_header().method == Method::HEAD;
    if caller == Caller::Http {
        response.insert_header(CONTENT_LENGTH, refusal.body.len())?;
    }
    let mut tasks = vec![HttpTask::Header(Box::new(response), bodyless)];
    if !bodyless {
        tasks.push(HttpTask::Body(Some(refusal.body), true));
    }
    session.as_downstream_mut().response_duplex_vec(tasks).await?;
    linger(session).await;
    Ok(())
}

/// Reads what is left of a small body, so that its connection can carry another request.
pub(super) async fn settle_body(session: &mut Session, ctx: &Context) {
    // HTTP/2 ends a stream without its body. A client that waits for 100 has not sent any.
    if session.is_http2() || session.is_body_done() || ctx.head.expects || session.get_keepalive().is_none() {
        return;
    }
    let declared = session.get_header(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if declared.is_none_or(|declared| declared <= MAX_SETTLED) {
        read_away(session, MAX_SETTLED).await;
    }
}

/// After an answer that ends an HTTP/1.1 connection: reads on for a moment, so that the answer is not lost to a reset.
pub(super) async fn linger(session: &mut Session) {
    if !session.is_http2() && !session.is_body_done() {
        read_away(session, MAX_LINGER).await;
    }
}

async fn read_away(session: &mut Session, most: usize) {
    let end = Instant::now() + SETTLE;
    let mut read = 0;
    while read < most {
        match timeout_at(end, session.read_request_body()).await {
            Ok(Ok(Some(bytes))) => read += bytes.len(),
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        }
    }
}
