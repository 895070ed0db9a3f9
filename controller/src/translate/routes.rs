//! Routes: what they are attached to, and their rules in the one form that proxies know.

use super::status::{Condition, ParentStatus, Problem, Reference};
use super::{Facts, GATEWAY_GROUP, Translation, port, services};
use crate::gateway_api::gateways::{GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From};
use crate::world::route::{BackendRef, Matches, ParentRef, Retry, Route, RouteKind, Rule};
use crate::world::{Name, Object};
use selvage_config::resource::route::{
    FilterSpec, HeaderChange, MatchSpec, PathChange, PathMatch, RedirectSpec, RetrySpec, RewriteSpec, RuleSpec, ValueMatch, ValueTest,
    WeightedBackend,
};
use selvage_config::resource::text::{HostPattern, Pattern};
use selvage_config::{Resource, RouteSpec, keys};
use selvage_policy::target::TargetKind;
use selvage_policy::{Key, Target, duration};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    for (object, route) in &facts.world.routes {
        let name = route.meta.named();
        let mut parents = Vec::new();
        let mut said = Vec::new();
        let hostnames: Result<Vec<HostPattern>, _> = route.spec.hostnames.iter().cloned().map(HostPattern::try_from).collect();
        let hostnames = hostnames.map_err(|error| ("UnsupportedValue", format!("spec.hostnames: {error}")));
        let mut unresolved = Vec::new();
        let rules = rules(facts, route, &mut unresolved);
        let valid = hostnames.as_ref().err().or(rules.as_ref().err()).cloned();
        for parent in &route.spec.parents {
            let attached = attach(facts, route, parent, translation);
            if let Ok(keys) = &attached {
                parents.extend(keys.iter().cloned());
            }
            let accepted = attached.and_then(|_| valid.clone().map_or(Ok(()), Err));
            let resolved = unresolved.first().cloned().map_or(Ok(()), Err);
            let conditions = vec![Condition::of("Accepted", accepted), Condition::of("ResolvedRefs", resolved)];
            said.push(ParentStatus { reference: reference(parent), conditions, targets: Vec::new() });
        }
        translation.status(object, route.meta.generation).parents = said;
        let (Ok(hostnames), Ok(rules)) = (hostnames, rules) else { continue };
        if parents.is_empty() {
            continue;
        }
        parents.sort();
        parents.dedup();
        let spec = RouteSpec { object: target(route), parents, hostnames, rules };
        translation.add(Resource::core(keys::route(&name.namespace, route.spec.kind.as_str(), &name.name), &spec, route.meta.created));
    }
}

fn rules(facts: &Facts<'_>, route: &Object<Route>, unresolved: &mut Vec<Problem>) -> Result<Vec<RuleSpec>, Problem> {
    let rules = route.spec.rules.iter().enumerate();
    let rules =
        rules.map(|(index, rule)| rule_spec(facts, route, rule, unresolved).map_err(|problem| format!("spec.rules[{index}].{problem}")));
    rules.collect::<Result<_, _>>().map_err(|problem| ("UnsupportedValue", problem))
}

/// What is wrong with a route's values, by field; for admission.
pub(crate) fn problems(route: &Object<Route>) -> Vec<(String, String)> {
    let hosts = route.spec.hostnames.iter().enumerate();
    let hosts = hosts.filter_map(|(index, host)| {
        HostPattern::try_from(host.clone()).err().map(|error| (format!("spec.hostnames[{index}]"), error.to_string()))
    });
    let rules = route.spec.rules.iter().enumerate().filter_map(|(index, rule)| {
        let problem = matches(&rule.matches).and_then(|_| rule_fields(rule)).err()?;
        let (field, problem) =
            problem.split_once(": ").map(|(field, problem)| (field.to_string(), problem.to_string())).unwrap_or_default();
        Some((format!("spec.rules[{index}].{field}"), problem))
    });
    hosts.chain(rules).collect()
}

/// The route as policies and logs name it.
fn target(route: &Object<Route>) -> Target {
    let kind = match route.spec.kind {
        RouteKind::Http => TargetKind::HTTPRoute,
        RouteKind::Grpc => TargetKind::GRPCRoute,
        RouteKind::Tls => TargetKind::TLSRoute,
        RouteKind::Tcp => TargetKind::TCPRoute,
    };
    Target::new(kind, &route.meta.namespace, &route.meta.name)
}

/// Whether a parent is a Service: the route is the mesh's.
pub(super) fn is_service(parent: &ParentRef) -> bool {
    parent.kind.as_deref() == Some("Service") && parent.group.as_deref().unwrap_or(GATEWAY_GROUP).is_empty()
}

/// As somebody wrote it.
fn reference(parent: &ParentRef) -> Reference {
    Reference {
        group: parent.group.clone().unwrap_or_else(|| GATEWAY_GROUP.into()),
        kind: parent.kind.clone().unwrap_or_else(|| "Gateway".into()),
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        port: parent.port,
    }
}

/// The Listeners or Backends that a parent reference stands for.
fn attach(facts: &Facts<'_>, route: &Object<Route>, parent: &ParentRef, translation: &Translation) -> Result<Vec<Key>, Problem> {
    let name = Name::new(parent.namespace.clone().unwrap_or_else(|| route.meta.namespace.clone()), parent.name.clone());
    if is_service(parent) {
        return attach_service(facts, route, parent, &name);
    }
    if parent.kind.as_deref().unwrap_or("Gateway") != "Gateway" {
        return Err((
            "NoMatchingParent",
            format!("a parent of kind {} is not known here: use Gateway or Service", parent.kind.as_deref().unwrap_or_default()),
        ));
    }
    let missing = || ("NoMatchingParent", format!("there is no Gateway {}/{} of ours", name.namespace, name.name));
    let gateway = facts.world.gateways.get(&name).filter(|_| facts.gateways.contains_key(&name)).ok_or_else(missing)?;
    let mut problem = ("NoMatchingParent", format!("no listener of Gateway {}/{} fits sectionName and port", name.namespace, name.name));
    let mut found = Vec::new();
    for listener in &gateway.spec.listeners {
        let section = parent.section_name.as_ref().is_none_or(|section| *section == listener.name);
        if !section || parent.port.is_some_and(|port| port != listener.port) {
            continue;
        }
        match allowed(facts, route, &name, listener) {
            Ok(()) => found.push(keys::listener(&name.namespace, &name.name, &listener.name)),
            Err(why) => problem = why,
        }
    }
    found.retain(|key| translation.resources.contains_key(key));
    if found.is_empty() { Err(problem) } else { Ok(found) }
}

/// Whether a listener takes this route: its kind, its namespace, its hosts.
fn allowed(facts: &Facts<'_>, route: &Object<Route>, gateway: &Name, listener: &GatewayListeners) -> Result<(), Problem> {
    let fits = match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => matches!(route.spec.kind, RouteKind::Http | RouteKind::Grpc),
        "TLS" => matches!(route.spec.kind, RouteKind::Tls | RouteKind::Tcp),
        "TCP" => route.spec.kind == RouteKind::Tcp,
        _ => false,
    };
    let kinds = listener.allowed_routes.as_ref().and_then(|allowed| allowed.kinds.as_ref());
    let listed = kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind.kind == route.spec.kind.as_str()));
    if !fits || !listed {
        return Err(("NotAllowedByListeners", format!("listener {} takes no {}", listener.name, route.spec.kind.as_str())));
    }
    let namespaces = listener.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let near = match namespaces.and_then(|namespaces| namespaces.from.as_ref()) {
        Some(From::All) => true,
        None | Some(From::Same) => route.meta.namespace == gateway.namespace,
        Some(From::Selector) => {
            let labels = facts.world.namespace_labels(&route.meta.namespace);
            let selector = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
            selector.is_some_and(|selector| {
                let equal = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
                let expressions = selector.match_expressions.iter().flatten();
                equal
                    && expressions
                        .into_iter()
                        .all(|one| expression(one.operator.as_str(), labels.get(&one.key), one.values.as_deref().unwrap_or_default()))
            })
        }
    };
    if !near {
        let message =
            format!("listener {} takes no routes of namespace {}: see its allowedRoutes.namespaces", listener.name, route.meta.namespace);
        return Err(("NotAllowedByListeners", message));
    }
    let own = listener.hostname.clone().and_then(|host| HostPattern::try_from(host).ok());
    let hosts: Vec<HostPattern> = route.spec.hostnames.iter().cloned().filter_map(|host| HostPattern::try_from(host).ok()).collect();
    if let Some(own) = own
        && !hosts.is_empty()
        && !hosts.iter().any(|host| own.intersection(host).is_some())
    {
        return Err(("NoMatchingListenerHostname", format!("no hostname of the route is one of listener {}'s {own}", listener.name)));
    }
    Ok(())
}

/// A label selector's expression (Kubernetes `LabelSelectorRequirement`).
fn expression(operator: &str, value: Option<&String>, values: &[String]) -> bool {
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

fn attach_service(facts: &Facts<'_>, route: &Object<Route>, parent: &ParentRef, name: &Name) -> Result<Vec<Key>, Problem> {
    let service = facts
        .world
        .services
        .get(name)
        .ok_or_else(|| ("NoMatchingParent", format!("there is no Service {}/{}", name.namespace, name.name)))?;
    let ports = services::ports(service).filter(|(number, _)| parent.port.is_none_or(|port| port == i32::from(*number)));
    let mut found: Vec<(u16, Key)> = ports.map(|(number, _)| (number, keys::backend(&name.namespace, &name.name, number))).collect();
    if found.is_empty() {
        return Err(("NoMatchingParent", format!("Service {}/{} has no such TCP port", name.namespace, name.name)));
    }
    // GAMMA: one protocol kind a Service port; GRPCRoute before HTTPRoute before TLSRoute before TCPRoute.
    let others: Vec<&Object<Route>> =
        facts.world.routes.values().map(AsRef::as_ref).filter(|other| other.spec.kind < route.spec.kind).collect();
    let taken = |number: u16| {
        others.iter().any(|other| {
            other.spec.parents.iter().filter(|parent| is_service(parent)).any(|parent| {
                parent.name == name.name
                    && parent.namespace.as_deref().unwrap_or(&other.meta.namespace) == name.namespace
                    && parent.port.is_none_or(|port| port == i32::from(number))
            })
        })
    };
    found.retain(|(number, _)| !taken(*number));
    if found.is_empty() {
        return Err((
            "Conflicted",
            format!("a route of another kind is attached to Service {}/{}: one kind a port holds", name.namespace, name.name),
        ));
    }
    Ok(found.into_iter().map(|(_, key)| key).collect())
}

fn rule_spec(facts: &Facts<'_>, route: &Object<Route>, rule: &Rule, unresolved: &mut Vec<Problem>) -> Result<RuleSpec, String> {
    let (filters, request_timeout_ms, backend_timeout_ms, retry) = rule_fields(rule)?;
    let mut backends = Vec::new();
    for reference in &rule.backends {
        let backend = backend(facts, route, reference);
        if let Err(problem) = &backend {
            unresolved.push(problem.clone());
        }
        let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
        let filters = reference.filters.iter().flatten().map(filter).collect();
        backends.push(WeightedBackend { backend: backend.ok(), weight, filters });
    }
    for filter in &filters {
        if let FilterSpec::Unresolved(problem) = filter {
            unresolved.push(("InvalidFilter", problem.clone()));
        }
    }
    Ok(RuleSpec {
        name: rule.name.clone(),
        matches: matches(&rule.matches)?,
        filters,
        backends,
        request_timeout_ms,
        backend_timeout_ms,
        retry,
    })
}

type Fields = (Vec<FilterSpec>, Option<u64>, Option<u64>, Option<RetrySpec>);

/// Filters, timeouts and retries: all that does not depend on the rest of the World.
fn rule_fields(rule: &Rule) -> Result<Fields, String> {
    let millis = |field: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(duration::parse).transpose();
        let parsed = parsed.map_err(|error| format!("{field}: {error}"))?;
        Ok::<_, String>(parsed.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    };
    let timeouts = rule.timeouts.as_ref();
    let request = millis("timeouts.request", &timeouts.and_then(|timeouts| timeouts.request.clone()))?;
    let backend = millis("timeouts.backendRequest", &timeouts.and_then(|timeouts| timeouts.backend_request.clone()))?;
    let retry = rule.retry.as_ref().map(|retry: &Retry| {
        Ok::<_, String>(RetrySpec {
            codes: retry.codes.iter().flatten().filter_map(|code| u16::try_from(*code).ok()).collect(),
            attempts: retry.attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            backoff_ms: millis("retry.backoff", &retry.backoff)?,
        })
    });
    Ok((rule.filters.iter().map(filter).collect(), request, backend, retry.transpose()?))
}

fn backend(facts: &Facts<'_>, route: &Object<Route>, reference: &BackendRef) -> Result<Key, Problem> {
    let name = Name::new(reference.namespace.clone().unwrap_or_else(|| route.meta.namespace.clone()), reference.name.clone());
    if reference.kind.as_deref().unwrap_or("Service") != "Service" || !reference.group.as_deref().unwrap_or("").is_empty() {
        return Err((
            "InvalidKind",
            format!("backendRefs name Services, not {}", reference.kind.as_deref().unwrap_or("another group's kind")),
        ));
    }
    if !facts.granted(route.spec.kind.as_str(), &route.meta.namespace, "Service", &name) {
        return Err((
            "RefNotPermitted",
            format!("Service {}/{} is in another namespace: a ReferenceGrant there must allow it", name.namespace, name.name),
        ));
    }
    let missing = |what: String| ("BackendNotFound", what);
    let service =
        facts.world.services.get(&name).ok_or_else(|| missing(format!("there is no Service {}/{}", name.namespace, name.name)))?;
    let number = reference
        .port
        .and_then(port)
        .ok_or_else(|| missing(format!("the reference to Service {}/{} lacks a port", name.namespace, name.name)))?;
    if !services::ports(service).any(|(one, _)| one == number) {
        return Err(missing(format!("Service {}/{} has no TCP port {number}", name.namespace, name.name)));
    }
    Ok(keys::backend(&name.namespace, &name.name, number))
}

fn matches(matches: &Matches) -> Result<Vec<MatchSpec>, String> {
    match matches {
        Matches::All => Ok(Vec::new()),
        Matches::Http(all) => {
            all.iter().enumerate().map(|(index, one)| http(&json(one)).map_err(|problem| format!("matches[{index}].{problem}"))).collect()
        }
        Matches::Grpc(all) => {
            all.iter().enumerate().map(|(index, one)| grpc(&json(one)).map_err(|problem| format!("matches[{index}].{problem}"))).collect()
        }
    }
}

/// The generated types differ by place and kind; their JSON does not.
fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(String::from)
}

fn http(one: &Value) -> Result<MatchSpec, String> {
    let path = one.get("path").map(|path| {
        let value = text(path, "/value").unwrap_or_else(|| "/".into());
        match path.get("type").and_then(Value::as_str).unwrap_or("PathPrefix") {
            "Exact" => Ok(PathMatch::Exact(value)),
            "RegularExpression" => Pattern::try_from(value).map(PathMatch::Regex).map_err(|error| format!("path.value: {error}")),
            _ => Ok(PathMatch::Prefix(value)),
        }
    });
    Ok(MatchSpec {
        path: path.transpose()?,
        method: text(one, "/method"),
        headers: values(one, "headers", true)?,
        query: values(one, "queryParams", false)?,
    })
}

fn values(one: &Value, field: &str, lower: bool) -> Result<Vec<ValueMatch>, String> {
    let tests = one.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
    tests
        .map(|(index, test)| {
            let name = text(test, "/name").unwrap_or_default();
            let value = text(test, "/value").unwrap_or_default();
            let value = match test.get("type").and_then(Value::as_str) {
                Some("RegularExpression") => {
                    ValueTest::Regex(Pattern::try_from(value).map_err(|error| format!("{field}[{index}].value: {error}"))?)
                }
                _ => ValueTest::Exact(value),
            };
            Ok(ValueMatch { name: if lower { name.to_lowercase() } else { name }, value })
        })
        .collect()
}

/// A gRPC service and method are a path, `/service/method`.
fn grpc(one: &Value) -> Result<MatchSpec, String> {
    let (service, method) = (text(one, "/method/service"), text(one, "/method/method"));
    let regex = one.pointer("/method/type").and_then(Value::as_str) == Some("RegularExpression");
    let pattern = |text: String| Pattern::try_from(text).map(PathMatch::Regex).map_err(|error| format!("method: {error}"));
    let path = match (service, method, regex) {
        (None, None, _) => None,
        (Some(service), Some(method), false) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
        (Some(service), None, false) => Some(PathMatch::Prefix(format!("/{service}"))),
        (None, Some(method), false) => Some(pattern(format!("/[^/]+/{}", regex::escape(&method)))?),
        (service, method, true) => {
            let any = || "[^/]+".to_string();
            Some(pattern(format!("/(?:{})/(?:{})", service.unwrap_or_else(any), method.unwrap_or_else(any)))?)
        }
    };
    Ok(MatchSpec { path, method: None, headers: values(one, "headers", true)?, query: Vec::new() })
}

fn filter(one: &impl Serialize) -> FilterSpec {
    let one = json(one);
    let kind = text(&one, "/type").unwrap_or_default();
    let path = |pointer: &str| {
        let full = text(&one, &format!("{pointer}/replaceFullPath")).map(PathChange::Full);
        full.or_else(|| text(&one, &format!("{pointer}/replacePrefixMatch")).map(PathChange::Prefix))
    };
    match kind.as_str() {
        "RequestHeaderModifier" => FilterSpec::RequestHeaders(change(&one["requestHeaderModifier"])),
        "ResponseHeaderModifier" => FilterSpec::ResponseHeaders(change(&one["responseHeaderModifier"])),
        "RequestRedirect" => FilterSpec::Redirect(RedirectSpec {
            scheme: text(&one, "/requestRedirect/scheme"),
            hostname: text(&one, "/requestRedirect/hostname"),
            path: path("/requestRedirect/path"),
            port: one.pointer("/requestRedirect/port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()),
            status: one
                .pointer("/requestRedirect/statusCode")
                .and_then(Value::as_u64)
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or(302),
        }),
        "URLRewrite" => FilterSpec::Rewrite(RewriteSpec { hostname: text(&one, "/urlRewrite/hostname"), path: path("/urlRewrite/path") }),
        other => FilterSpec::Unresolved(format!("filter {other} is not served yet: requests of this rule are answered 500")),
    }
}

fn change(value: &Value) -> HeaderChange {
    let pairs = |field: &str| {
        let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|pair| Some((text(pair, "/name")?.to_lowercase(), text(pair, "/value")?))).collect()
    };
    let remove = value.get("remove").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase);
    HeaderChange { set: pairs("set"), add: pairs("add"), remove: remove.collect() }
}

/// The backends that each Route leads to, by its key.
pub(super) fn backends(translation: &Translation) -> BTreeMap<Key, (RouteSpec, Vec<Key>)> {
    let routes = translation.resources.values().filter(|resource| resource.key.kind == "Route");
    let specs =
        routes.filter_map(|resource| Some((resource.key.clone(), serde_json::from_value::<RouteSpec>(resource.spec.clone()).ok()?)));
    specs
        .map(|(key, spec)| {
            let led = spec.rules.iter().flat_map(|rule| rule.backends.iter().filter_map(|one| one.backend.clone())).collect();
            (key, (spec, led))
        })
        .collect()
}
