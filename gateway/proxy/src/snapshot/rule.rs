//! Rules and the backends they lead to.

use super::RouteTable;
use crate::state::balance::EndpointSet;
use crate::state::budget::RetryBudget;
use selvage_config::BackendSpec;
use selvage_config::resource::route::FilterSpec;
use selvage_policy::list::GuardSet;
use selvage_policy::traffic::TrafficSet;
use selvage_policy::{Denial, Key, Reason};
use std::sync::Arc;

/// A Service port that can be sent to.
#[derive(Debug)]
pub struct Backend {
    /// Its key.
    pub key: Arc<Key>,
    /// As it was sent.
    pub spec: BackendSpec,
    /// Guards of its chain, run once per request for endpoints without a sidecar: see [`super::decide::destination`].
    pub guards: Arc<GuardSet>,
    /// Its endpoints: live, outside the Snapshot.
    pub endpoints: Arc<EndpointSet>,
    /// How many retries it may still get: live, outside the Snapshot.
    pub retries: Arc<RetryBudget>,
}

/// A Service port as callers reach it.
#[derive(Debug)]
pub struct Destination {
    /// The Service port itself.
    pub backend: Arc<Backend>,
    /// Routes whose parent it is (mesh).
    pub routes: Arc<RouteTable>,
    /// The rule that balances over its endpoints where it has no routes.
    pub default_rule: Arc<Rule>,
}

/// A rule ready to be applied.
#[derive(Debug)]
pub struct Rule {
    /// The route it is of, for logs and explain: kind, namespace and name as somebody wrote them; the Backend's key for a default rule.
    pub route: Arc<Key>,
    /// Its name, or its number.
    pub name: Arc<str>,
    /// Guards of the whole chain: Gateway, listener, route, rule. Empty for mesh routes.
    pub guards: Arc<GuardSet>,
    /// Changes, in order.
    pub filters: Vec<FilterSpec>,
    /// Where it goes.
    pub backends: Vec<RuleBackend>,
}

/// One weighted backend of a rule.
#[derive(Debug)]
pub struct RuleBackend {
    /// Absent: requests get `invalid_backend`. [`Rule::backend`] never returns such a one.
    pub backend: Option<Arc<Backend>>,
    /// Share.
    pub weight: u32,
    /// Changes for requests that go here.
    pub filters: Vec<FilterSpec>,
    /// Traffic settings: the route's own fields, then the policies of the route's and the backend's chain.
    pub settings: Arc<TrafficSet>,
}

/// A matched rule.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Length of the matched path prefix in bytes, for prefix rewrites; what follows is empty or begins with `/`.
    pub prefix: Option<usize>,
}

impl Rule {
    /// Picks a backend by weight; `random` is uniform over all of u64.
    pub fn backend(&self, random: u64) -> Result<&RuleBackend, Denial> {
        let total: u64 = self.backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let invalid = |detail: &str| Denial::of(Reason::InvalidBackend, detail);
        if total == 0 {
            return Err(invalid("the route's rule has no backend with a weight above 0"));
        }
        // The high half of the product is uniform over 0..total, without a modulo's bias towards small values.
        let mut at = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        for chosen in &self.backends {
            let weight = u64::from(chosen.weight);
            if at < weight {
                if let Some(FilterSpec::Unresolved(reference)) = chosen.filters.iter().find(|f| matches!(f, FilterSpec::Unresolved(_))) {
                    return Err(invalid(&format!("a filter of the route's backend does not resolve: {reference}")));
                }
                return match chosen.backend {
                    Some(_) => Ok(chosen),
                    None => Err(invalid("a backend of the route's rule does not exist or may not be referred to")),
                };
            }
            at -= weight;
        }
        Err(invalid("the route's rule has no backend"))
    }
}
