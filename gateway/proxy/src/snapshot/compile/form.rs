//! What a Resource is parsed to, and what a route must be besides well-formed.

use super::super::table::RouteMatches;
use crate::tls::Certificate;
use selvage_config::{BackendSpec, EndpointsSpec, ListenerSpec, Resource, RouteSpec};
use selvage_policy::list::Compiled;
use selvage_policy::mesh::PathHandling;
use selvage_policy::{Key, TargetKind};
use std::sync::Arc;

/// A parsed Resource.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// What it says is [`super::parts::mesh`], of which there is one.
    Mesh,
    Listener(Arc<ListenerSpec>),
    Route(Arc<RouteForm>),
    Backend(Arc<BackendSpec>),
    Endpoints(Arc<EndpointsSpec>),
    Certificate(Arc<Certificate>),
    Policy(Arc<Compiled>),
}

/// A route whose matches are parsed and whose filters are canonical.
#[derive(Debug)]
pub(super) struct RouteForm {
    /// Its Resource.
    pub(super) key: Arc<Key>,
    pub(super) created: i64,
    pub(super) spec: RouteSpec,
    pub(super) matches: Arc<RouteMatches>,
}

impl RouteForm {
    pub(super) fn parse(mut spec: RouteSpec, resource: &Resource, paths: PathHandling) -> Result<Self, String> {
        match spec.object.kind {
            TargetKind::HTTPRoute | TargetKind::GRPCRoute | TargetKind::TLSRoute | TargetKind::TCPRoute => {}
            other => return Err(format!("object.kind: {other:?} is not routed by this version of Selvage")),
        }
        for (number, rule) in spec.rules.iter_mut().enumerate() {
            rule.check(paths).map_err(|problem| format!("rules[{number}].{problem}"))?;
        }
        let opaque = matches!(spec.object.kind, TargetKind::TCPRoute | TargetKind::TLSRoute);
        if opaque && spec.rules.iter().any(|rule| !rule.matches.is_empty()) {
            return Err("rules: a TCPRoute or TLSRoute has no matches".into());
        }
        let matches = Arc::new(RouteMatches::parse(&spec, paths)?);
        Ok(Self { key: Arc::new(resource.key.clone()), created: resource.created, spec, matches })
    }
}
