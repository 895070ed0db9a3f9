//! What is known of one request while it runs, and the line that is written when it ends.

use super::Shared;
use super::head::Head;
use super::hygiene::{Standing, Told};
use super::pace::{self, Pace};
use super::retries::Tries;
use super::trace::Trace;
use crate::connection::Connection;
use crate::observe::access::{Entry, bounded, policies, rfc3339};
use crate::observe::labels::Protocol;
use crate::observe::requests::InFlight;
use crate::permit::Permit;
use crate::snapshot::{Listener, Matched, RuleBackend, Snapshot};
use crate::state::clock;
use http::Method;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::RequestHeader;
use selvage_policy::exchange::{Destination, Http};
use selvage_policy::list::Decision;
use selvage_policy::traffic::Settings;
use selvage_policy::{Denial, Exchange, Reason, Source};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Where a request goes.
#[derive(Debug)]
pub(super) enum Way {
    /// Nowhere yet.
    Open,
    /// To the application beside us, or untouched to an unknown destination.
    Address(SocketAddr),
    /// To the backend with this number in the matched rule.
    Backend(Matched, usize),
    /// To this endpoint of the one backend of the matched rule.
    Pinned(Matched, SocketAddr),
}

/// One request from head to end: Pingora's CTX.
pub struct Context {
    pub(super) shared: Arc<Shared>,
    /// The connection it came on; see [`Context::connection`].
    pub(super) about: Option<Arc<ProxyDigest>>,
    /// Let go once the response begins, so that a stream of a day does not pin a configuration.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) began: Instant,
    pub(super) wall: SystemTime,
    /// As of the request's beginning: guards of one request see one time.
    pub(super) now: Duration,
    pub(super) head: Head,
    pub(super) standing: Standing,
    pub(super) told: Told,
    pub(super) trace: Trace,
    pub(super) scheme: &'static str,
    pub(super) source: Source,
    pub(super) destination: Destination,
    pub(super) listener: Option<Arc<Listener>>,
    pub(super) matched: Option<Matched>,
    pub(super) decision: Decision,
    pub(super) denial: Option<Denial>,
    pub(super) way: Way,
    pub(super) settings: Settings,
    pub(super) deadline: Option<Instant>,
    pub(super) tries: Tries,
    /// Attempts that may have reached the application.
    pub(super) reached: u32,
    /// The final response head has been passed on.
    pub(super) answered: bool,
    /// Both hops of the response carry trailers.
    pub(super) has_trailers: bool,
    /// Its status; 0 before.
    pub(super) status: u16,
    /// Present while its body must come at a pace.
    pub(super) pace: Option<Pace>,
    /// What lets it be ended by another configuration.
    pub(super) permit: Option<Permit>,
    method: Method,
    path: String,
    in_flight: Option<InFlight>,
}

impl Context {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            shared: shared.clone(),
            about: None,
            snapshot: None,
            began: Instant::now(),
            wall: SystemTime::now(),
            now: clock::now(),
            head: Head { host: String::new(), port: None, protocol: Protocol::Http1, upgrade: false, expects: false },
            standing: Standing::Stranger,
            told: Told::default(),
            trace: Trace::default(),
            scheme: "http",
            source: Source { address: nowhere.ip(), principal: None },
            destination: Destination { address: nowhere },
            listener: None,
            matched: None,
            decision: Decision::default(),
            denial: None,
            way: Way::Open,
            settings: Settings::default(),
            deadline: None,
            tries: Tries::default(),
            reached: 0,
            answered: false,
            has_trailers: false,
            status: 0,
            pace: None,
            permit: None,
            method: Method::GET,
            path: String::new(),
            in_flight: Some(shared.metrics.requests.begin()),
        }
    }

    /// The connection the request came on.
    pub(super) fn connection(&self) -> Option<&Arc<Connection>> {
        Connection::in_digest(self.about.as_ref()?)
    }

    /// What guards see of `req`, a canonical and clean head.
    pub(super) fn exchange<'a>(&'a self, req: &'a RequestHeader) -> Exchange<'a> {
        Exchange {
            source: &self.source,
            destination: &self.destination,
            http: Some(Http {
                method: &req.method,
                scheme: self.scheme,
                host: &self.head.host,
                path: req.uri.path(),
                query: req.uri.query(),
                headers: &req.headers,
            }),
            now: self.now,
            wall: self.wall,
        }
    }

    /// The chosen backend of the matched rule.
    pub(super) fn chosen(&self) -> Option<&RuleBackend> {
        match &self.way {
            Way::Backend(matched, index) => matched.rule.backends.get(*index),
            Way::Pinned(matched, _) => matched.rule.backends.first(),
            Way::Open | Way::Address(_) => None,
        }
    }

    /// The one endpoint that may be sent to, where the caller chose it.
    pub(super) fn pin(&self) -> Option<SocketAddr> {
        match self.way {
            Way::Pinned(_, address) => Some(address),
            Way::Open | Way::Address(_) | Way::Backend(..) => None,
        }
    }

    /// Time left of the deadline; `None` without one, zero when it has passed.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Keeps what the log line needs of the head, in case the session is gone when it is written.
    pub(super) fn remember(&mut self, req: &RequestHeader) {
        if self.shared.access.is_on() {
            self.method = req.method.clone();
            self.path = bounded(req.uri.path()).to_string();
        }
    }

    /// Counts the request and writes its line. Only the first call does anything.
    pub(super) fn ended(&mut self, status: u16, received: usize, sent: usize) {
        if self.in_flight.take().is_none() {
            return;
        }
        let took = self.began.elapsed();
        self.shared.metrics.requests.ended(self.head.protocol, status, took, self.denial.as_ref());
        self.shared.metrics.requests.audited(&self.decision.audited);
        if !self.shared.access.is_on() {
            return;
        }
        let denial = self.denial.as_ref();
        let allowed = self.decision.allowed_by.as_ref();
        let endpoint = self.tries.last.as_ref();
        self.shared.log(&Entry {
            time: rfc3339(self.wall),
            request_id: self.trace.request_id(),
            trace_id: self.trace.id(),
            listener: self.listener.as_ref().map(|listener| listener.key.to_string()),
            route: self.matched.as_ref().map(|matched| matched.rule.route.to_string()),
            rule: self.matched.as_ref().map_or("", |matched| &matched.rule.name),
            policy: denial.map_or(allowed.map(|(key, _)| key), |denial| denial.policy.as_ref()).map(ToString::to_string),
            policy_rule: denial.map_or(allowed.map(|(_, rule)| &**rule), |denial| denial.rule.as_deref()),
            reason: denial.map_or("", |denial| denial.reason.as_str()),
            detail: denial.map_or("", |denial| &denial.detail),
            audited: policies(&self.decision.audited),
            source: self.about.as_ref().map(|_| self.source.address.to_string()),
            principal: self.source.principal.as_ref().map(ToString::to_string),
            protocol: self.head.protocol.as_str(),
            method: bounded(self.method.as_str()),
            host: bounded(&self.head.host),
            path: &self.path,
            status: Some(status),
            bytes_received: received as u64,
            bytes_sent: sent as u64,
            duration_ms: took.as_secs_f64() * 1000.0,
            endpoint: match &self.way {
                Way::Address(address) => Some(address.to_string()),
                Way::Open | Way::Backend(..) | Way::Pinned(..) => endpoint.map(|state| state.endpoint.address.to_string()),
            },
            workload: endpoint.and_then(|state| state.endpoint.workload.as_ref()).map(ToString::to_string),
            attempts: self.tries.made,
        });
    }
}

impl Drop for Context {
    /// A request that is dropped before its end (its deadline passed, its connection was aborted) leaves a line too.
    fn drop(&mut self) {
        if self.in_flight.is_none() || self.about.is_none() {
            return;
        }
        if std::thread::panicking() {
            self.shared.metrics.panics.inc();
            self.denial = Some(Denial::of(Reason::ProxyError, "the proxy failed"));
        }
        if self.denial.is_none() {
            let withdrawn = self.permit.as_ref().and_then(|permit| permit.withdrawal().denial().cloned());
            self.denial = withdrawn.or_else(|| {
                let (reason, detail) = match self.left() {
                    _ if pace::is_late(self) => (Reason::RequestTimeout, "the request's body did not arrive in time"),
                    Some(Duration::ZERO) => (Reason::UpstreamTimeout, "the response was not complete within the request's deadline"),
                    _ => (Reason::Draining, "the connection was ended before the response was complete"),
                };
                Some(Denial::of(reason, detail))
            });
        }
        self.ended(self.status, 0, 0);
    }
}
