//! What would become of a described request: the live sequence of decisions, run without counting, with every step written down.
//!
//! ```text
//! At + Described ── canonical, hygiene, decide::request, backend, rewrite, decide::destination ──> Explanation { .., next }
//! ```
//!
//! One call is one proxy. `next` is the request as the proxy at the chosen endpoint will see it: hand it to the explain of that proxy's
//! Snapshot, under [`At::Address`], for the next hop. Nothing here moves a counter or asks anybody remote.

mod described;

pub use described::{Described, DescribedHttp};

use crate::driver::hygiene::{self, Standing};
use crate::snapshot::decide::{self, Arrival, ArrivalTls, Decided, Next};
use crate::snapshot::{Listener, RuleBackend, Snapshot, rewrite};
use http::{HeaderMap, HeaderValue, Method};
use pingora_http::RequestHeader;
use selvage_config::resource::listener::{Bind, Clients, Protocol};
use selvage_config::resource::route::FilterSpec;
use selvage_policy::exchange::Destination;
use selvage_policy::list::{Purpose, Step};
use selvage_policy::traffic::Settings;
use selvage_policy::{Denial, Exchange, Http, Key, Reason, Source, SpiffeId, canonical};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the described request arrives.
#[derive(Clone, Debug)]
pub enum At {
    /// At a listener, by key; on a captured one its first destination stands for all.
    Listener(Key),
    /// At a socket with an original destination, as the connection itself would.
    Address(Bind, SocketAddr),
}

/// When it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For buckets: [`crate::state::clock::now`].
    pub now: Duration,
    /// For expressions.
    pub wall: SystemTime,
}

/// What one proxy would do, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The listener that takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<Key>,
    /// Whose guards run here: the identity this proxy speaks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// Who is calling, as the connection proves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<SpiffeId>,
    /// The client's address that guards see.
    pub source: IpAddr,
    /// The canonical host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The canonical path: what router, guards, logs and upstream use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The Service it is for, where the listener forwards to Services.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Key>,
    /// The route that matched; the Service's Backend where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Key>,
    /// The name or number of the rule in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What each guard said before the request is sent on.
    pub guards: Vec<Step>,
    /// Changes of the rule and the chosen backend, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterSpec>,
    /// Where the client is sent instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Location>,
    /// The rule's backends with their shares.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Share>,
    /// The backend this explanation follows: live traffic draws by weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Key>,
    /// How it would be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<TrafficSettings>,
    /// Endpoints that may be chosen, ready ones first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Candidate>,
    /// What the target's guards said, run here because the endpoint has no sidecar.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_guards: Vec<Step>,
    /// The end of it at this proxy.
    pub verdict: Verdict,
    /// What the next one sees; the application, where nobody has an identity there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Hop>,
}

/// What it comes to at one proxy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all_fields = "camelCase")]
pub enum Verdict {
    /// It is sent on, or redirected.
    Allowed,
    /// It is refused.
    Denied {
        /// The reason, as in the response body.
        reason: &'static str,
        /// The HTTP status.
        status: u16,
        /// The policy that refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        policy: Option<Key>,
        /// The rule or limit in it.
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
        /// One sentence.
        detail: String,
    },
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Its status.
    pub status: u16,
    /// Its `Location`.
    pub location: String,
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Absent: the reference does not resolve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Key>,
    /// Relative to the sum.
    pub weight: u32,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Its address.
    pub address: SocketAddr,
    /// The workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Key>,
    /// Whom it proves to be; absent: it has no sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// Chosen only where no other is ready.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// Timeouts and retries in milliseconds and numbers; absent: the proxy's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSettings {
    /// All tries together; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// One try; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_timeout_ms: Option<u64>,
    /// Making a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// Retries after the first try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Response codes that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u16>>,
}

/// Where the request goes from here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// The address it is sent to.
    pub address: SocketAddr,
    /// The workload there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Key>,
    /// Whom a sidecar there proves to be; absent: an application is there, and this was the last proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// The request as it arrives there.
    pub request: Described,
}

/// Explains one proxy's part in the described request.
pub fn explain(snapshot: &Snapshot, at: &At, described: &Described, moment: Moment) -> Explanation {
    let mut explanation = Explanation {
        listener: None,
        identity: None,
        principal: None,
        source: described.source,
        host: None,
        path: None,
        service: None,
        route: None,
        rule: None,
        guards: Vec::new(),
        filters: Vec::new(),
        redirect: None,
        backends: Vec::new(),
        backend: None,
        settings: None,
        endpoints: Vec::new(),
        target_guards: Vec::new(),
        verdict: Verdict::Allowed,
        next: None,
    };
    if let Err(denial) = explanation.fill(snapshot, at, described, moment) {
        explanation.verdict = denial.into();
    }
    explanation
}

impl Explanation {
    fn fill(&mut self, snapshot: &Snapshot, at: &At, described: &Described, moment: Moment) -> Result<(), Denial> {
        let nothing = || Denial::of(Reason::NoRoute, "nothing listens there");
        let (bind, destination) = match at {
            At::Address(bind, destination) => (*bind, *destination),
            At::Listener(key) => {
                let listener = snapshot.listeners.get(key).ok_or_else(nothing)?;
                (listener.spec.bind, first_destination(listener))
            }
        };
        // The live order: connection (listener by destination and TLS name), canonical head, listener by host, hygiene, decision.
        let mut head = described.http.as_ref().map(|http| Head::parse(http, snapshot)).transpose()?;
        if let Some(head) = &head {
            self.host = Some(head.host.clone());
            self.path = Some(head.request.uri.path().to_string());
        }
        let plain = snapshot.accept(bind, destination, None).ok_or_else(nothing)?;
        let meshed = described.principal.as_ref().filter(|_| plain.spec.mesh.is_some());
        let reserved = meshed.and(plain.spec.identity.as_ref()).map(SpiffeId::dns_name);
        let secure = matches!(plain.spec.protocol, Protocol::Https | Protocol::Tls)
            && described.http.as_ref().is_none_or(|http| http.scheme == "https");
        let name = reserved.or_else(|| self.host.clone().filter(|_| secure));
        let server_name = name.as_deref();
        let accepted = snapshot.accept(bind, destination, server_name).ok_or_else(nothing)?.clone();
        let tls = (meshed.is_some() || secure).then(|| ArrivalTls { listener: &accepted.key, server_name, peer: meshed });
        let arrival = Arrival { bind, destination, tls };

        let listener = decide::listener(snapshot, arrival, head.as_ref().map(|head| head.host.as_str()))?;
        self.listener = Some((*listener.key).clone());
        self.identity.clone_from(&listener.spec.identity);
        self.principal = meshed.cloned();
        let standing = Standing::of(&listener.spec, meshed);
        let mut scheme = decide::scheme(&listener, arrival);
        if let Some(head) = &mut head {
            let told = hygiene::clean(&mut head.request, standing, false)?;
            self.source = told.client.unwrap_or(self.source);
            scheme = told.scheme.unwrap_or(scheme);
            head.asked = told.host;
        }
        let source = Source { address: self.source, principal: meshed.cloned() };
        let facts = Destination { address: decide::target(&listener, bind, destination) };
        let http = head.as_ref().map(|head| head.http(scheme));
        let exchange = Exchange { source: &source, destination: &facts, http, now: moment.now, wall: moment.wall };
        let decided = decide::request(snapshot, arrival, &exchange, Purpose::Explain);
        self.note(&decided);
        let next = decided.next?;
        let address = match next {
            Next::Redirect(rewrite::Redirect { status, location }) => {
                self.redirect = Some(Location { status, location });
                return Ok(());
            }
            Next::Local(address) | Next::PassThrough(address) => {
                self.settings = Some(listener.settings.resolve(&exchange).as_ref().into());
                address
            }
            Next::Forward => {
                let Some(matched) = decided.matched else { return Ok(()) };
                let chosen = matched.rule.backend(described.random)?;
                self.settings = Some(chosen.settings.resolve(&exchange).as_ref().into());
                let sent =
                    head.as_ref().map(|head| head.sent(&exchange, matched.rule.filters.iter().chain(&chosen.filters), matched.prefix));
                return self.forward(&listener, chosen, sent, &exchange, described);
            }
        };
        let request = head.as_ref().map(|head| head.sent(&exchange, [].iter(), None).describe(&exchange));
        let request = Described { source: self.source, principal: None, http: request, random: described.random };
        self.next = Some(Hop { address, workload: None, identity: None, request });
        Ok(())
    }

    fn note(&mut self, decided: &Decided) {
        self.guards.clone_from(&decided.guards.steps);
        self.service = decided.destination.as_ref().map(|destination| (*destination.backend.key).clone());
        if let Some(matched) = &decided.matched {
            let rule = &matched.rule;
            self.route = Some((*rule.route).clone());
            self.rule = Some(rule.name.to_string());
            self.filters.clone_from(&rule.filters);
            let share = |share: &RuleBackend| Share { backend: share.backend.as_ref().map(|b| (*b.key).clone()), weight: share.weight };
            self.backends = rule.backends.iter().map(share).collect();
        }
    }

    fn forward(
        &mut self,
        listener: &Arc<Listener>,
        chosen: &RuleBackend,
        sent: Option<Head>,
        exchange: &Exchange<'_>,
        described: &Described,
    ) -> Result<(), Denial> {
        // `Rule::backend` gives none without one.
        let Some(backend) = &chosen.backend else { return Ok(()) };
        self.backend = Some((*backend.key).clone());
        self.filters.extend(chosen.filters.iter().cloned());
        let endpoints = backend.endpoints.endpoints();
        self.endpoints = endpoints
            .iter()
            .map(|state| Candidate {
                address: state.endpoint.address,
                workload: state.endpoint.workload.clone(),
                identity: state.endpoint.identity.clone(),
                draining: state.endpoint.draining,
            })
            .collect();
        let first = endpoints.first().ok_or_else(|| Denial::of(Reason::NoEndpoint, "no endpoint of the backend is ready"))?;
        let endpoint = &first.endpoint;
        if endpoint.identity.is_none() {
            let scheme = exchange.http.map_or("http", |http| http.scheme);
            let exchange = Exchange { http: sent.as_ref().map(|head| head.http(scheme)), ..*exchange };
            let decision = decide::destination(listener, backend, endpoint.address, &exchange, Purpose::Explain);
            self.target_guards = decision.steps;
            decision.denial.map_or(Ok(()), Err)?;
        }
        let principal = listener.spec.identity.clone().filter(|_| endpoint.identity.is_some());
        if endpoint.identity.is_some() && principal.is_none() {
            return Err(Denial::of(Reason::UpstreamConnect, "this listener has no identity to speak mesh TLS with"));
        }
        // An application's own proxy calls from the application's address, an edge from its own.
        let source = match (listener.spec.clients, listener.spec.bind) {
            (Clients::Outside, Bind::Bound(own)) if !own.ip().is_unspecified() => own.ip(),
            _ => exchange.source.address,
        };
        let http = sent.map(|head| head.describe(exchange));
        self.next = Some(Hop {
            address: endpoint.address,
            workload: endpoint.workload.clone(),
            identity: endpoint.identity.clone(),
            request: Described { source, principal, http, random: described.random },
        });
        Ok(())
    }
}

/// A canonical head.
struct Head {
    host: String,
    port: Option<u16>,
    request: RequestHeader,
    /// The authority that the client asked for, by an assertor's word.
    asked: Option<HeaderValue>,
}

impl Head {
    fn parse(http: &DescribedHttp, snapshot: &Snapshot) -> Result<Self, Denial> {
        let bad = |detail: &str| Denial::of(Reason::BadRequest, detail);
        let (host, port) = canonical::authority(&http.host)?;
        let (path, query) = http.path.split_once('?').map_or((http.path.as_str(), None), |(path, query)| (path, Some(query)));
        if query.is_some_and(|query| query.bytes().any(|byte| byte <= b' ' || byte == 0x7f)) {
            return Err(bad("the query has a control character or a space"));
        }
        let path = canonical::path(path, snapshot.mesh.paths)?;
        let target = query.map_or_else(|| path.to_string(), |query| format!("{path}?{query}"));
        let method = Method::from_bytes(http.method.as_bytes()).map_err(|_| bad("the method is malformed"))?;
        if method == Method::CONNECT {
            return Err(bad("CONNECT is not served here"));
        }
        let mut request = RequestHeader::build(method, target.as_bytes(), None).map_err(|_| bad("the request target is malformed"))?;
        for (name, value) in &http.headers {
            request.append_header(name.clone(), value.as_str()).map_err(|_| bad("a header is malformed"))?;
        }
        Ok(Self { host: host.into_owned(), port, request, asked: None })
    }

    fn http<'a>(&'a self, scheme: &'a str) -> Http<'a> {
        let request = &self.request;
        Http {
            method: &request.method,
            scheme,
            host: &self.host,
            path: request.uri.path(),
            query: request.uri.query(),
            headers: &request.headers,
        }
    }

    /// As it is sent upstream: forwarding headers, then the filters.
    fn sent<'a>(&self, exchange: &Exchange<'_>, filters: impl Iterator<Item = &'a FilterSpec> + Clone, prefix: Option<usize>) -> Self {
        let mut request = self.request.clone();
        let authority = self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host));
        let asked = self.asked.clone().or_else(|| authority.parse().ok());
        let proto = exchange.http.map_or("http", |http| http.scheme);
        // Values made of a canonical authority, an address and a literal are valid; a field that is not is left out.
        let _ = request.insert_header(hygiene::FORWARDED_FOR, exchange.source.address.to_string());
        let _ = request.insert_header(hygiene::FORWARDED_PROTO, proto);
        if let Some(asked) = asked {
            let _ = request.insert_header(hygiene::FORWARDED_HOST, asked);
        }
        for filter in filters.clone() {
            rewrite::request_fields(std::slice::from_ref(filter), &mut request);
        }
        let rewritten = rewrite::rewrite(filters, self.request.uri.path(), prefix);
        if let Some(path) = rewritten.path {
            let target = request.uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
            let _ = request.set_raw_path(target.as_bytes());
        }
        let port = self.port.filter(|_| rewritten.host.is_none());
        Self { host: rewritten.host.unwrap_or_else(|| self.host.clone()), port, request, asked: None }
    }

    /// As the next hop would describe it.
    fn describe(&self, exchange: &Exchange<'_>) -> DescribedHttp {
        let headers: &HeaderMap = &self.request.headers;
        let target = self.request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        DescribedHttp {
            method: self.request.method.to_string(),
            scheme: exchange.http.map_or("http", |http| http.scheme).into(),
            host: self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host)),
            path: target.into(),
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
        }
    }
}

/// The destination that stands for all of a listener's.
fn first_destination(listener: &Listener) -> SocketAddr {
    match listener.spec.bind {
        Bind::Bound(address) => address,
        Bind::Captured(_) => {
            let wanted = listener.spec.destination.clone().unwrap_or_default();
            let ip = wanted.addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0]));
            SocketAddr::new(ip, wanted.port.unwrap_or(listener.spec.port))
        }
    }
}

impl From<&Settings> for TrafficSettings {
    fn from(settings: &Settings) -> Self {
        let millis = |duration: Option<Duration>| duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        Self {
            request_timeout_ms: millis(settings.request_timeout),
            backend_timeout_ms: millis(settings.backend_timeout),
            connect_timeout_ms: millis(settings.connect_timeout),
            attempts: settings.attempts,
            codes: settings.codes.clone(),
        }
    }
}

impl From<Denial> for Verdict {
    fn from(denial: Denial) -> Self {
        Self::Denied {
            reason: denial.reason.as_str(),
            status: denial.reason.status(),
            policy: denial.policy.map(|key| (*key).clone()),
            rule: denial.rule.map(|rule| rule.to_string()),
            detail: denial.detail.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
