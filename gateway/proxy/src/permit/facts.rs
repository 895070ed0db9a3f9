//! What guards may look at, kept for as long as an exchange is under way; and how they are asked again.

use crate::connection::Connection;
use crate::driver::hygiene;
use crate::driver::trace::Trace;
use crate::snapshot::decide::{self, Arrival};
use crate::snapshot::{Backend, Listener, Matched, Snapshot, rewrite};
use crate::state::clock;
use http::{HeaderMap, Method, Uri};
use selvage_config::resource::listener::{Forward, MeshMode};
use selvage_policy::exchange::{Destination, Http};
use selvage_policy::list::Purpose;
use selvage_policy::{Denial, Exchange, Reason, Source};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// The facts of one exchange.
#[derive(Debug)]
pub struct Facts {
    /// Who.
    pub source: Source,
    /// What, if it is HTTP.
    pub http: Option<HttpFacts>,
    /// Present where the guards of the target were run here.
    pub target: Option<TargetFacts>,
}

/// The canonical, clean head.
#[derive(Debug)]
pub struct HttpFacts {
    /// Its method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Its host.
    pub host: String,
    /// Its path and query.
    pub uri: Uri,
    /// Its fields.
    pub headers: HeaderMap,
}

/// Where an exchange went whose target has no proxy of its own.
#[derive(Debug)]
pub struct TargetFacts {
    /// Whose guards hold there, as of the last time they were asked.
    pub backends: SmallVec<[Arc<Backend>; 1]>,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The rule that led there, and the number of its backend: what they change, the target's guards see changed. None on opaque TCP.
    pub way: Option<(Matched, usize)>,
    /// The names we gave the request, which the target sees.
    pub(crate) trace: Option<Trace>,
}

/// What became of a permission.
pub(super) enum Asked {
    /// It holds.
    Allowed,
    /// It would be refused.
    Refused(Denial),
    /// No listener takes it any more.
    Homeless,
}

impl Facts {
    /// What becomes of it under `snapshot`. `listener` is the one that let it in last; it is replaced.
    pub(super) fn ask(&mut self, connection: &Connection, listener: &mut Arc<Listener>, snapshot: &Snapshot) -> Asked {
        let arrival = Arrival::from(connection);
        let host = self.http.as_ref().map(|http| http.host.as_str());
        let found = match decide::listener(snapshot, arrival, host) {
            Ok(found) => found,
            // Another one takes new connections like this.
            Err(denial) if denial.reason == Reason::Misdirected && snapshot.listeners.contains_key(&*listener.key) => {
                return Asked::Allowed;
            }
            Err(_) => return Asked::Homeless,
        };
        if found.spec.mesh == Some(MeshMode::Strict) && connection.principal().is_none() {
            return Asked::Homeless;
        }
        match self.ask_guards(arrival, connection, listener, found, snapshot) {
            Some(denial) => Asked::Refused(denial),
            None => Asked::Allowed,
        }
    }

    fn ask_guards(
        &mut self,
        arrival: Arrival<'_>,
        connection: &Connection,
        listener: &mut Arc<Listener>,
        found: Arc<Listener>,
        snapshot: &Snapshot,
    ) -> Option<Denial> {
        let before = std::mem::replace(listener, found);
        let destination = Destination { address: connection.destination };
        if !Arc::ptr_eq(&before, listener) && !has_same_guards(&before, listener) {
            let decided = decide::request_at(snapshot, listener.clone(), arrival, &self.exchange(&destination), Purpose::Recheck);
            if let Some(denial) = decided.guards.denial {
                return Some(denial);
            }
        }
        self.ask_target(&destination, listener, snapshot)
    }

    fn ask_target(&mut self, destination: &Destination, listener: &Listener, snapshot: &Snapshot) -> Option<Denial> {
        let target = self.target.as_mut()?;
        let mut changed: SmallVec<[Arc<Backend>; 1]> = SmallVec::new();
        for backend in &mut target.backends {
            let Some(found) = snapshot.destinations.get(&*backend.key) else { continue };
            let before = std::mem::replace(backend, found.backend.clone());
            if !Arc::ptr_eq(&before, backend) && !backend.guards.is_empty() {
                changed.push(backend.clone());
            }
        }
        if changed.is_empty() {
            return None;
        }
        let exchange = self.exchange(destination);
        let target = self.target.as_ref()?;
        let ask = |exchange: &Exchange<'_>| {
            changed
                .iter()
                .find_map(|backend| decide::destination(listener, backend, target.endpoint, exchange, Purpose::Recheck, &[]).denial)
        };
        let Some(http) = &self.http else { return ask(&exchange) };
        let mut headers = http.headers.clone();
        target.trace.iter().for_each(|trace| trace.write(&mut headers));
        let mut rewritten = rewrite::Rewritten::default();
        if let Some((matched, index)) = &target.way {
            let filters = [Some(&matched.rule.filters), matched.rule.backends.get(*index).map(|chosen| &chosen.filters)];
            let filters = || filters.iter().flatten().flat_map(|filters| filters.iter());
            filters().for_each(|filter| rewrite::request_fields(std::slice::from_ref(filter), &mut headers));
            rewritten = rewrite::rewrite(filters(), http.uri.path(), matched.prefix);
        }
        hygiene::unsay_in(&mut headers);
        let mut sent = http.lend();
        sent.headers = &headers;
        sent.host = rewritten.host.as_deref().unwrap_or(sent.host);
        sent.path = rewritten.path.as_deref().unwrap_or(sent.path);
        ask(&Exchange { http: Some(sent), ..exchange })
    }

    /// The facts as guards see them; where it goes the decision finds out.
    fn exchange<'a>(&'a self, destination: &'a Destination) -> Exchange<'a> {
        Exchange {
            source: &self.source,
            destination,
            http: self.http.as_ref().map(HttpFacts::lend),
            now: clock::now(),
            wall: SystemTime::now(),
        }
    }
}

impl HttpFacts {
    fn lend(&self) -> Http<'_> {
        Http {
            method: &self.method,
            scheme: self.scheme,
            host: &self.host,
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
        }
    }
}

/// Whether two forms of one listener let the same in. Routes matter where they carry guards.
fn has_same_guards(a: &Listener, b: &Listener) -> bool {
    let routed = matches!(b.spec.forward, Forward::Routes);
    Arc::ptr_eq(&a.guards, &b.guards) && a.spec.forward == b.spec.forward && (!routed || Arc::ptr_eq(&a.routes, &b.routes))
}
