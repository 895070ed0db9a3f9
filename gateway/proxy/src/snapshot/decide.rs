//! The one sequence of decisions about a request: live traffic, opaque TCP and `explain` all call it, so they cannot differ.
//!
//! ```text
//! request():      listener -> mesh required? -> route -> guards (scope request) -> redirect -> Next
//! Next::Forward:  Chosen::of(matched, random) -> rewrite::Target of the rule's and the backend's filters -> endpoint
//! destination():  guards of the target, once per Exchange and endpoint, for an endpoint without a sidecar
//! attempt
//! ```
//!
//! A driver does, in this order:
//! 1. make the Exchange from the canonical request (`http: None` for opaque TCP), with headers only we may set removed;
//! 2. [`request`]: log `decided.guards` (audit, fields, who allowed it) whatever the outcome, then act on `decided.next`;
//! 3. for [`Next::Forward`]: [`Matched::rule`]`.backend(random)` once per Exchange, `settings.resolve(exchange)` for timeouts and retries,
//!    apply [`super::rewrite`] for the rule's filters and then the backend's;
//! 4. per try: `backend.endpoints.pick(tried, random)`; `None` is `no_endpoint`. If the endpoint has no identity, run [`destination`] for
//!    every Service that has it ([`guarding`]) on the **rewritten** request, once for this Exchange, and stop if it denies;
//! 5. the attempt.
//!
//! [`Next::Pinned`] is the same with one endpoint: `backend.endpoints.at(address)` at each try.

use super::rewrite::{self, Redirect};
use super::{Backend, Destination, Listener, Matched, RouteTable, Snapshot};
use crate::connection::Connection;
use selvage_config::ports;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Forward, MeshMode, Protocol};
use selvage_config::resource::route::FilterSpec;
use selvage_policy::exchange::Destination as DestinationFacts;
use selvage_policy::list::{Decision, GuardSet, Progress, Purpose};
use selvage_policy::{Denial, Exchange, Key, Reason, Source, SpiffeId};
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// How a request came to us: the facts of its connection that choose a listener.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The socket.
    pub bind: Bind,
    /// The original destination.
    pub destination: SocketAddr,
    /// TLS whose hello we have seen, if any: terminated here, or passed on.
    pub tls: Option<ArrivalTls<'a>>,
}

/// The TLS part of an [`Arrival`].
#[derive(Clone, Copy, Debug)]
pub struct ArrivalTls<'a> {
    /// The listener that answered the handshake, or passes it on.
    pub listener: &'a Key,
    /// SNI, lower-case.
    pub server_name: Option<&'a str>,
    /// On a mesh hop: the identity the peer proved.
    pub peer: Option<&'a SpiffeId>,
}

/// What was decided about a request before it is sent anywhere.
#[derive(Debug)]
pub struct Decided {
    /// The listener that takes it; absent if none does.
    pub listener: Option<Arc<Listener>>,
    /// The Service it is for, on listeners that forward to Services.
    pub destination: Option<Arc<Destination>>,
    /// The rule that matched; present also where its guards denied.
    pub matched: Option<Matched>,
    /// What the guards said; its `denial` is in `next` too.
    pub guards: Decision,
    /// What to do.
    pub next: Result<Next, Denial>,
}

/// What to do with an allowed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send it to a backend of the matched rule.
    Forward,
    /// Send it to this endpoint of the matched rule's backend and to no other: the caller chose it by its address.
    Pinned(SocketAddr),
    /// Answer with a redirect.
    Redirect(Redirect),
    /// Send it to the application beside us.
    Local(SocketAddr),
    /// An unknown original destination: bytes pass untouched.
    PassThrough(SocketAddr),
}

/// Whose routes are asked.
#[derive(Clone, Copy)]
enum Parent<'a> {
    /// A listener's, on a connection with this SNI.
    Listener(Option<&'a str>),
    /// A Service's (mesh).
    Service,
}

impl<'a> From<&'a Connection> for Arrival<'a> {
    fn from(connection: &'a Connection) -> Self {
        let tls = connection.tls.as_ref().map(|tls| ArrivalTls {
            listener: &connection.listener,
            server_name: tls.server_name.as_deref(),
            peer: tls.peer.as_ref(),
        });
        Self { bind: connection.bind, destination: connection.destination, tls }
    }
}

/// Decides about a request, or about an opaque connection where the Exchange has no HTTP.
pub fn request(snapshot: &Snapshot, arrival: Arrival<'_>, exchange: &Exchange<'_>, purpose: Purpose) -> Decided {
    match listener(snapshot, arrival, exchange.http.as_ref().map(|http| http.host)) {
        Ok(listener) => request_at(snapshot, listener, arrival, exchange, purpose),
        Err(denial) => Decided::of(None, Err(denial)),
    }
}

/// The same where its listener ([`listener`]) has been found already.
pub fn request_at(
    snapshot: &Snapshot,
    listener: Arc<Listener>,
    arrival: Arrival<'_>,
    exchange: &Exchange<'_>,
    purpose: Purpose,
) -> Decided {
    let mut decided = Decided::of(Some(listener.clone()), Ok(Next::Forward));
    if let Err(denial) = decided.fill(snapshot, &listener, arrival, exchange, purpose) {
        decided.next = Err(denial);
    }
    decided
}

/// Runs the guards of the target for an endpoint that has no sidecar to run them. `exchange` is the request as it will be sent;
/// the caller that the target's guards see is this proxy's workload, as its own sidecar would see it over mesh TLS. Limits of `counted`
/// policies have counted the request here already ([`Decision::counted`]).
pub fn destination(
    listener: &Listener,
    backend: &Backend,
    endpoint: SocketAddr,
    exchange: &Exchange<'_>,
    purpose: Purpose,
    counted: &[Arc<Key>],
) -> Decision {
    let source = Source { address: exchange.source.address, principal: listener.spec.identity.clone() };
    let facts = DestinationFacts { address: endpoint };
    run(&backend.guards, &Exchange { source: &source, destination: &facts, ..*exchange }, purpose, counted)
}

/// The backends whose guards hold at an endpoint without a sidecar: all that it serves, by whichever it was reached.
pub fn guarding<'a>(snapshot: &'a Snapshot, chosen: &'a Arc<Backend>, endpoint: SocketAddr) -> SmallVec<[&'a Arc<Backend>; 2]> {
    let mut backends: SmallVec<[&Arc<Backend>; 2]> = snapshot.behind(endpoint).into_iter().map(|found| &found.backend).collect();
    // It may have moved on since it was chosen, and a Service of another namespace is judged by its own guards too.
    if !backends.iter().any(|backend| backend.key == chosen.key) {
        backends.push(chosen);
    }
    backends
}

/// The listener a request belongs to. Over client TLS the handshake's listener and the Host's must be one (RFC 9110 section 7.4;
/// Gateway API: 421 where another listener serves the Host, 404 where none does).
pub fn listener(snapshot: &Snapshot, arrival: Arrival<'_>, host: Option<&str>) -> Result<Arc<Listener>, Denial> {
    let nothing = || Denial::of(Reason::NoRoute, "no listener here serves this host");
    let misdirected = || Denial::of(Reason::Misdirected, "this connection was made for another host; make a new one for this host");
    let Arrival { bind, destination, tls } = arrival;
    let by_host = |host: Option<&str>| match host {
        Some(host) => snapshot.listener(bind, destination, host),
        None => snapshot.accept(bind, destination, None),
    };
    let Some(tls) = tls else { return by_host(host).cloned().ok_or_else(nothing) };
    let accepted = snapshot.accept(bind, destination, tls.server_name).ok_or_else(misdirected)?;
    if *accepted.key != *tls.listener {
        return Err(misdirected());
    }
    // On a mesh hop the name is the target's identity, and Host is the application's business.
    if tls.peer.is_some() || host.is_none() {
        return Ok(accepted.clone());
    }
    let wanted = by_host(host).ok_or_else(nothing)?;
    if wanted.key == accepted.key { Ok(accepted.clone()) } else { Err(misdirected()) }
}

/// What the Service that is called is declared to speak, where the destination tells which one that is.
pub fn declared(snapshot: &Snapshot, listener: &Listener, destination: SocketAddr) -> Option<AppProtocol> {
    if listener.spec.forward != Forward::Destination {
        return None;
    }
    let found = snapshot.service(destination).or_else(|| snapshot.behind(destination).first().copied());
    found.map(|found| found.backend.spec.protocol)
}

/// What is spoken to this destination. Towards a Service that is declared opaque nothing needs to be found out, and a server that speaks
/// first is heard.
pub fn protocol(snapshot: &Snapshot, listener: &Listener, destination: SocketAddr) -> Protocol {
    match listener.spec.protocol {
        Protocol::Detect if declared(snapshot, listener, destination) == Some(AppProtocol::Tcp) => Protocol::Tcp,
        said => said,
    }
}

/// The scheme the client speaks, as far as the connection shows it. A mesh hop hides it: an assertor says what it was.
pub fn scheme(listener: &Listener, arrival: Arrival<'_>) -> &'static str {
    let client_tls = arrival.tls.is_some_and(|tls| tls.peer.is_none());
    if client_tls && listener.spec.protocol == Protocol::Https { "https" } else { "http" }
}

/// The address guards see. A bound socket's port is the one the outside knows the listener by.
pub fn target(listener: &Listener, bind: Bind, destination: SocketAddr) -> SocketAddr {
    match bind {
        Bind::Bound(_) => SocketAddr::new(destination.ip(), listener.spec.port),
        Bind::Captured(_) => destination,
    }
}

/// Unknown destinations are passed through, but never to this host's loopback nor to a port of this proxy.
pub fn may_pass(snapshot: &Snapshot, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let is_own = snapshot.sockets.keys().any(|bind| match bind {
        Bind::Bound(own) => own.port() == address.port() && (own.ip() == ip || own.ip().is_unspecified()),
        Bind::Captured(port) => *port == address.port(),
    });
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_own)
}

/// The application at our own address on a port that nobody declared: never a port of a proxy, never what listens on loopback only.
fn own(snapshot: &Snapshot, application: IpAddr, port: u16) -> Result<SocketAddr, Denial> {
    let address = SocketAddr::new(application, port);
    if ports::PROXY.contains(&port) || !may_pass(snapshot, address) {
        return Err(Denial::of(Reason::InvalidBackend, "the port belongs to the workload's proxy, not to its application"));
    }
    Ok(address)
}

impl Decided {
    fn of(listener: Option<Arc<Listener>>, next: Result<Next, Denial>) -> Self {
        Self { listener, destination: None, matched: None, guards: Decision::default(), next }
    }

    fn fill(
        &mut self,
        snapshot: &Snapshot,
        listener: &Listener,
        arrival: Arrival<'_>,
        exchange: &Exchange<'_>,
        purpose: Purpose,
    ) -> Result<(), Denial> {
        let facts = DestinationFacts { address: target(listener, arrival.bind, arrival.destination) };
        let exchange = &Exchange { destination: &facts, ..*exchange };
        let peer = arrival.tls.and_then(|tls| tls.peer);
        if listener.spec.mesh == Some(MeshMode::Strict) && peer.is_none() {
            return Err(Denial::of(Reason::MeshRequired, "this workload is called over mesh TLS only"));
        }
        // A plain connection on a listener that terminates TLS, or the reverse, is a fault of ours and must not be served.
        if matches!(listener.spec.protocol, Protocol::Https | Protocol::Tls | Protocol::Passthrough) && arrival.tls.is_none() {
            return Err(Denial::of(Reason::Misdirected, "this listener is called over TLS only"));
        }
        match &listener.spec.forward {
            Forward::Local(address) => {
                self.guard(&listener.guards, exchange, purpose)?;
                self.next = Ok(Next::Local(*address));
                Ok(())
            }
            Forward::Own(application) => {
                self.guard(&listener.guards, exchange, purpose)?;
                self.next = Ok(Next::Local(own(snapshot, *application, arrival.destination.port())?));
                Ok(())
            }
            Forward::Routes => {
                let server_name = arrival.tls.and_then(|tls| tls.server_name);
                self.route(listener, &listener.routes, Parent::Listener(server_name), exchange, purpose)
            }
            Forward::Backend(key) => {
                let Some(found) = snapshot.destinations.get(key) else {
                    self.guard(&listener.guards, exchange, purpose)?;
                    return Err(Denial::of(Reason::InvalidBackend, "the Service behind this listener does not exist"));
                };
                self.service(listener, found, exchange, purpose)
            }
            Forward::Destination => {
                if let Some(found) = snapshot.service(arrival.destination) {
                    return self.service(listener, found, exchange, purpose);
                }
                if let Some(found) = snapshot.behind(arrival.destination).first() {
                    return self.pinned(listener, found, arrival.destination, exchange, purpose);
                }
                self.guard(&listener.guards, exchange, purpose)?;
                if !may_pass(snapshot, arrival.destination) {
                    return Err(Denial::of(Reason::InvalidBackend, "the destination is this proxy or this host"));
                }
                self.next = Ok(Next::PassThrough(arrival.destination));
                Ok(())
            }
        }
    }

    fn service(&mut self, listener: &Listener, found: &Arc<Destination>, exchange: &Exchange<'_>, purpose: Purpose) -> Result<(), Denial> {
        self.destination = Some(found.clone());
        // HTTP routes say nothing about bytes that are no HTTP: those are balanced as if there were none.
        if found.routes.is_empty() || (exchange.http.is_none() && found.routes.opaque(None).is_none()) {
            self.matched = Some(Matched { rule: found.default_rule.clone(), prefix: None });
            return self.guard(&listener.guards, exchange, purpose);
        }
        self.route(listener, &found.routes, Parent::Service, exchange, purpose)
    }

    /// A pod that is called by its own address: that pod, with what holds for reaching its Service, but without the Service's routes.
    fn pinned(
        &mut self,
        listener: &Listener,
        found: &Arc<Destination>,
        address: SocketAddr,
        exchange: &Exchange<'_>,
        purpose: Purpose,
    ) -> Result<(), Denial> {
        self.destination = Some(found.clone());
        self.matched = Some(Matched { rule: found.default_rule.clone(), prefix: None });
        self.guard(&listener.guards, exchange, purpose)?;
        self.next = Ok(Next::Pinned(address));
        Ok(())
    }

    fn route(
        &mut self,
        listener: &Listener,
        table: &RouteTable,
        parent: Parent<'_>,
        exchange: &Exchange<'_>,
        purpose: Purpose,
    ) -> Result<(), Denial> {
        let found = match parent {
            Parent::Listener(server_name) if exchange.http.is_none() => table.opaque(server_name),
            _ => table.find(exchange),
        };
        let Some(matched) = found else {
            // The guards of what is outside the route hold for what no route matches, so that a refused caller learns nothing of routes.
            self.guard(&listener.guards, exchange, purpose)?;
            return Err(Denial::of(Reason::NoRoute, "no route matches this request"));
        };
        self.matched = Some(matched.clone());
        // A rule's guards begin with the listener's; a mesh rule has none (guards are on the Service, at the target).
        let guards = if matches!(parent, Parent::Service) { &listener.guards } else { &matched.rule.guards };
        self.guard(guards, exchange, purpose)?;
        let unresolved = |filter: &FilterSpec| if let FilterSpec::Unresolved(reference) = filter { Some(reference.clone()) } else { None };
        if let Some(reference) = matched.rule.filters.iter().find_map(unresolved) {
            return Err(Denial::of(Reason::InvalidBackend, &format!("a filter of the route's rule does not resolve: {reference}")));
        }
        let redirect =
            matched.rule.filters.iter().find_map(|filter| if let FilterSpec::Redirect(spec) = filter { Some(spec) } else { None });
        if let (Some(spec), Some(http)) = (redirect, &exchange.http) {
            self.next = Ok(Next::Redirect(rewrite::redirect(spec, http, matched.prefix, exchange.destination.address.port())));
        }
        Ok(())
    }

    fn guard(&mut self, guards: &GuardSet, exchange: &Exchange<'_>, purpose: Purpose) -> Result<(), Denial> {
        self.guards = run(guards, exchange, purpose, &[]);
        self.guards.denial.clone().map_or(Ok(()), Err)
    }
}

/// Runs guards to the end. No policy of this version asks anybody remote.
fn run(guards: &GuardSet, exchange: &Exchange<'_>, purpose: Purpose, counted: &[Arc<Key>]) -> Decision {
    if guards.is_empty() {
        return Decision::default();
    }
    match guards.run_after(exchange, purpose, counted) {
        Progress::Done(decision) => decision,
        Progress::Ask(call) => match call {},
    }
}
