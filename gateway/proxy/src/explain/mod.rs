//! What would become of a described request: the live sequence of decisions, run without counting, with every step written down.
//!
//! ```text
//! At + Described ── canonical, hygiene, decide::request, backend, rewrite, decide::destination ──> Explanation { .., next }
//! ```
//!
//! One call is one proxy. `next` is the request as the proxy at the chosen endpoint will see it: hand it to the explain of that proxy's
//! Snapshot, under [`At::Address`], for the next hop. Nothing here moves a counter or asks anybody remote.

mod described;
mod explanation;
mod head;

pub use described::{Described, DescribedHttp};
pub use explanation::{Candidate, Explanation, Hop, Location, Share, TrafficSettings, Verdict};

use crate::driver::hygiene::{self, Standing};
use crate::snapshot::decide::{self, Arrival, ArrivalTls, Decided, Next};
use crate::snapshot::{Listener, RuleBackend, Snapshot, rewrite};
use head::Head;
use selvage_config::resource::listener::{Bind, Clients, Protocol};
use selvage_policy::exchange::Destination;
use selvage_policy::list::Purpose;
use selvage_policy::{Denial, Exchange, Key, Reason, Source, SpiffeId, canonical};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Where the described request arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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

/// What the way from a rule to an endpoint depends on.
struct Onward<'a> {
    snapshot: &'a Snapshot,
    listener: &'a Arc<Listener>,
    /// The one endpoint, where the caller chose it.
    pin: Option<SocketAddr>,
    counted: Vec<Arc<Key>>,
}

/// Explains one proxy's part in the described request.
pub fn explain(snapshot: &Snapshot, at: &At, described: &Described, moment: Moment) -> Explanation {
    let mut explanation = Explanation::of(described);
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
        let plain = snapshot.accept(bind, destination, None).ok_or_else(nothing)?;
        let protocol = decide::protocol(snapshot, plain, destination);
        // Bytes to this proxy, whatever they are to those who exchange them: of the request it sees the TLS name, if there is one.
        let opaque = matches!(protocol, Protocol::Tls | Protocol::Passthrough | Protocol::Tcp);
        let mut head = described.http.as_ref().filter(|_| !opaque).map(|http| Head::parse(http, snapshot)).transpose()?;
        self.host = described.http.as_ref().and_then(|http| Some(canonical::authority(&http.host).ok()?.0.into_owned()));
        self.path = head.as_ref().map(|head| head.request.uri.path().to_string());
        let meshed = described.principal.as_ref().filter(|_| plain.spec.mesh.is_some());
        let reserved = meshed.and(plain.spec.identity.as_ref()).map(SpiffeId::dns_name);
        let secure = matches!(protocol, Protocol::Https | Protocol::Tls | Protocol::Passthrough)
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
            Next::Forward | Next::Pinned(_) => {
                let Some(matched) = decided.matched else { return Ok(()) };
                let chosen = matched.rule.backend(described.random)?;
                self.settings = Some(chosen.settings.resolve(&exchange).as_ref().into());
                let sent =
                    head.as_ref().map(|head| head.sent(&exchange, matched.rule.filters.iter().chain(&chosen.filters), matched.prefix));
                let pin = if let Next::Pinned(address) = next { Some(address) } else { None };
                let mut onward = Onward { snapshot, listener: &listener, pin, counted: decided.guards.counted };
                return self.forward(&mut onward, chosen, sent, &exchange, described);
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
        onward: &mut Onward<'_>,
        chosen: &RuleBackend,
        sent: Option<Head>,
        exchange: &Exchange<'_>,
        described: &Described,
    ) -> Result<(), Denial> {
        let Onward { snapshot, listener, pin, counted } = onward;
        // `Rule::backend` gives none without one.
        let Some(backend) = &chosen.backend else { return Ok(()) };
        self.backend = Some((*backend.key).clone());
        self.filters.extend(chosen.filters.iter().cloned());
        let mut endpoints = backend.endpoints.endpoints();
        endpoints.retain(|state| pin.is_none_or(|address| state.endpoint.address == address));
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
            let seen = sent.as_ref().map(Head::at_target);
            let exchange = Exchange { http: seen.as_ref().map(|head| head.http(scheme)), ..*exchange };
            for backend in decide::guarding(snapshot, backend, endpoint.address) {
                let mut decision = decide::destination(listener, backend, endpoint.address, &exchange, Purpose::Explain, counted);
                self.target_guards.append(&mut decision.steps);
                counted.append(&mut decision.counted);
                decision.denial.map_or(Ok(()), Err)?;
            }
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

#[cfg(test)]
mod tests;
