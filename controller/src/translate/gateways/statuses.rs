//! What is said of GatewayClasses, Gateways and ListenerSets.

use super::{Edge, Edges, Entry};
use crate::gateway_api::GatewaySpec;
use crate::translate::status::{Condition, ListenerStatus, Problem};
use crate::translate::{CONTROLLER, Facts, Translation};
use crate::world::Name;

pub(super) fn say(edges: &Edges<'_>, facts: &Facts<'_>, translation: &mut Translation) {
    for (name, class) in facts.world.classes.iter().filter(|(_, class)| class.spec.controller_name == CONTROLLER) {
        let accepted = match &class.spec.parameters_ref {
            None => Ok(()),
            Some(_) => Err(("InvalidParameters", "spec.parametersRef: nothing can be set by reference yet: remove it".to_string())),
        };
        let status = translation.status(&name.key("GatewayClass"), class.meta.generation);
        status.conditions = vec![Condition::of("Accepted", accepted)];
    }
    for (name, edge) in &edges.gateways {
        let members = edges.sets.iter().filter(|(set, membership)| membership.gateway == *name && verdict(edge, Some(set)).is_ok());
        let attached = members.filter(|(_, membership)| membership.allowed.is_ok()).count();
        let status = translation.status(&name.key("Gateway"), edge.object.meta.generation);
        let accepted = match parameters(&edge.object.spec) {
            Ok(()) => accepted(verdict(edge, None)),
            refused => Condition::of("Accepted", refused),
        };
        status.conditions = vec![accepted, Condition::of("ResolvedRefs", resolved(edge))];
        status.listeners = listeners(edge, None);
        status.attached_listener_sets = Some(i32::try_from(attached).unwrap_or(i32::MAX));
    }
    for (name, membership) in &edges.sets {
        let Some(set) = facts.world.listener_sets.get(name) else { continue };
        let status = translation.status(&name.key("ListenerSet"), set.meta.generation);
        match (&membership.allowed, edges.gateways.get(&membership.gateway)) {
            (Ok(()), Some(edge)) => {
                status.conditions = vec![accepted(verdict(edge, Some(name)))];
                status.listeners = listeners(edge, Some(name));
            }
            (refused, _) => status.conditions = vec![Condition::of("Accepted", refused.clone())],
        }
    }
}

/// Whether an object's listeners hold: all of them, some (with what is wrong), or none.
fn verdict(edge: &Edge<'_>, set: Option<&Name>) -> Result<Option<String>, String> {
    let (served, refused): (Vec<&Entry>, Vec<&Entry>) = edge.of(set).map(|(_, entry)| entry).partition(|entry| entry.resource.is_some());
    let names = |entries: &[&Entry]| entries.iter().map(|entry| entry.listener.name.as_str()).collect::<Vec<_>>().join(", ");
    match (served.is_empty(), refused.is_empty()) {
        (true, _) => Err(format!("no listener can be served; see the conditions of {}", names(&refused))),
        (false, true) => Ok(None),
        (false, false) => Ok(Some(format!("served: {}; not served: {}", names(&served), names(&refused)))),
    }
}

fn accepted(verdict: Result<Option<String>, String>) -> Condition {
    match verdict {
        Ok(None) => Condition::holds("Accepted", "Accepted", ""),
        Ok(Some(message)) => Condition::holds("Accepted", "ListenersNotValid", message),
        Err(message) => Condition::fails("Accepted", "ListenersNotValid", message),
    }
}

/// What a Gateway asks for beside its listeners.
fn parameters(spec: &GatewaySpec) -> Result<(), Problem> {
    if let Some(parameters) = spec.infrastructure.as_ref().and_then(|infrastructure| infrastructure.parameters_ref.as_ref()) {
        let message =
            format!("spec.infrastructure.parametersRef: {} of {} is not a kind of ours: remove it", parameters.kind, parameters.group);
        return Err(("InvalidParameters", message));
    }
    let kinds = spec.addresses.iter().flatten().map(|address| address.r#type.as_deref().unwrap_or("IPAddress"));
    match kinds.into_iter().find(|kind| !matches!(*kind, "IPAddress" | "Hostname")) {
        Some(kind) => Err(("UnsupportedAddress", format!("spec.addresses: type {kind} is not served: use IPAddress or Hostname"))),
        None => Ok(()),
    }
}

fn resolved(edge: &Edge<'_>) -> Result<(), Problem> {
    if edge.object.spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some()) {
        let message = "spec.tls.backend: client certificates for backends are not served yet: remove it".to_string();
        return Err(("InvalidClientCertificateRef", message));
    }
    match edge.of(None).find(|(_, entry)| entry.resolved.is_err()) {
        Some((_, entry)) => Err(("ListenersNotResolved", format!("see the conditions of {}", entry.listener.name))),
        None => Ok(()),
    }
}

fn listeners(edge: &Edge<'_>, set: Option<&Name>) -> Vec<ListenerStatus> {
    let status = |(_, entry): (usize, &Entry)| {
        let (accepted, conflicted) = match &entry.conflict {
            Some((reason, message)) => (Err((*reason, message.clone())), Condition::holds("Conflicted", reason, message.clone())),
            None => (entry.accepted.clone(), Condition::fails("Conflicted", "NoConflicts", "")),
        };
        let mut conditions = vec![Condition::of("Accepted", accepted), conflicted, Condition::of("ResolvedRefs", entry.resolved.clone())];
        if entry.overlaps {
            let message = "another HTTPS listener of this port has a host in common; requests on the wrong connection are answered 421";
            conditions.push(Condition::holds("OverlappingTLSConfig", "OverlappingHostnames", message));
        }
        ListenerStatus {
            name: entry.listener.name.clone(),
            attached_routes: entry.attached,
            supported_kinds: entry.supported(),
            conditions,
            resource: entry.resource.clone(),
        }
    };
    edge.of(set).map(status).collect()
}
