//! The rules of a route: what of them is served, what is refused, and where they lead.
//!
//! A rule that cannot be served as it is written is never served in part: its requests are answered 500. One whose matches cannot be
//! understood has no requests.

use super::filters::{self, Filter};
use super::{is_service, matches};
use crate::translate::status::Problem;
use crate::translate::{Facts, port, services};
use crate::world::route::{BackendRef, Retry, Route, Rule};
use crate::world::{Name, Object};
use selvage_config::keys;
use selvage_config::resource::route::{FilterSpec, MatchSpec, RetrySpec, RuleSpec, WeightedBackend};
use selvage_policy::mesh::PathHandling;
use selvage_policy::{Key, duration};

/// Makes rules.
pub(super) struct Maker<'f, 'a> {
    pub facts: &'f Facts<'a>,
    pub paths: PathHandling,
}

/// The rules of one route.
#[derive(Default)]
pub(super) struct Rules {
    /// As proxies are told.
    pub specs: Vec<RuleSpec>,
    /// Rules that are not served as they are written, by number.
    invalid: Vec<(usize, Problem)>,
    /// References that do not resolve.
    unresolved: Vec<Problem>,
    count: usize,
}

impl Rules {
    /// Whether the route holds: wholly, in part (with what is dropped), or not.
    pub(super) fn verdict(&self) -> Result<Option<String>, Problem> {
        match self.invalid.first() {
            None => Ok(None),
            Some((_, problem)) if self.invalid.len() == self.count => Err(problem.clone()),
            Some(_) => {
                let dropped: Vec<String> =
                    self.invalid.iter().map(|(index, (_, message))| format!("Dropped Rule {index}: {message}")).collect();
                Ok(Some(dropped.join("; ")))
            }
        }
    }

    /// Whether every reference resolves.
    pub(super) fn resolved(&self) -> Result<(), Problem> {
        self.unresolved.first().cloned().map_or(Ok(()), Err)
    }
}

impl Maker<'_, '_> {
    pub(super) fn rules(&self, route: &Object<Route>) -> Rules {
        let mut rules = Rules { count: route.spec.rules.len(), ..Rules::default() };
        // Mesh routes say how something is reached that is reachable anyway: only what a Gateway shows to the outside needs a grant (GEP-1294).
        let needs_grants = !route.spec.parents.iter().all(is_service);
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let at = |problem: String| format!("spec.rules[{index}].{problem}");
            let strange = rule.unserved.iter().find(|field| field.starts_with("matches"));
            let matches = strange.map_or_else(|| matches::matches(&rule.matches, self.paths), |field| Err(unserved(field)));
            let matches = match matches {
                Ok(matches) => matches,
                Err(problem) => {
                    rules.invalid.push((index, ("UnsupportedValue", at(problem))));
                    continue;
                }
            };
            match self.rule(route, rule, matches.clone(), needs_grants, &mut rules.unresolved) {
                Ok(spec) => rules.specs.push(spec),
                Err((reason, problem)) => {
                    let refusal = FilterSpec::Unresolved(format!("rule {index} cannot be served as it is written"));
                    rules.specs.push(RuleSpec { name: rule.name.clone(), matches, filters: vec![refusal], ..RuleSpec::default() });
                    rules.invalid.push((index, (reason, at(problem))));
                }
            }
        }
        rules
    }

    fn rule(
        &self,
        route: &Object<Route>,
        rule: &Rule,
        matches: Vec<MatchSpec>,
        needs_grants: bool,
        unresolved: &mut Vec<Problem>,
    ) -> Result<RuleSpec, Problem> {
        let mut spec = fields(rule, matches)?;
        for filter in rule.filters.iter().map(filters::filter) {
            if let Filter::Unresolved(problem) = filter {
                spec.filters.push(FilterSpec::Unresolved(problem.1.clone()));
                unresolved.push(problem);
            }
        }
        for reference in &rule.backends {
            let mut found = self.backend(route, reference, needs_grants);
            let filters: Vec<Filter> = reference.filters.iter().flatten().map(filters::filter).collect();
            let strange =
                filters.iter().find_map(|filter| if let Filter::Unresolved(problem) = filter { Some(problem.clone()) } else { None });
            // Whatever is not found takes its share of requests, and answers them 500.
            found = strange.map_or(found, Err);
            if let Err(problem) = &found {
                unresolved.push(problem.clone());
            }
            let filters =
                filters.into_iter().filter_map(|filter| if let Filter::Served(spec) = filter { Some(spec) } else { None }).collect();
            let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
            spec.backends.push(WeightedBackend { backend: found.ok(), weight, filters });
        }
        spec.check(self.paths).map_err(|problem| ("UnsupportedValue", problem))?;
        Ok(spec)
    }

    fn backend(&self, route: &Object<Route>, reference: &BackendRef, needs_grants: bool) -> Result<Key, Problem> {
        let facts = self.facts;
        let name = Name::new(reference.namespace.clone().unwrap_or_else(|| route.meta.namespace.clone()), reference.name.clone());
        let shown = format!("Service {}/{}", name.namespace, name.name);
        let (group, kind) = (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or("Service"));
        if (group, kind) != ("", "Service") {
            let of = if group.is_empty() { "the core group" } else { group };
            return Err(("InvalidKind", format!("backendRefs name Services, not {kind} of {of}")));
        }
        if needs_grants && !facts.granted(route.spec.kind.as_str(), &route.meta.namespace, "Service", &name) {
            return Err(("RefNotPermitted", format!("{shown} is in another namespace: a ReferenceGrant there must allow it")));
        }
        let missing = |what: String| ("BackendNotFound", what);
        let service = facts.world.services.get(&name).ok_or_else(|| missing(format!("there is no {shown}")))?;
        if service.spec.type_.as_deref() == Some("ExternalName") {
            return Err(("InvalidKind", format!("{shown} is an alias (ExternalName), which is not served")));
        }
        let number = reference.port.and_then(port).ok_or_else(|| missing(format!("the reference to {shown} lacks a port")))?;
        let found = services::ports(service).find(|(one, _)| *one == number);
        let (_, port) = found.ok_or_else(|| missing(format!("{shown} has no TCP port {number}")))?;
        if port.app_protocol.as_deref() == Some("kubernetes.io/wss") {
            return Err(("UnsupportedProtocol", format!("{shown} speaks kubernetes.io/wss at port {number}, which is not served")));
        }
        Ok(keys::backend(&name.namespace, &name.name, number))
    }
}

/// What is wrong with rules as wholes, by field: what Gateway API's CRDs say in CEL, and files are not asked otherwise.
pub(super) fn contradictions(route: &Object<Route>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let at = |field: &str| format!("spec.rules[{index}].{field}");
        let name = rule.name.as_ref().filter(|name| route.spec.rules[..index].iter().any(|earlier| earlier.name.as_ref() == Some(name)));
        found.extend(name.map(|name| (at("name"), format!("`{name}` is the name of an earlier rule too: choose another"))));
        let redirects = rule.filters.iter().map(filters::filter).any(|filter| matches!(filter, Filter::Served(FilterSpec::Redirect(_))));
        if redirects && !rule.backends.is_empty() {
            found.push((at("backendRefs"), "a rule with a RequestRedirect sends nothing on: remove one of the two".into()));
        }
        for (number, backend) in rule.backends.iter().enumerate() {
            let is_service =
                backend.group.as_deref().unwrap_or_default().is_empty() && backend.kind.as_deref().unwrap_or("Service") == "Service";
            if is_service && backend.port.is_none() {
                found.push((at(&format!("backendRefs[{number}].port")), "is required for a Service".into()));
            }
        }
    }
    found
}

/// What is wrong with values of rules, by field. What this version merely does not serve is not wrong.
pub(super) fn problems(route: &Object<Route>, paths: PathHandling) -> impl Iterator<Item = (String, String)> {
    route.spec.rules.iter().enumerate().filter_map(move |(index, rule)| {
        let checked = matches::matches(&rule.matches, paths).map_err(|problem| ("UnsupportedValue", problem)).and_then(|matches| {
            let served = Rule { unserved: Vec::new(), filters: Vec::new(), backends: Vec::new(), ..rule.clone() };
            let mut spec = fields(&served, matches)?;
            let filters = rule.filters.iter().map(filters::filter);
            spec.filters.extend(filters.filter_map(|filter| if let Filter::Served(spec) = filter { Some(spec) } else { None }));
            compatible(&spec)?;
            spec.check(paths).map_err(|problem| ("UnsupportedValue", problem))
        });
        let (_, problem) = checked.err()?;
        let (field, problem) = problem.split_once(": ").unwrap_or(("", &problem));
        Some((format!("spec.rules[{index}].{field}"), problem.to_string()))
    })
}

fn compatible(spec: &RuleSpec) -> Result<(), Problem> {
    let second = filters::incompatible(&spec.filters);
    second.map_or(Ok(()), |second| Err(("IncompatibleFilters", format!("filters: {second} cannot stand beside the filters before it"))))
}

fn unserved(field: &str) -> String {
    format!("{field}: is not served yet")
}

/// Everything of a rule that does not depend on the rest of the World.
fn fields(rule: &Rule, matches: Vec<MatchSpec>) -> Result<RuleSpec, Problem> {
    if let Some(field) = rule.unserved.first() {
        return Err(("UnsupportedValue", unserved(field)));
    }
    let on_backends = rule.backends.iter().flat_map(|backend| backend.filters.iter().flatten().map(filters::filter));
    let mut filters = Vec::new();
    for filter in rule.filters.iter().map(filters::filter) {
        match filter {
            Filter::Served(spec) => filters.push(spec),
            Filter::Unsupported(problem) => return Err(("UnsupportedValue", format!("filters: {problem}"))),
            Filter::Unresolved(_) => {}
        }
    }
    for filter in on_backends {
        if let Filter::Unsupported(problem) = filter {
            return Err(("UnsupportedValue", format!("backendRefs.filters: {problem}")));
        }
    }
    let millis = |field: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(duration::parse).transpose();
        let parsed = parsed.map_err(|error| ("UnsupportedValue", format!("{field}: {error}")))?;
        Ok::<_, Problem>(parsed.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    };
    let timeouts = rule.timeouts.as_ref();
    let retry = rule.retry.as_ref().map(|retry: &Retry| {
        Ok::<_, Problem>(RetrySpec {
            codes: retry.codes.iter().flatten().filter_map(|code| u16::try_from(*code).ok()).collect(),
            attempts: retry.attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            backoff_ms: millis("retry.backoff", &retry.backoff)?,
        })
    });
    let spec = RuleSpec {
        name: rule.name.clone(),
        matches,
        filters,
        backends: Vec::new(),
        request_timeout_ms: millis("timeouts.request", &timeouts.and_then(|timeouts| timeouts.request.clone()))?,
        backend_timeout_ms: millis("timeouts.backendRequest", &timeouts.and_then(|timeouts| timeouts.backend_request.clone()))?,
        retry: retry.transpose()?,
    };
    compatible(&spec)?;
    Ok(spec)
}
