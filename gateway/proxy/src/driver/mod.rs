//! The request half of a proxy: what happens between a request's head and the end of its response.
//!
//! ```text
//! head -> hygiene -> decide (listener, rule, guards) -> redirect? -> backend -> [endpoint -> destination guards -> attempt]* -> response -> log
//! ```
//!
//! [`Driver`] runs this over Pingora's `HttpProxy`; each stage is one file. Nothing outside this folder may know which driver runs.

mod admission;
mod below;
mod context;
mod fail;
mod forward;
mod head;
pub(crate) mod hygiene;
mod leash;
mod outbound;
mod pace;
mod respond;
mod retries;
#[cfg(test)]
mod tests;
pub(crate) mod trace;

pub use context::Context;
pub use leash::{client_ended, is_late, on_leash};

use crate::observe::{AccessLog, Entry, Metrics};
use crate::snapshot::Snapshot;
use crate::tls::MeshTransport;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::HttpServerOptions;
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::sync::Arc;
use std::time::Duration;

/// What all workers of one proxy share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration that holds; the feed stores a new one, each request loads it once.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Mesh hops to endpoints.
    pub transport: Arc<MeshTransport>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// Lines.
    pub access: AccessLog,
    /// Limits and habits.
    pub options: Options,
}

impl Shared {
    /// Writes a log line; one that is lost is counted.
    fn log(&self, entry: &Entry<'_>) {
        if !self.access.write(entry) {
            self.metrics.lines_dropped.inc();
        }
    }
}

/// Limits and habits of the request half.
#[derive(Clone, Debug)]
pub struct Options {
    /// Header fields a request may have.
    pub max_headers: usize,
    /// Bytes a request's head may have.
    pub max_head: usize,
    /// For a request body to begin, and for its pauses.
    pub body_grace: Duration,
    /// Bytes a second of a request body, on the average beyond the grace.
    pub body_rate: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_headers: 100, max_head: 32 * 1024, body_grace: pace::GRACE, body_rate: pace::RATE }
    }
}

/// One worker's driver.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
}

/// The driver of one worker.
pub fn new(shared: Arc<Shared>) -> Driver {
    Driver { shared }
}

/// What Pingora's proxy around a driver is told.
pub fn server_options() -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    // CONNECT is refused by us, in the form of every refusal.
    options.allow_connect_method_proxying = true;
    options
}

#[async_trait]
impl ProxyHttp for Driver {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(&self.shared)
    }

    /// None: each is boxed anew for every request.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        // A client that has sent its request may close its half and still wait (RFC 9112 section 9.6): for a while, see `leash`.
        session.as_downstream_mut().set_abort_on_close(false);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if admission::admit(session, ctx).await? {
            return Ok(true);
        }
        match forward::ready(session, ctx) {
            Ok(()) => Ok(false),
            Err(denial) => fail::refuse(session, ctx, denial).await.map(|()| true),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        forward::peer(session, ctx).await
    }

    async fn upstream_request_filter(&self, session: &mut Session, request: &mut RequestHeader, ctx: &mut Context) -> Result<()> {
        pace::begin(session, ctx);
        forward::await_head(ctx);
        outbound::complete(ctx, request).map_err(|denial| fail::denied(ctx, denial))
    }

    async fn request_body_filter(&self, session: &mut Session, body: &mut Option<Bytes>, end: bool, ctx: &mut Context) -> Result<()> {
        leash::permitted(ctx)?;
        pace::came(session, ctx, body.as_ref().map_or(0, Bytes::len), end)
    }

    async fn upstream_response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        respond::attempted(session, ctx, response)
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, ctx: &mut Context) -> Result<()> {
        respond::pass(session, ctx, response)
    }

    fn fail_to_connect(&self, session: &mut Session, _: &HttpPeer, ctx: &mut Context, error: Box<Error>) -> Box<Error> {
        retries::connect_failed(session, ctx, error)
    }

    fn error_while_proxy(&self, _: &HttpPeer, session: &mut Session, error: Box<Error>, ctx: &mut Context, reused: bool) -> Box<Error> {
        retries::attempt_failed(session, ctx, error, reused)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        FailToProxy { error_code: fail::answer(session, error, ctx).await, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, ctx: &mut Context) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        ctx.ended(status, session.body_bytes_read(), session.body_bytes_sent());
    }

    /// The access log says it.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }
}
