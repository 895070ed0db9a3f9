//! Picks the endpoint of each attempt and describes it to Pingora.

use super::context::{Context, Way};
use super::{fail, hygiene, leash, outbound};
use crate::net::keepalive;
use crate::permit::{Facts, HttpFacts, Permit, TargetFacts};
use crate::snapshot::{Backend, Listener, decide};
use crate::state::balance::EndpointState;
use crate::tls::Speaks;
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::Session;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::Clients;
use selvage_policy::list::Purpose;
use selvage_policy::refusal::Caller;
use selvage_policy::{Denial, Reason, SpiffeId};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Making a connection, TLS included, where no policy says otherwise.
const CONNECT: Duration = Duration::from_secs(5);
/// One write to an upstream: a stalled upload must not pin its connection (Pingora issue 910).
const WRITE: Duration = Duration::from_secs(60);
/// Streams of one plain HTTP/2 connection at once; Pingora's default is 1.
const MAX_STREAMS: usize = 100;
/// gRPC ends in trailers, which Pingora does not carry over HTTP/1.1: without this the caller would wait for a status in vain.
const HTTP1_ONLY: &str = "gRPC needs HTTP/2, and the backend is said to speak HTTP/1.1; give the port of its Service `appProtocol: kubernetes.io/h2c`, or route to it with a GRPCRoute";

/// Before the first attempt: is there an endpoint, and do the guards of the target let the request pass? A refusal here keeps the
/// client's connection, which a refusal in Pingora's attempt loop cannot.
pub(super) fn ready(session: &Session, ctx: &mut Context) -> Result<(), Denial> {
    if let Some(backend) = ctx.chosen().and_then(|chosen| chosen.backend.as_ref()) {
        backend.retries.request(ctx.now);
        let endpoint = pick(ctx)?;
        guard(session, ctx, &endpoint)?;
        ctx.tries.next = Some(endpoint);
    }
    Ok(())
}

/// The next attempt.
pub(super) async fn peer(session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
    if !ctx.tries.wait.is_zero() {
        tokio::time::sleep(std::mem::take(&mut ctx.tries.wait)).await;
    }
    let peer = attempt(session, ctx).map_err(|denial| fail::denied(ctx, denial))?;
    // It was asked again when it was let in, and may have waited since for another attempt.
    leash::permitted(ctx)?;
    Ok(Box::new(peer))
}

fn attempt(session: &Session, ctx: &mut Context) -> Result<HttpPeer, Denial> {
    if ctx.left() == Some(Duration::ZERO) {
        return Err(Denial::of(Reason::UpstreamTimeout, "the request's deadline has passed"));
    }
    let mut peer = match ctx.way {
        Way::Open => return Err(Denial::of(Reason::ProxyError, "the request has nowhere to go")),
        Way::Address(address) => {
            let_in(session, ctx);
            let protocol = ctx.listener.as_ref().and_then(|listener| listener.spec.application).unwrap_or(AppProtocol::Detect);
            plain(address, speaks_http2(session, ctx, protocol))
        }
        Way::Backend(..) | Way::Pinned(..) => {
            let endpoint = match ctx.tries.next.take() {
                Some(endpoint) => endpoint,
                None => pick(ctx)?,
            };
            guard(session, ctx, &endpoint)?;
            permit(session, ctx, &endpoint);
            ctx.tries.tried.push(endpoint.endpoint.address);
            ctx.tries.current = Some(endpoint.begin());
            let peer = match &endpoint.endpoint.identity {
                Some(identity) => meshed(ctx, endpoint.endpoint.address, identity)?,
                None => {
                    let protocol = ctx.chosen().and_then(|chosen| chosen.backend.as_ref()).map_or(AppProtocol::Http, |b| b.spec.protocol);
                    if protocol == AppProtocol::Http && ctx.head.caller() == Caller::Grpc {
                        return Err(Denial::of(Reason::InvalidBackend, HTTP1_ONLY));
                    }
                    plain(endpoint.endpoint.address, speaks_http2(session, ctx, protocol))
                }
            };
            ctx.tries.last = Some(endpoint);
            peer
        }
    };
    ctx.tries.made += 1;
    let connect = least(ctx, Some(ctx.settings.connect_timeout.unwrap_or(CONNECT)));
    peer.options.tcp_keepalive = Some(keepalive::upstream());
    peer.options.connection_timeout = connect;
    peer.options.total_connection_timeout = connect;
    // Pingora's holds for each read of the body too, which nothing but the deadline bounds; an HTTP/1.1 client's connection times the head alone.
    peer.options.read_timeout = least(ctx, ctx.settings.backend_timeout).filter(|_| session.is_http2());
    peer.options.write_timeout = least(ctx, Some(WRITE));
    Ok(peer)
}

/// A limit, where there is one, within what is left of the request's deadline.
fn least(ctx: &Context, limit: Option<Duration>) -> Option<Duration> {
    [limit.filter(|limit| !limit.is_zero()), ctx.left()].into_iter().flatten().min()
}

fn pick(ctx: &Context) -> Result<Arc<EndpointState>, Denial> {
    let backend = ctx.chosen().and_then(|chosen| chosen.backend.as_ref());
    backend
        .and_then(|backend| match ctx.pin() {
            Some(address) => backend.endpoints.at(address),
            None => backend.endpoints.pick(&ctx.tries.tried, rand::random()),
        })
        .ok_or_else(|| Denial::of(Reason::NoEndpoint, "no endpoint of the backend is ready"))
}

/// An endpoint without a sidecar has nobody else to run the guards of the target; once for the Exchange and that endpoint.
fn guard(session: &Session, ctx: &mut Context, endpoint: &EndpointState) -> Result<(), Denial> {
    let Some(backend) = ctx.chosen().and_then(|chosen| chosen.backend.clone()) else { return Ok(()) };
    let address = endpoint.endpoint.address;
    if endpoint.endpoint.identity.is_some() || ctx.tries.guarded.contains(&address) {
        return Ok(());
    }
    let (Some(listener), Some(snapshot)) = (ctx.listener.clone(), ctx.snapshot.clone()) else {
        return Err(Denial::of(Reason::ProxyError, "the configuration is gone"));
    };
    ctx.tries.guarded.push(address);
    for backend in decide::guarding(&snapshot, &backend, address) {
        if !backend.guards.is_empty() {
            guard_of(session, ctx, &listener, backend, endpoint)?;
        }
    }
    Ok(())
}

fn guard_of(session: &Session, ctx: &mut Context, listener: &Listener, backend: &Backend, endpoint: &EndpointState) -> Result<(), Denial> {
    // The target's guards see what they would see at the target's own proxy: the request as it will be sent, without what only we say.
    let mut sent = session.req_header().clone();
    let rewritten = outbound::rewrite(ctx, &mut sent)?;
    hygiene::unsay(&mut sent);
    let decision = catch_unwind(AssertUnwindSafe(|| {
        let mut exchange = ctx.exchange(&sent);
        if let (Some(http), Some(host)) = (&mut exchange.http, rewritten.as_deref()) {
            http.host = host;
        }
        decide::destination(listener, backend, endpoint.endpoint.address, &exchange, Purpose::Live, &ctx.decision.counted)
    }));
    let Ok(decision) = decision else {
        ctx.shared.metrics.panics.inc();
        return Err(Denial::of(Reason::PolicyError, "the proxy failed while it decided about this request"));
    };
    ctx.decision.join(decision).map_or(Ok(()), Err)
}

/// From here on the request is under way: another configuration may end it.
fn let_in(session: &Session, ctx: &mut Context) {
    let (None, Some(connection), Some(listener), Some(snapshot)) = (&ctx.permit, ctx.connection(), &ctx.listener, &ctx.snapshot) else {
        return;
    };
    let req = session.req_header();
    let http = HttpFacts {
        method: req.method.clone(),
        scheme: ctx.scheme,
        host: ctx.head.host.clone(),
        uri: req.uri.clone(),
        headers: req.headers.clone(),
    };
    let facts = Facts { source: ctx.source.clone(), http: Some(http), target: None };
    let permit = Permit::issue(connection, listener.clone(), facts, snapshot.generation, &ctx.shared.snapshot);
    leash::hold(permit.withdrawal());
    ctx.permit = Some(permit);
}

/// The same for an attempt at an endpoint of a backend: where it has no proxy of its own, the target's guards have been run here.
fn permit(session: &Session, ctx: &mut Context, endpoint: &EndpointState) {
    let_in(session, ctx);
    let (Some(permit), Some(snapshot)) = (&ctx.permit, &ctx.snapshot) else { return };
    let way = match &ctx.way {
        Way::Backend(matched, index) => (matched.clone(), *index),
        Way::Pinned(matched, _) => (matched.clone(), 0),
        Way::Open | Way::Address(_) => return,
    };
    if endpoint.endpoint.identity.is_none()
        && let Some(backend) = ctx.chosen().and_then(|chosen| chosen.backend.as_ref())
    {
        let backends = decide::guarding(snapshot, backend, endpoint.endpoint.address).into_iter().cloned().collect();
        let target = TargetFacts { backends, endpoint: endpoint.endpoint.address, way: Some(way), trace: Some(ctx.trace.clone()) };
        permit.aim(target, snapshot, &ctx.shared.snapshot);
    }
}

/// The attempt is connected: its head must come in time as a whole.
pub(super) fn await_head(ctx: &Context) {
    leash::await_head(least(ctx, ctx.settings.backend_timeout).map(|least| Instant::now() + least));
}

/// HTTP/2 without TLS to an application: where the Service says so; where nobody does, for gRPC (which is nothing else) and for an
/// application beside us that began to speak it.
fn speaks_http2(session: &Session, ctx: &Context, protocol: AppProtocol) -> bool {
    let grpc = ctx.head.caller() == Caller::Grpc;
    match protocol {
        AppProtocol::H2c => true,
        AppProtocol::Http | AppProtocol::Tcp => false,
        AppProtocol::Detect => {
            let as_spoken = ctx.connection().is_some_and(|connection| connection.tls.is_none());
            let beside = ctx.listener.as_ref().is_some_and(|listener| listener.spec.clients != Clients::Outside);
            grpc || (as_spoken && beside && session.is_http2())
        }
    }
}

fn plain(address: SocketAddr, http2: bool) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.idle_timeout = Some(crate::tls::upstream::IDLE);
    if http2 {
        peer.options.set_http_version(2, 2);
        peer.options.max_h2_streams = MAX_STREAMS;
        // ALPN is no part of Pingora's pool key.
        peer.group_key = 1;
    }
    peer
}

/// A mesh hop. There is no plain fallback: an endpoint that is said to have a sidecar is called through it or not at all.
fn meshed(ctx: &Context, address: SocketAddr, identity: &SpiffeId) -> Result<HttpPeer, Denial> {
    let unready = |detail: &str| Denial::of(Reason::UpstreamConnect, detail);
    let own = ctx.listener.as_ref().and_then(|listener| listener.spec.identity.as_ref());
    let own = own.ok_or_else(|| unready("the listener has no identity to call the mesh with"))?;
    let snapshot = ctx.snapshot.as_ref().ok_or_else(|| unready("the configuration is gone"))?;
    let hop = ctx.shared.transport.hop(snapshot, own, identity).map_err(|error| {
        tracing::warn!(%error, from = %own, to = %identity, "mesh hop cannot be made");
        unready("the proxy has no certificate to call the mesh with")
    })?;
    let mut peer = HttpPeer::new(address, true, String::new());
    // What HTTP/2 cannot carry goes by HTTP/1.1.
    hop.apply(&mut peer, if ctx.head.upgrade || ctx.head.expects { Speaks::Http1 } else { Speaks::Http2 });
    Ok(peer)
}
