//! Where what is attached to a target is enforced, and how it can be gone round: the facts behind `Enforced`.

use super::Facts;
use super::views::{Map, object};
use crate::world::Name;
use selvage_config::keys;
use selvage_config::resource::CoreKind;
use selvage_policy::{Key, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Ports of a Pod that are not captured inbound, separated by commas.
pub const EXCLUDE_INBOUND: &str = "selvage.dev/exclude-inbound-ports";

/// Of one target of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// The views of the proxies that stand before it: they enforce its guards.
    pub at: BTreeSet<Key>,
    /// Endpoints that no such proxy stands before: workloads as `namespace/name`, or addresses. Callers with a proxy are judged there, others not.
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
            let open = endpoints.filter(|one| one.workload.as_ref().is_none_or(|workload| !reach.at.contains(workload)));
            let name = |workload: &Key| format!("{}/{}", workload.namespace, workload.name);
            reach.around.extend(open.map(|one| one.workload.as_ref().map_or_else(|| one.address.clone(), name)).collect::<Vec<_>>());
        }
    }
    for name in facts.workloads.keys() {
        exclude(facts, map, name, &mut found);
    }
    found
}

fn exclude(facts: &Facts<'_>, map: &Map, name: &Name, found: &mut BTreeMap<Target, Reach>) {
    let written = facts.world.pods.get(name).and_then(|pod| pod.meta.annotations.get(EXCLUDE_INBOUND));
    let ports = written.iter().flat_map(|text| text.split(',')).filter_map(|port| port.trim().parse::<u16>().ok());
    for port in ports.filter(|_| facts.world.in_cluster()) {
        let listeners = map.listeners.get(&name.key("Pod")).map(Vec::as_slice).unwrap_or_default();
        let of = |wanted: Key| listeners.iter().find(|(key, _)| *key == wanted);
        let declared = of(keys::inbound(&name.namespace, &name.name, port));
        let Some((_, listener)) = declared.or_else(|| of(keys::inbound_any(&name.namespace, &name.name))) else { continue };
        for target in &listener.chain {
            if let Some(reach) = found.get_mut(target) {
                reach.excluded.insert(format!("{}/{}:{port}", name.namespace, name.name));
            }
        }
    }
}
