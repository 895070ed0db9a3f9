//! Policies: what each is attached to, and the references in it.

use super::status::{Condition, ParentStatus, Problem, Reference};
use super::{Facts, Translation, routes};
use crate::world::{Name, Object, PLATFORM_NAMESPACE, Policy};
use selvage_config::Resource;
use selvage_config::resource::Origin;
use selvage_policy::list::Class;
use selvage_policy::target::{TargetKind, TargetRef, TargetSelector};
use selvage_policy::{Key, Target};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    for (key, policy) in &facts.world.policies {
        let mut attachments = Vec::new();
        let (refs, missing) = refs(facts, policy);
        let unresolved = missing.first().map(|(field, reference)| ("InvalidReference", format!("{field}: {reference} does not exist")));
        let invalid = policy.spec.spec.as_ref().err().map(|faults| {
            let message = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.problem)).collect::<Vec<_>>().join("; ");
            ("Invalid", message)
        });
        let mut said = Vec::new();
        for (reference, attached) in attach(facts, policy) {
            let targets = attached.as_ref().cloned().unwrap_or_default();
            attachments.extend(targets.iter().cloned());
            let accepted = attached.and_then(|_| invalid.clone().map_or(Ok(()), Err));
            let resolved = unresolved.clone().map_or(Ok(()), Err);
            let conditions = vec![Condition::of("Accepted", accepted), Condition::of("ResolvedRefs", resolved)];
            said.push(ParentStatus { reference, conditions, targets });
        }
        translation.status(key, policy.meta.generation).parents = said;
        if attachments.is_empty() {
            continue;
        }
        attachments.sort();
        attachments.dedup();
        let origin = Origin { attachments, refs, created: policy.meta.created };
        translation.add(Resource::new(key.clone(), policy.spec.kind.class(), &policy.spec.raw, origin));
    }
}

/// References of a policy that resolve, and the fields and texts of those that do not.
pub(crate) fn references(world: &crate::world::World, policy: &Object<Policy>) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    refs(&Facts::of(world), policy)
}

fn refs(facts: &Facts<'_>, policy: &Object<Policy>) -> (BTreeMap<String, String>, Vec<(String, String)>) {
    let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
    for (field, reference) in policy.spec.spec.iter().flat_map(|spec| spec.references(&policy.meta.namespace)) {
        let (field, reference) = if field.starts_with("spec") { (field, reference) } else { (reference, field) };
        let gateway = reference.strip_prefix("gateway:").and_then(|name| name.split_once('/'));
        match gateway.and_then(|(namespace, name)| facts.gateways.get(&Name::new(namespace, name))) {
            Some(identity) => {
                found.insert(reference, identity.to_string());
            }
            None => missing.push((field, reference)),
        }
    }
    (found, missing)
}

/// Every target as somebody wrote it, and what it stands for.
fn attach(facts: &Facts<'_>, policy: &Object<Policy>) -> Vec<(Reference, Result<Vec<Target>, Problem>)> {
    // From the raw spec: a guard that cannot be understood still refuses where it is attached.
    let list = |field: &str| policy.spec.raw.get(field).and_then(|value| value.as_array()).cloned().unwrap_or_default();
    let named = list("targetRefs").into_iter().filter_map(|value| TargetRef::deserialize(value).ok()).map(|reference| {
        let group = TargetKind::parse(&reference.kind).map(|kind| kind.group(&reference.kind)).unwrap_or_default();
        let mut shown = Reference::object(group, &reference.kind, None, &reference.name);
        shown.section_name.clone_from(&reference.section_name);
        (shown, one(facts, policy, &reference).map(|target| vec![target]))
    });
    let chosen = list("targetSelectors")
        .into_iter()
        .filter_map(|value| TargetSelector::deserialize(value).ok())
        .map(|selector| (Reference::object("", "Namespace", None, &policy.meta.namespace), by_labels(facts, policy, &selector)));
    named.chain(chosen).collect()
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
        "ListenerSet" => world.listener_sets.contains_key(&name).then(|| with(whole(TargetKind::ListenerSet))).ok_or_else(missing),
        other => Err(("Invalid", format!("{other} is not a kind that policies are attached to"))),
    }
}

fn by_labels(facts: &Facts<'_>, policy: &Object<Policy>, selector: &TargetSelector) -> Result<Vec<Target>, Problem> {
    let namespace = &policy.meta.namespace;
    fn carrying<S>(table: &BTreeMap<Name, Arc<Object<S>>>, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
        let objects = table.iter().filter(|(name, object)| name.namespace == namespace && object.meta.carries(labels));
        objects.map(|(name, _)| name.name.clone()).collect()
    }
    let (world, labels) = (facts.world, &selector.match_labels);
    let names = match selector.kind.as_str() {
        "Pod" => carrying(&world.pods, namespace, labels),
        "Service" => carrying(&world.services, namespace, labels),
        "Gateway" => carrying(&world.gateways, namespace, labels),
        "ListenerSet" => carrying(&world.listener_sets, namespace, labels),
        kind @ ("HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute") => {
            let routes =
                world.routes.iter().filter(|(key, route)| key.kind == kind && key.namespace == *namespace && route.meta.carries(labels));
            routes.map(|(key, _): (&Key, _)| key.name.clone()).collect()
        }
        other => return Err(("Invalid", format!("{other} cannot be chosen by label"))),
    };
    let reference = |name: String| TargetRef { group: None, kind: selector.kind.clone(), name, section_name: None };
    let targets: Vec<Target> = names.into_iter().filter_map(|name| one(facts, policy, &reference(name)).ok()).collect();
    if targets.is_empty() {
        Err(("TargetNotFound", format!("no {} in {namespace} carries these labels", selector.kind)))
    } else {
        Ok(targets)
    }
}
