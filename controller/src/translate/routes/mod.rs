//! Routes: what they are attached to, and their rules in the one form that proxies know.
//!
//! ```text
//! route ──attach──► keys of Listeners and Backends ┐
//!       ──rules (matches, filters, backends)───────┴──► Route Resource; at each parent: Accepted, ResolvedRefs, PartiallyInvalid
//! ```

mod attach;
mod filters;
mod matches;
mod rules;

use super::gateways::Edges;
use super::status::{Condition, ParentStatus, Reference};
use super::{Facts, GATEWAY_GROUP, Translation};
use crate::world::Object;
use crate::world::route::{ParentRef, Route, RouteKind};
use attach::Points;
use rules::Maker;
use selvage_config::resource::text::HostPattern;
use selvage_config::{Resource, RouteSpec, keys};
use selvage_policy::Target;
use selvage_policy::mesh::PathHandling;
use selvage_policy::target::TargetKind;
use std::collections::BTreeSet;

pub(super) fn translate(facts: &Facts<'_>, edges: &mut Edges<'_>, translation: &mut Translation) {
    let maker = Maker { facts, paths: facts.world.mesh().paths };
    let taken = attach::Taken::of(facts);
    for (object, route) in &facts.world.routes {
        let hostnames: Result<Vec<HostPattern>, _> = route.spec.hostnames.iter().cloned().map(HostPattern::try_from).collect();
        let hostnames = hostnames.map_err(|error| ("UnsupportedValue", format!("spec.hostnames: {error}")));
        let rules = maker.rules(route);
        let valid = hostnames.as_ref().err().cloned().map_or_else(|| rules.verdict(), Err);
        let (mut parents, mut listeners, mut said) = (Vec::new(), BTreeSet::new(), Vec::new());
        for parent in &route.spec.parents {
            let hosts = hostnames.as_deref().unwrap_or_default();
            let Some(attached) = attach::attach(facts, edges, &taken, (route, hosts), parent, &mut translation.remarks) else { continue };
            let accepted = match &attached {
                Ok(_) => valid.as_ref().map(|_| ()).map_err(Clone::clone),
                Err(problem) => Err(problem.clone()),
            };
            let mut conditions = vec![Condition::of("Accepted", accepted.clone()), Condition::of("ResolvedRefs", rules.resolved())];
            if let (Ok(()), Ok(Some(dropped))) = (accepted, &valid) {
                conditions.push(Condition::holds("PartiallyInvalid", "UnsupportedValue", dropped.clone()));
            }
            said.push(ParentStatus { reference: reference(parent), conditions, targets: Vec::new() });
            match attached {
                Ok(Points::Backends(keys)) => parents.extend(keys),
                Ok(Points::Listeners(found)) => listeners.extend(found),
                Err(_) => {}
            }
        }
        for (gateway, index) in &listeners {
            let Some(entry) = edges.gateways.get_mut(gateway).and_then(|edge| edge.entries.get_mut(*index)) else { continue };
            parents.extend(entry.resource.clone());
            entry.attached += i32::from(valid.is_ok());
        }
        translation.status(object, route.meta.generation).parents = said;
        let (Ok(hostnames), false, false) = (hostnames, parents.is_empty(), rules.specs.is_empty()) else { continue };
        parents.sort();
        parents.dedup();
        let spec = RouteSpec { object: target(route), parents, hostnames, rules: rules.specs };
        let key = keys::route(&route.meta.namespace, route.spec.kind.as_str(), &route.meta.name);
        translation.add(Resource::core(key, &spec, route.meta.created));
    }
}

/// What is wrong with a route's values, by field; for admission.
pub(crate) fn problems(route: &Object<Route>, paths: PathHandling) -> Vec<(String, String)> {
    let hosts = route.spec.hostnames.iter().enumerate();
    let hosts = hosts.filter_map(|(index, host)| {
        HostPattern::try_from(host.clone()).err().map(|error| (format!("spec.hostnames[{index}]"), error.to_string()))
    });
    hosts.chain(rules::problems(route, paths)).chain(rules::contradictions(route)).collect()
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
pub(super) fn reference(parent: &ParentRef) -> Reference {
    Reference {
        group: parent.group.clone().unwrap_or_else(|| GATEWAY_GROUP.into()),
        kind: parent.kind.clone().unwrap_or_else(|| "Gateway".into()),
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        port: parent.port,
    }
}
