//! Routes of every kind in one shape.
//!
//! kopium writes a type for each place of each CRD; Gateway API gives the same fields the same names and meanings in all of them, so
//! those of HTTPRoute, the richest, stand for all here.

pub use crate::gateway_api::httproutes::{
    HttpRouteParentRefs as ParentRef, HttpRouteRulesBackendRefs as BackendRef, HttpRouteRulesBackendRefsFilters as BackendFilter,
    HttpRouteRulesFilters as Filter, HttpRouteRulesMatches as HttpMatch, HttpRouteRulesRetry as Retry, HttpRouteRulesTimeouts as Timeouts,
};

use crate::gateway_api::grpcroutes::GrpcRouteRulesMatches as GrpcMatch;
use crate::gateway_api::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec, TlsRouteSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of route. The order is that of GAMMA: of the kinds attached to one Service port the first that is there holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// GRPCRoute
    Grpc,
    /// HTTPRoute
    Http,
    /// TLSRoute
    Tls,
    /// TCPRoute
    Tcp,
}

impl RouteKind {
    /// The Kubernetes kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which kind.
    pub kind: RouteKind,
    /// What it is attached to.
    pub parents: Vec<ParentRef>,
    /// Hosts.
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: Option<String>,
    /// What it matches.
    pub matches: Matches,
    /// What is changed.
    pub filters: Vec<Filter>,
    /// Where it goes.
    pub backends: Vec<BackendRef>,
    /// Deadlines (HTTPRoute).
    pub timeouts: Option<Timeouts>,
    /// Retries (HTTPRoute).
    pub retry: Option<Retry>,
    /// Fields that somebody wrote and nothing here serves.
    pub unserved: Vec<String>,
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq)]
pub enum Matches {
    /// HTTPRoute
    Http(Vec<HttpMatch>),
    /// GRPCRoute
    Grpc(Vec<GrpcMatch>),
    /// TLSRoute, TCPRoute
    All,
}

impl Route {
    /// Rules with fields that are not known (paths of the object) cannot be served as they are written.
    pub(super) fn leave_out(&mut self, unknown: &[String]) {
        for (index, field) in unknown.iter().filter_map(|path| in_rule(path)) {
            if let Some(rule) = self.rules.get_mut(index) {
                rule.unserved.push(field.to_string());
            }
        }
    }
}

/// The rule that a path of a route's leads into, and the rest of the path.
pub(crate) fn in_rule(path: &str) -> Option<(usize, &str)> {
    let (index, field) = path.strip_prefix("spec.rules[")?.split_once("].")?;
    Some((index.parse().ok()?, field))
}

/// A type of one place as the type of another with the same fields.
fn same<T: DeserializeOwned>(value: &impl Serialize) -> Result<T, serde_json::Error> {
    serde_json::to_value(value).and_then(serde_json::from_value)
}

impl TryFrom<HttpRouteSpec> for Route {
    type Error = serde_json::Error;

    fn try_from(spec: HttpRouteSpec) -> Result<Self, Self::Error> {
        let rule = |rule: crate::gateway_api::httproutes::HttpRouteRules| Rule {
            name: rule.name,
            matches: Matches::Http(rule.matches.unwrap_or_default()),
            filters: rule.filters.unwrap_or_default(),
            backends: rule.backend_refs.unwrap_or_default(),
            timeouts: rule.timeouts,
            retry: rule.retry,
            unserved: rule.session_persistence.iter().map(|_| "sessionPersistence".to_string()).collect(),
        };
        Ok(Self {
            kind: RouteKind::Http,
            parents: spec.parent_refs.unwrap_or_default(),
            hostnames: spec.hostnames.unwrap_or_default(),
            rules: spec.rules.unwrap_or_default().into_iter().map(rule).collect(),
        })
    }
}

impl TryFrom<GrpcRouteSpec> for Route {
    type Error = serde_json::Error;

    fn try_from(spec: GrpcRouteSpec) -> Result<Self, Self::Error> {
        let rule = |rule: crate::gateway_api::grpcroutes::GrpcRouteRules| {
            Ok(Rule {
                name: rule.name,
                matches: Matches::Grpc(rule.matches.unwrap_or_default()),
                filters: same(&rule.filters.unwrap_or_default())?,
                backends: same(&rule.backend_refs.unwrap_or_default())?,
                timeouts: None,
                retry: None,
                unserved: rule.session_persistence.iter().map(|_| "sessionPersistence".to_string()).collect(),
            })
        };
        Ok(Self {
            kind: RouteKind::Grpc,
            parents: same(&spec.parent_refs.unwrap_or_default())?,
            hostnames: spec.hostnames.unwrap_or_default(),
            rules: spec.rules.unwrap_or_default().into_iter().map(rule).collect::<Result<_, serde_json::Error>>()?,
        })
    }
}

impl TryFrom<TlsRouteSpec> for Route {
    type Error = serde_json::Error;

    fn try_from(spec: TlsRouteSpec) -> Result<Self, Self::Error> {
        let rules = spec.rules.iter().map(|rule| opaque(rule.name.clone(), &rule.backend_refs)).collect::<Result<_, _>>()?;
        Ok(Self { kind: RouteKind::Tls, parents: same(&spec.parent_refs.unwrap_or_default())?, hostnames: spec.hostnames, rules })
    }
}

impl TryFrom<TcpRouteSpec> for Route {
    type Error = serde_json::Error;

    fn try_from(spec: TcpRouteSpec) -> Result<Self, Self::Error> {
        let rules = spec.rules.iter().map(|rule| opaque(rule.name.clone(), &rule.backend_refs)).collect::<Result<_, _>>()?;
        Ok(Self { kind: RouteKind::Tcp, parents: same(&spec.parent_refs.unwrap_or_default())?, hostnames: Vec::new(), rules })
    }
}

fn opaque(name: Option<String>, backends: &impl Serialize) -> Result<Rule, serde_json::Error> {
    Ok(Rule {
        name,
        matches: Matches::All,
        filters: Vec::new(),
        backends: same(backends)?,
        timeouts: None,
        retry: None,
        unserved: Vec::new(),
    })
}
