//! Where what is attached to a target is enforced, and how it can be gone round: the facts behind `Enforced`.

use super::Facts;
use super::views::{Map, object};
use super::workloads::view;
use crate::inject::exclusions::inbound_ports;
use crate::world::{Name, PLATFORM_NAMESPACE};
use selvage_config::keys;
use selvage_config::resource::CoreKind;
use selvage_policy::{Key, Target, TargetKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Of one target of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The views of the proxies that stand before it: they enforce its guards.
    pub at: BTreeSet<Key>,
    /// Endpoints and Pods that no such proxy stands before: workloads as `namespace/name`, or addresses. Callers with a proxy are judged there, others not.
    pub around: BTreeSet<String>,
    /// Ports of workloads that are excluded from capture: `namespace/name:port`.
    pub excluded: BTreeSet<String>,
}

/// Of every target that a policy is attached to.
pub(super) fn reach(facts: &Facts<'_>, map: &Map, targets: &BTreeSet<Target>) -> BTreeMap<Target, Reach> {
    let mut found: BTreeMap<Target, Reach> = targets.iter().map(|target| (target.clone(), Reach::default())).collect();
    let mut owners: HashMap<&Key, &Key> = HashMap::new();
    for (proxy, listeners) in &map.listeners {
        for (key, listener) in listeners {
            owners.insert(key, proxy);
            for target in &listener.chain {
                if let Some(reach) = found.get_mut(target) {
                    reach.at.insert(proxy.clone());
                }
            }
        }
    }
    let routed: HashSet<Target> = targets.iter().map(object).collect();
    for route in map.routes.values().filter(|route| routed.contains(&object(&route.object))) {
        let gateways = route.parents.iter().filter(|parent| parent.kind == CoreKind::Listener.as_str());
        let proxies: BTreeSet<&Key> = gateways.filter_map(|listener| owners.get(listener).copied()).collect();
        for (_, reach) in found.iter_mut().filter(|(target, _)| object(target) == object(&route.object)) {
            reach.at.extend(proxies.iter().copied().cloned());
        }
    }
    for (backend, chain) in &map.backends {
        for target in chain {
            let Some(reach) = found.get_mut(target) else { continue };
            let endpoints = map.endpoints.get(backend).into_iter().flatten().flat_map(|(_, endpoints)| endpoints);
            let open = endpoints.filter(|one| match &one.workload {
                Some(workload) => !reach.at.contains(workload) && !is_edge(facts, &name_of(workload)),
                None => true,
            });
            let shown = |workload: &Key| shown(&name_of(workload));
            reach.around.extend(open.map(|one| one.workload.as_ref().map_or_else(|| one.address.clone(), shown)).collect::<Vec<_>>());
        }
    }
    for (target, reach) in &mut found {
        reach.around.extend(bare(facts, target).map(shown));
    }
    for name in facts.workloads.keys() {
        exclude(facts, map, name, &mut found);
    }
    found
}

/// Pods without a sidecar that a target is, or has in it whatever Services lead there. On a laptop only what is behind a Service can be called;
/// and the platform's own Pods are no part of what it governs.
fn bare<'f>(facts: &'f Facts<'_>, target: &Target) -> impl Iterator<Item = &'f Name> {
    let (pods, in_cluster) = (&facts.world.pods, facts.world.in_cluster());
    let from = match target.kind {
        TargetKind::Workload => Some(Name::new(&target.namespace, &target.name)),
        TargetKind::Namespace if in_cluster => Some(Name::new(&target.name, "")),
        TargetKind::Mesh if in_cluster => Some(Name::new("", "")),
        _ => None,
    };
    let target = target.clone();
    let within = move |name: &Name| match target.kind {
        TargetKind::Workload => name.namespace == target.namespace && name.name == target.name,
        TargetKind::Namespace => name.namespace == target.name,
        _ => true,
    };
    let found = from.into_iter().flat_map(|from| pods.range(from..)).take_while(move |(name, _)| within(name));
    let found = found.filter(|(name, pod)| !pod.spec.ended && !facts.workloads.contains_key(*name) && name.namespace != PLATFORM_NAMESPACE);
    found.filter(|(name, _)| !is_edge(facts, name)).map(|(name, _)| name)
}

/// Whether a Pod is a proxy of a Gateway: it is guarded by what is attached there.
fn is_edge(facts: &Facts<'_>, name: &Name) -> bool {
    facts.world.pods.get(name).is_some_and(|pod| view(facts, name, pod).is_some_and(|view| view.kind == "Gateway"))
}

fn name_of(workload: &Key) -> Name {
    Name::new(workload.namespace.clone(), workload.name.clone())
}

fn shown(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

fn exclude(facts: &Facts<'_>, map: &Map, name: &Name, found: &mut BTreeMap<Target, Reach>) {
    let pod = facts.world.pods.get(name).filter(|_| facts.world.in_cluster());
    for port in pod.iter().flat_map(|pod| inbound_ports(&pod.spec.spec)) {
        let listeners = map.listeners.get(&name.key("Pod")).map(Vec::as_slice).unwrap_or_default();
        let of = |wanted: Key| listeners.iter().find(|(key, _)| *key == wanted);
        let declared = of(keys::inbound(&name.namespace, &name.name, port));
        let Some((_, listener)) = declared.or_else(|| of(keys::inbound_any(&name.namespace, &name.name))) else { continue };
        for target in &listener.chain {
            if let Some(reach) = found.get_mut(target) {
                reach.excluded.insert(format!("{}:{port}", shown(name)));
            }
        }
    }
}
