//! What a Resource is parsed to, and what a route must be besides well-formed.

use super::super::table::RouteMatches;
use crate::tls::Certificate;
use http::{HeaderName, HeaderValue};
use selvage_config::resource::route::{FilterSpec, HeaderChange, PathChange, PathMatch, RuleSpec};
use selvage_config::{BackendSpec, EndpointsSpec, ListenerSpec, MeshSpec, Resource, RouteSpec};
use selvage_policy::list::Compiled;
use selvage_policy::mesh::PathHandling;
use selvage_policy::{Key, TargetKind, canonical};
use std::sync::Arc;

/// A parsed Resource.
#[derive(Clone, Debug)]
pub(super) enum Form {
    Mesh(Arc<MeshSpec>),
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

/// Fields that frame messages or that only proxies may set: no filter may touch them.
const RESERVED: [&str; 9] =
    ["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

impl RouteForm {
    pub(super) fn parse(mut spec: RouteSpec, resource: &Resource, paths: PathHandling) -> Result<Self, String> {
        match spec.object.kind {
            TargetKind::HTTPRoute | TargetKind::GRPCRoute | TargetKind::TCPRoute => {}
            other => return Err(format!("object.kind: {other:?} is not routed by this version of Selvage")),
        }
        for (number, rule) in spec.rules.iter_mut().enumerate() {
            check_rule(rule, paths).map_err(|problem| format!("rules[{number}].{problem}"))?;
        }
        if spec.object.kind == TargetKind::TCPRoute && spec.rules.iter().any(|rule| !rule.matches.is_empty()) {
            return Err("rules: a TCPRoute has no matches".into());
        }
        let matches = Arc::new(RouteMatches::parse(&spec, paths)?);
        Ok(Self { key: Arc::new(resource.key.clone()), created: resource.created, spec, matches })
    }
}

fn check_rule(rule: &mut RuleSpec, paths: PathHandling) -> Result<(), String> {
    let by_prefix = rule.matches.iter().all(|one| matches!(one.path, None | Some(PathMatch::Prefix(_))));
    for (number, filter) in rule.filters.iter_mut().enumerate() {
        check_filter(filter, by_prefix, paths).map_err(|problem| format!("filters[{number}].{problem}"))?;
    }
    for (number, backend) in rule.backends.iter_mut().enumerate() {
        for filter in &mut backend.filters {
            if matches!(filter, FilterSpec::Redirect(_)) {
                return Err(format!("backends[{number}].filters: a redirect belongs to the rule, not to a backend"));
            }
            check_filter(filter, by_prefix, paths).map_err(|problem| format!("backends[{number}].filters.{problem}"))?;
        }
    }
    Ok(())
}

fn check_filter(filter: &mut FilterSpec, by_prefix: bool, paths: PathHandling) -> Result<(), String> {
    match filter {
        FilterSpec::RequestHeaders(change) => check_headers(change).map_err(|problem| format!("requestHeaders.{problem}")),
        FilterSpec::ResponseHeaders(change) => check_headers(change).map_err(|problem| format!("responseHeaders.{problem}")),
        FilterSpec::Redirect(redirect) => {
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                return Err(format!("redirect.status: {} is not one of 301, 302, 303, 307, 308", redirect.status));
            }
            if let Some(other) = redirect.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
                return Err(format!("redirect.scheme: `{other}` is not `http` or `https`"));
            }
            check_target(&mut redirect.hostname, &mut redirect.path, by_prefix, paths).map_err(|problem| format!("redirect.{problem}"))
        }
        FilterSpec::Rewrite(rewrite) => {
            check_target(&mut rewrite.hostname, &mut rewrite.path, by_prefix, paths).map_err(|problem| format!("rewrite.{problem}"))
        }
        FilterSpec::Unresolved(_) => Ok(()),
    }
}

fn check_target(hostname: &mut Option<String>, path: &mut Option<PathChange>, by_prefix: bool, paths: PathHandling) -> Result<(), String> {
    if let Some(host) = hostname {
        match canonical::authority(host) {
            Ok((canonical, None)) => *host = canonical.into_owned(),
            _ => return Err(format!("hostname: `{host}` is not a host name without a port")),
        }
    }
    let canonical = |text: &str| match text {
        "" => Ok(String::new()),
        text => canonical::path(text, paths).map(|path| path.into_owned()).map_err(|invalid| format!("path: `{text}`: {invalid}")),
    };
    match path {
        None => {}
        Some(PathChange::Full(text)) => *text = canonical(text)?,
        Some(PathChange::Prefix(_)) if !by_prefix => {
            return Err("path: a prefix is replaced only where every match of the rule is a prefix match".into());
        }
        Some(PathChange::Prefix(text)) => *text = canonical(text)?,
    }
    Ok(())
}

fn check_headers(change: &HeaderChange) -> Result<(), String> {
    let name = |field: &str, name: &str| {
        let parsed: HeaderName = name.parse().map_err(|_| format!("{field}: `{name}` is not a header name"))?;
        if RESERVED.contains(&parsed.as_str()) || parsed.as_str().starts_with("selvage-") {
            return Err(format!("{field}: `{name}` cannot be changed by a filter (for `host` use URLRewrite.hostname)"));
        }
        Ok(())
    };
    for (field, pairs) in [("set", &change.set), ("add", &change.add)] {
        for (key, value) in pairs {
            name(field, key)?;
            value.parse::<HeaderValue>().map_err(|_| format!("{field}: the value of `{key}` has a control character"))?;
        }
    }
    change.remove.iter().try_for_each(|key| name("remove", key))
}
