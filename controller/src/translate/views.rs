//! Which proxy is told what: no more than its paths need.

use super::{Facts, Translation, routes};
use selvage_config::resource::CoreKind;
use selvage_config::resource::listener::Forward;
use selvage_config::{BackendSpec, EndpointsSpec, ListenerSpec, keys};
use selvage_policy::{Key, Target};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    let of = |kind: CoreKind| translation.resources.values().filter(move |resource| resource.key.kind == kind.as_str());
    let listeners: Vec<(Key, ListenerSpec)> =
        of(CoreKind::Listener).filter_map(|one| Some((one.key.clone(), ListenerSpec::deserialize(&one.spec).ok()?))).collect();
    let backends: BTreeMap<Key, BackendSpec> =
        of(CoreKind::Backend).filter_map(|one| Some((one.key.clone(), BackendSpec::deserialize(&one.spec).ok()?))).collect();
    let endpoints: Vec<(Key, Key)> =
        of(CoreKind::Endpoints).filter_map(|one| Some((one.key.clone(), EndpointsSpec::deserialize(&one.spec).ok()?.backend))).collect();
    let routes = routes::backends(translation);
    let gateways = facts.gateways.keys().map(|name| name.key("Gateway"));
    let mut views = BTreeMap::new();
    for proxy in gateways.chain(facts.workloads.keys().map(|name| name.key("Pod"))) {
        let mut keys = BTreeSet::from([keys::mesh()]);
        let mut targets: BTreeSet<Target> = BTreeSet::new();
        // Listeners, and what they lead to.
        let own = |key: &&(Key, ListenerSpec)| {
            let (object, _) = key.0.name.split_once('#').unwrap_or((&key.0.name, ""));
            let edge = matches!(key.1.forward, Forward::Routes);
            key.0.namespace == proxy.namespace && object == proxy.name && edge == (proxy.kind == "Gateway")
        };
        let mut parents: BTreeSet<Key> = BTreeSet::new();
        for (key, spec) in listeners.iter().filter(own) {
            keys.insert(key.clone());
            keys.extend(spec.certificates.iter().cloned());
            targets.extend(spec.chain.iter().cloned());
            parents.insert(match &spec.forward {
                Forward::Backend(backend) => backend.clone(),
                _ => key.clone(),
            });
        }
        let mut reached: BTreeSet<Key> = parents.iter().filter(|key| key.kind == CoreKind::Backend.as_str()).cloned().collect();
        for (key, (spec, led)) in &routes {
            // A route of a Service in another namespace (a consumer's) holds for callers of its own namespace only.
            let attached = |parent: &Key| {
                parents.contains(parent)
                    && (parent.kind != CoreKind::Backend.as_str() || parent.namespace == key.namespace || proxy.namespace == key.namespace)
            };
            if spec.parents.iter().any(attached) {
                keys.insert(key.clone());
                targets.insert(spec.object.clone());
                reached.extend(led.iter().cloned());
            }
        }
        for key in &reached {
            if let Some(spec) = backends.get(key) {
                keys.insert(key.clone());
                targets.extend(spec.chain.iter().cloned());
            }
        }
        keys.extend(endpoints.iter().filter(|(_, backend)| reached.contains(backend)).map(|(key, _)| key.clone()));
        // Policies attached to anything of this, or to a section of it.
        let objects: BTreeSet<Key> = targets.iter().map(Target::object).collect();
        let policies = translation.resources.values().filter(|one| one.attachments.iter().any(|target| objects.contains(&target.object())));
        keys.extend(policies.map(|one| one.key.clone()));
        views.insert(proxy, keys);
    }
    translation.views = views;
}
