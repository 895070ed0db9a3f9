//! What a policy's `targetRefs` and `targetSelectors` stand for.

use crate::translate::status::{Problem, Reference};
use crate::translate::{Facts, routes};
use crate::world::{Name, Object, PLATFORM_NAMESPACE, Policy};
use selvage_policy::Target;
use selvage_policy::list::Class;
use selvage_policy::target::{TargetKind, TargetRef, TargetSelector};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A target as a status names it, and what it stands for.
pub(super) type Aimed = (Reference, Result<Target, Problem>);

/// Every target of a policy. From the raw spec: a guard that cannot be understood still refuses where it is attached.
pub(super) fn aimed(facts: &Facts<'_>, policy: &Object<Policy>) -> Vec<Aimed> {
    let named = list::<TargetRef>(policy, "targetRefs").into_iter().map(|reference| aim(facts, policy, &reference));
    let chosen =
        list::<TargetSelector>(policy, "targetSelectors").into_iter().flat_map(|selector| match by_labels(facts, policy, &selector) {
            Ok(names) => names
                .into_iter()
                .map(|name| aim(facts, policy, &TargetRef { group: None, kind: selector.kind.clone(), name, section_name: None }))
                .collect(),
            // Where it was looked for, since there is nothing to name.
            Err(problem) => vec![(Reference::object("", "Namespace", None, &policy.meta.namespace), Err(problem))],
        });
    named.chain(chosen).collect()
}

fn list<T: DeserializeOwned>(policy: &Object<Policy>, field: &str) -> Vec<T> {
    let items = policy.spec.raw.get(field).and_then(|value| value.as_array()).into_iter().flatten();
    items.filter_map(|value| T::deserialize(value).ok()).collect()
}

fn aim(facts: &Facts<'_>, policy: &Object<Policy>, reference: &TargetRef) -> Aimed {
    let kind = TargetKind::parse(&reference.kind);
    let group = kind.map(|kind| kind.group(&reference.kind)).unwrap_or_default();
    let namespace = (!matches!(kind, Some(TargetKind::Mesh | TargetKind::Namespace))).then_some(policy.meta.namespace.as_str());
    let shown =
        Reference { section_name: reference.section_name.clone(), ..Reference::object(group, &reference.kind, namespace, &reference.name) };
    (shown, one(facts, policy, reference))
}

fn one(facts: &Facts<'_>, policy: &Object<Policy>, reference: &TargetRef) -> Result<Target, Problem> {
    let (world, namespace) = (facts.world, &policy.meta.namespace);
    let name = Name::new(namespace.clone(), reference.name.clone());
    let missing = || ("TargetNotFound", format!("{} {namespace}/{} does not exist", reference.kind, reference.name));
    let no_section = |kind: &str| {
        (
            "TargetNotFound",
            format!(
                "{} {namespace}/{} has no {kind} {}",
                reference.kind,
                reference.name,
                reference.section_name.as_deref().unwrap_or_default()
            ),
        )
    };
    let section = reference.section_name.as_ref();
    let whole = |kind: TargetKind| Target::new(kind, namespace, &reference.name);
    let with = |target: Target| section.map_or(target.clone(), |section| target.section(section));
    match reference.kind.as_str() {
        "MeshConfig" | "XMesh" if *namespace != PLATFORM_NAMESPACE => {
            Err(("Invalid", format!("everything is a target for policies of namespace {PLATFORM_NAMESPACE} only")))
        }
        "MeshConfig" | "XMesh" => Ok(Target::new(TargetKind::Mesh, "", crate::world::MESH_CONFIG)),
        "Namespace" if reference.name != *namespace => Err(("Invalid", "a Namespace is a target for policies in it only".into())),
        "Namespace" => Ok(Target::new(TargetKind::Namespace, "", namespace)),
        "Gateway" => {
            let gateway = world.gateways.get(&name).ok_or_else(missing)?;
            if !facts.gateways.contains_key(&name) {
                return Err(("TargetNotFound", format!("Gateway {namespace}/{} is of a class of another controller", reference.name)));
            }
            let known = section.is_none_or(|section| gateway.spec.listeners.iter().any(|listener| listener.name == *section));
            if known { Ok(with(whole(TargetKind::Gateway))) } else { Err(no_section("listener")) }
        }
        "Service" => {
            let service = world.services.get(&name).ok_or_else(missing)?;
            let ports = service.spec.ports.iter().flatten();
            let known = section.is_none_or(|section| ports.clone().any(|port| port.name.as_ref() == Some(section)));
            if known { Ok(with(whole(TargetKind::Service))) } else { Err(no_section("port")) }
        }
        "Pod" => world.pods.contains_key(&name).then(|| whole(TargetKind::Workload)).ok_or_else(missing),
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" => {
            let route = world.routes.get(&name.key(&reference.kind)).ok_or_else(missing)?;
            if policy.spec.kind.class() == Class::Guard && route.spec.parents.iter().any(routes::is_service) {
                return Err(("Invalid", "a guard on a route of a Service is not enforced: guard the Service".into()));
            }
            let known = section.is_none_or(|section| route.spec.rules.iter().any(|rule| rule.name.as_ref() == Some(section)));
            let kind = match reference.kind.as_str() {
                "HTTPRoute" => TargetKind::HTTPRoute,
                "GRPCRoute" => TargetKind::GRPCRoute,
                "TLSRoute" => TargetKind::TLSRoute,
                _ => TargetKind::TCPRoute,
            };
            if known { Ok(with(whole(kind))) } else { Err(no_section("rule")) }
        }
        "ListenerSet" => {
            let set = world.listener_sets.get(&name).ok_or_else(missing)?;
            let known = section.is_none_or(|section| set.spec.listeners.iter().any(|listener| listener.name == *section));
            if known { Ok(with(whole(TargetKind::ListenerSet))) } else { Err(no_section("listener")) }
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
