//! What a policy's `targetRefs` and `targetSelectors` stand for.

use crate::translate::status::{Problem, Reference};
use crate::translate::{Facts, routes};
use crate::world::{Name, Object, PLATFORM_NAMESPACE, Policy};
use selvage_policy::Target;
use selvage_policy::list::Class;
use selvage_policy::target::{TargetKind, TargetRef, TargetSelector};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Said of a guard on a route that has a Service as parent, among others.
const UNGUARDED: &str = "it is enforced at Gateways only, not for callers of the Service that the route is attached to: guard the Service";

/// A target as a status names it, and where it leads.
pub(super) struct Aimed {
    pub reference: Reference,
    pub place: Place,
}

/// Where a policy is, for one of its targets.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    /// Attached; and what it does not hold for all the same, if there is something.
    Attached(Target, Option<&'static str>),
    /// A guard that cannot be where it was aimed, but its object is there: it refuses for the whole of that.
    Refusing(Target, Problem),
    /// Nowhere.
    Nowhere(Problem),
}

impl Place {
    /// Where it is.
    pub(super) fn target(&self) -> Option<&Target> {
        match self {
            Self::Attached(target, _) | Self::Refusing(target, _) => Some(target),
            Self::Nowhere(_) => None,
        }
    }
}

/// Every target of a policy. From the raw spec: a guard that cannot be understood still refuses where it is attached, and an entry that cannot be
/// read is aimed by what of it can.
pub(super) fn aimed(facts: &Facts<'_>, policy: &Object<Policy>) -> Vec<Aimed> {
    let mut aimed = Vec::new();
    for entry in entries(policy, "targetRefs") {
        aimed.push(match entry.read::<TargetRef>() {
            Ok(reference) => aim(facts, policy, &reference),
            Err(problem) => match (entry.text("kind"), entry.text("name")) {
                (Some(kind), Some(name)) => {
                    let reference = TargetRef { group: None, kind, name, section_name: entry.text("sectionName") };
                    misread(policy, aim(facts, policy, &reference), problem)
                }
                _ => in_namespace(policy, problem),
            },
        });
    }
    for entry in entries(policy, "targetSelectors") {
        let (selector, problem) = match entry.read::<TargetSelector>() {
            Ok(selector) => (Some(selector), None),
            Err(problem) => (entry.selector(), Some(problem)),
        };
        let Some(selector) = selector else {
            aimed.extend(problem.map(|problem| in_namespace(policy, problem)));
            continue;
        };
        match by_labels(facts, policy, &selector) {
            Ok(names) => aimed.extend(names.into_iter().map(|name| {
                let aimed = aim(facts, policy, &TargetRef { group: None, kind: selector.kind.clone(), name, section_name: None });
                match &problem {
                    Some(problem) => misread(policy, aimed, problem.clone()),
                    None => aimed,
                }
            })),
            // Where it was looked for, since there is nothing to name.
            Err(missing) => aimed.push(Aimed { reference: namespace(policy), place: Place::Nowhere(missing) }),
        }
    }
    if aimed.is_empty() {
        aimed.push(in_namespace(policy, ("Invalid", "spec.targetRefs: is required (or targetSelectors)".into())));
    }
    aimed
}

/// One entry of `targetRefs` or `targetSelectors`.
struct Entry<'a> {
    field: String,
    value: &'a Value,
}

fn entries<'a>(policy: &'a Object<Policy>, field: &'static str) -> Vec<Entry<'a>> {
    match policy.spec.raw.get(field) {
        None => Vec::new(),
        Some(Value::Array(items)) => {
            items.iter().enumerate().map(|(index, value)| Entry { field: format!("spec.{field}[{index}]"), value }).collect()
        }
        Some(value) => vec![Entry { field: format!("spec.{field}"), value }],
    }
}

impl Entry<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(self.value).map_err(|error| ("Invalid", format!("{}: {error}", self.field)))
    }

    fn text(&self, field: &str) -> Option<String> {
        self.value.get(field).and_then(Value::as_str).map(String::from)
    }

    fn selector(&self) -> Option<TargetSelector> {
        let labels =
            self.value.get("matchLabels").and_then(|labels| BTreeMap::deserialize(labels).ok()).filter(|labels| !labels.is_empty());
        Some(TargetSelector { group: None, kind: self.text("kind")?, match_labels: labels? })
    }
}

/// The same, aimed by an entry that was not read whole.
fn misread(policy: &Object<Policy>, aimed: Aimed, problem: Problem) -> Aimed {
    let place = match aimed.place {
        Place::Attached(target, _) | Place::Refusing(target, _) => refusing(policy, target, problem),
        nowhere @ Place::Nowhere(_) => nowhere,
    };
    Aimed { place, ..aimed }
}

/// An entry of which nothing can be read: all that is known is whose it is.
fn in_namespace(policy: &Object<Policy>, problem: Problem) -> Aimed {
    let target = Target::new(TargetKind::Namespace, "", &policy.meta.namespace);
    Aimed { reference: namespace(policy), place: refusing(policy, target, problem) }
}

fn namespace(policy: &Object<Policy>) -> Reference {
    Reference::object("", "Namespace", None, &policy.meta.namespace)
}

/// A guard refuses at `target`; any other policy is nowhere.
fn refusing(policy: &Object<Policy>, target: Target, problem: Problem) -> Place {
    if policy.spec.kind.class() == Class::Guard { Place::Refusing(target, problem) } else { Place::Nowhere(problem) }
}

fn aim(facts: &Facts<'_>, policy: &Object<Policy>, reference: &TargetRef) -> Aimed {
    let kind = TargetKind::parse(&reference.kind);
    let group = kind.map(|kind| kind.group(&reference.kind)).unwrap_or_default();
    let namespace = (!matches!(kind, Some(TargetKind::Mesh | TargetKind::Namespace))).then_some(policy.meta.namespace.as_str());
    let shown =
        Reference { section_name: reference.section_name.clone(), ..Reference::object(group, &reference.kind, namespace, &reference.name) };
    Aimed { reference: shown, place: place(facts, policy, reference).unwrap_or_else(Place::Nowhere) }
}

fn place(facts: &Facts<'_>, policy: &Object<Policy>, reference: &TargetRef) -> Result<Place, Problem> {
    let (world, namespace) = (facts.world, &policy.meta.namespace);
    let name = Name::new(namespace.clone(), reference.name.clone());
    let missing = || ("TargetNotFound", format!("{} {namespace}/{} does not exist", reference.kind, reference.name));
    // Part of an object that is there, or the whole of it. Where there is no such part (a listener or a rule was renamed), a guard refuses.
    let part = |kind: TargetKind, what: &str, has: &dyn Fn(&String) -> bool| {
        let whole = Target::new(kind, namespace, &reference.name);
        match &reference.section_name {
            None => Place::Attached(whole, None),
            Some(section) if has(section) => Place::Attached(whole.section(section), None),
            Some(section) => {
                let problem = format!("{} {namespace}/{} has no {what} {section}", reference.kind, reference.name);
                refusing(policy, whole, ("TargetNotFound", problem))
            }
        }
    };
    match reference.kind.as_str() {
        "MeshConfig" | "XMesh" if *namespace != PLATFORM_NAMESPACE => {
            Err(("Invalid", format!("everything is a target for policies of namespace {PLATFORM_NAMESPACE} only")))
        }
        "MeshConfig" | "XMesh" => Ok(Place::Attached(Target::new(TargetKind::Mesh, "", crate::world::MESH_CONFIG), None)),
        "Namespace" if reference.name != *namespace => Err(("Invalid", "a Namespace is a target for policies in it only".into())),
        "Namespace" => Ok(Place::Attached(Target::new(TargetKind::Namespace, "", namespace), None)),
        "Gateway" => {
            let gateway = world.gateways.get(&name).ok_or_else(missing)?;
            if !facts.gateways.contains_key(&name) {
                return Err(("TargetNotFound", format!("Gateway {namespace}/{} is of a class of another controller", reference.name)));
            }
            let has = |section: &String| gateway.spec.listeners.iter().any(|listener| listener.name == *section);
            Ok(part(TargetKind::Gateway, "listener", &has))
        }
        "Service" => {
            let service = world.services.get(&name).ok_or_else(missing)?;
            let has = |section: &String| service.spec.ports.iter().flatten().any(|port| port.name.as_ref() == Some(section));
            Ok(part(TargetKind::Service, "port", &has))
        }
        "Pod" => {
            let there = world.pods.contains_key(&name);
            there.then(|| Place::Attached(Target::new(TargetKind::Workload, namespace, &reference.name), None)).ok_or_else(missing)
        }
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" => {
            let route = world.routes.get(&name.key(&reference.kind)).ok_or_else(missing)?;
            let kind = match reference.kind.as_str() {
                "HTTPRoute" => TargetKind::HTTPRoute,
                "GRPCRoute" => TargetKind::GRPCRoute,
                "TLSRoute" => TargetKind::TLSRoute,
                _ => TargetKind::TCPRoute,
            };
            let has = |section: &String| route.spec.rules.iter().any(|rule| rule.name.as_ref() == Some(section));
            let place = part(kind, "rule", &has);
            let services = route.spec.parents.iter().filter(|parent| routes::is_service(parent)).count();
            match place {
                Place::Attached(target, _) if policy.spec.kind.class() == Class::Guard && services > 0 => {
                    if services == route.spec.parents.len() {
                        Err(("Invalid", "a guard on a route of a Service is not enforced: guard the Service".into()))
                    } else {
                        Ok(Place::Attached(target, Some(UNGUARDED)))
                    }
                }
                place => Ok(place),
            }
        }
        "ListenerSet" => {
            let set = world.listener_sets.get(&name).ok_or_else(missing)?;
            let has = |section: &String| set.spec.listeners.iter().any(|listener| listener.name == *section);
            Ok(part(TargetKind::ListenerSet, "listener", &has))
        }
        other => Err(("Invalid", format!("{other} is not a kind that policies are attached to"))),
    }
}

/// The names of the objects a selector chooses; at least one.
fn by_labels(facts: &Facts<'_>, policy: &Object<Policy>, selector: &TargetSelector) -> Result<Vec<String>, Problem> {
    let namespace = &policy.meta.namespace;
    fn carrying<S>(table: &BTreeMap<Name, Arc<Object<S>>>, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
        let here = table.range(Name::new(namespace, "")..).take_while(|(name, _)| name.namespace == namespace);
        here.filter(|(_, object)| object.meta.carries(labels)).map(|(name, _)| name.name.clone()).collect()
    }
    let (world, labels) = (facts.world, &selector.match_labels);
    let names = match selector.kind.as_str() {
        "Pod" => carrying(&world.pods, namespace, labels),
        "Service" => carrying(&world.services, namespace, labels),
        "Gateway" => carrying(&world.gateways, namespace, labels),
        "ListenerSet" => carrying(&world.listener_sets, namespace, labels),
        kind @ ("HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute") => {
            let here = world.routes.range(Name::new(namespace, "").key(kind)..);
            let here = here.take_while(|(key, _)| key.kind == kind && key.namespace == *namespace);
            here.filter(|(_, route)| route.meta.carries(labels)).map(|(key, _)| key.name.clone()).collect()
        }
        other => return Err(("Invalid", format!("{other} cannot be chosen by label"))),
    };
    if names.is_empty() { Err(("TargetNotFound", format!("no {} in {namespace} carries these labels", selector.kind))) } else { Ok(names) }
}
