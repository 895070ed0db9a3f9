//! Where a route stands: the listeners and Service ports that its parent references mean and that take it.

use super::is_service;
use crate::translate::gateways::{Edge, Edges, Entry};
use crate::translate::status::Problem;
use crate::translate::{Facts, GATEWAY_GROUP, services};
use crate::world::route::{ParentRef, Route, RouteKind};
use crate::world::{Name, Object};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use selvage_config::keys;
use selvage_config::resource::text::HostPattern;
use selvage_policy::Key;
use std::collections::BTreeMap;

/// What one parent reference stands for.
pub(super) enum Points {
    /// Listeners: the Gateway, and the place in its list.
    Listeners(Vec<(Name, usize)>),
    /// Service ports.
    Backends(Vec<Key>),
}

/// The kind of route that each Service port has, for callers of its own namespace and, apart from them, for each consumer namespace:
/// of the kinds attached there the first in GAMMA's order.
pub(super) struct Taken<'a>(BTreeMap<(&'a str, &'a str, &'a str), BTreeMap<u16, RouteKind>>);

impl<'a> Taken<'a> {
    pub(super) fn of(facts: &Facts<'a>) -> Self {
        let mut taken: BTreeMap<_, BTreeMap<u16, RouteKind>> = BTreeMap::new();
        for route in facts.world.routes.values() {
            for parent in route.spec.parents.iter().filter(|parent| is_service(parent)) {
                let namespace = parent.namespace.as_deref().unwrap_or(&route.meta.namespace);
                let ports = taken.entry((namespace, parent.name.as_str(), route.meta.namespace.as_str())).or_default();
                let service = facts.world.services.get(&Name::new(namespace, parent.name.clone()));
                for port in service.into_iter().flat_map(|service| chosen(service, parent)) {
                    let kind = ports.entry(port).or_insert(route.spec.kind);
                    *kind = route.spec.kind.min(*kind);
                }
            }
        }
        Self(taken)
    }

    /// The kind that holds at this port for the callers that a route of `namespace` is for.
    fn at(&self, service: &Name, namespace: &str, port: u16) -> Option<RouteKind> {
        let ports = self.0.get(&(service.namespace.as_str(), service.name.as_str(), namespace))?;
        ports.get(&port).copied()
    }
}

/// `None`: the parent is nobody's of ours.
pub(super) fn attach(
    facts: &Facts<'_>,
    edges: &Edges<'_>,
    taken: &Taken<'_>,
    (route, hosts): (&Object<Route>, &[HostPattern]),
    parent: &ParentRef,
    remarks: &mut Vec<String>,
) -> Option<Result<Points, Problem>> {
    let name = Name::new(parent.namespace.clone().unwrap_or_else(|| route.meta.namespace.clone()), parent.name.clone());
    if is_service(parent) {
        return Some(to_service(facts, taken, route, parent, &name).map(Points::Backends));
    }
    let ours = parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP;
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let mut missing = |is_there: bool| {
        if !is_there {
            let object = route.meta.named().key(route.spec.kind.as_str());
            remarks.push(format!("{object}: spec.parentRefs: there is no {kind} {}/{}", name.namespace, name.name));
        }
        None
    };
    let listeners = match (ours, kind) {
        (true, "Gateway") => match edges.gateways.get(&name) {
            Some(edge) => to_listeners(facts, (route, hosts), parent, (&name, edge), None),
            None => return missing(facts.world.gateways.contains_key(&name)),
        },
        (true, "ListenerSet") => match edges.sets.get(&name) {
            Some(membership) => match (&membership.allowed, edges.gateways.get(&membership.gateway)) {
                (Ok(()), Some(edge)) => to_listeners(facts, (route, hosts), parent, (&membership.gateway, edge), Some(&name)),
                _ => Err(("NoMatchingParent", format!("ListenerSet {}/{} is not taken by its Gateway", name.namespace, name.name))),
            },
            None => return missing(facts.world.listener_sets.contains_key(&name)),
        },
        _ => return missing(false),
    };
    Some(listeners.map(Points::Listeners))
}

fn to_listeners(
    facts: &Facts<'_>,
    (route, hosts): (&Object<Route>, &[HostPattern]),
    parent: &ParentRef,
    (gateway, edge): (&Name, &Edge<'_>),
    set: Option<&Name>,
) -> Result<Vec<(Name, usize)>, Problem> {
    let owner = set.unwrap_or(gateway);
    let shown = || format!("{} {}/{}", if set.is_some() { "ListenerSet" } else { "Gateway" }, owner.namespace, owner.name);
    let mut problem = None;
    let mut found = Vec::new();
    for (index, entry) in edge.of(set) {
        let section = parent.section_name.as_ref().is_none_or(|section| *section == entry.listener.name);
        if !section || parent.port.is_some_and(|port| port != entry.listener.port) {
            continue;
        }
        let taken = entry.allows(facts, route.spec.kind, &route.meta.namespace, &owner.namespace).and_then(|()| hosts_meet(entry, hosts));
        match taken {
            Ok(()) => found.push((gateway.clone(), index)),
            // A listener that would take it but for its hosts says more than one that takes no such routes at all.
            Err(why) if problem.is_none() || why.0 == "NoMatchingListenerHostname" => problem = Some(why),
            Err(_) => {}
        }
    }
    if found.is_empty() {
        Err(problem.unwrap_or_else(|| ("NoMatchingParent", format!("no listener of {} has this sectionName and port", shown()))))
    } else {
        Ok(found)
    }
}

fn hosts_meet(entry: &Entry, hosts: &[HostPattern]) -> Result<(), Problem> {
    let Some(own) = &entry.hostname else { return Ok(()) };
    if hosts.is_empty() || hosts.iter().any(|host| own.intersection(host).is_some()) {
        return Ok(());
    }
    Err(("NoMatchingListenerHostname", format!("no hostname of the route is one of listener {}'s {own}", entry.listener.name)))
}

/// The ports of a Service that a parent reference means: by number, by name, or all.
fn chosen(service: &Object<ServiceSpec>, parent: &ParentRef) -> impl Iterator<Item = u16> {
    let meant = |(number, port): &(u16, &ServicePort)| {
        parent.port.is_none_or(|wanted| wanted == i32::from(*number))
            && parent.section_name.as_ref().is_none_or(|section| port.name.as_ref() == Some(section))
    };
    services::ports(service).filter(meant).map(|(number, _)| number)
}

fn to_service(facts: &Facts<'_>, taken: &Taken<'_>, route: &Object<Route>, parent: &ParentRef, name: &Name) -> Result<Vec<Key>, Problem> {
    let shown = format!("Service {}/{}", name.namespace, name.name);
    let service = facts.world.services.get(name).ok_or_else(|| ("NoMatchingParent", format!("there is no {shown}")))?;
    let ports: Vec<u16> = chosen(service, parent).collect();
    if ports.is_empty() {
        return Err(("NoMatchingParent", format!("{shown} has no such TCP port")));
    }
    let holds = |number: &u16| taken.at(name, &route.meta.namespace, *number).is_none_or(|kind| kind == route.spec.kind);
    let held: Vec<Key> = ports.into_iter().filter(holds).map(|number| keys::backend(&name.namespace, &name.name, number)).collect();
    if held.is_empty() {
        return Err(("Conflicted", format!("a route of another kind is attached to {shown}: one kind a port holds")));
    }
    Ok(held)
}
