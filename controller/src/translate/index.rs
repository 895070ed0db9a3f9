//! What the translation looks up again and again, found once: so that its cost grows with the World and not with its square.

use super::services;
use crate::world::endpoints::SERVICE_NAME;
use crate::world::{Name, Object, Pod, World};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A Service that leads to a port of a Pod, by one of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping<'a> {
    pub service: &'a Name,
    /// The Service's port.
    pub number: u16,
    pub port: &'a ServicePort,
}

type Labelled<'a> = HashMap<(&'a str, &'a str, &'a str), Vec<(&'a Name, &'a Object<ServiceSpec>)>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Index<'a> {
    /// Services by their namespace and the first pair of their selector.
    selecting: Labelled<'a>,
    /// What slices say beyond selectors: ports of a Pod's, and who leads there.
    sliced: HashMap<Name, Vec<(u16, Mapping<'a>)>>,
    /// Pods that run, by address.
    pods: HashMap<IpAddr, &'a Name>,
}

impl<'a> Index<'a> {
    pub(super) fn of(world: &'a World) -> Self {
        let mut pods = HashMap::new();
        for (name, pod) in world.pods.iter().filter(|(_, pod)| !pod.spec.ended && !pod.spec.on_host_network()) {
            pods.extend(pod.spec.addresses.iter().map(|address| (*address, name)));
        }
        let mut index = Self { selecting: selecting(world), sliced: HashMap::new(), pods };
        index.sliced = index.slices(world);
        index
    }

    /// The Pod that runs at this address.
    pub(super) fn pod_at(&self, address: IpAddr) -> Option<&'a Name> {
        self.pods.get(&address).copied()
    }

    /// The ports at which a Pod is called: those it declares, and those that Services lead to, with these Services. Only Services of the
    /// Pod's namespace count: nobody's guards hold for the workloads of another.
    pub(super) fn ports<'b>(&'b self, name: &'b Name, pod: &'b Object<Pod>) -> BTreeMap<u16, Vec<Mapping<'b>>> {
        let mut ports: BTreeMap<u16, Vec<Mapping<'b>>> = pod.spec.ports().map(|(number, _)| (number, Vec::new())).collect();
        for (service, object) in self.selected_by(pod) {
            for (number, port) in services::ports(object) {
                if let Some(target) = pod.spec.target_port(port) {
                    ports.entry(target).or_default().push(Mapping { service, number, port });
                }
            }
        }
        for (target, mapping) in self.sliced.get(name).into_iter().flatten() {
            ports.entry(*target).or_default().push(*mapping);
        }
        for mappings in ports.values_mut() {
            mappings.sort_by_key(|one| (one.service, one.number));
            mappings.dedup_by_key(|one| (one.service, one.number));
        }
        ports
    }

    fn selected_by<'b>(&'b self, pod: &'b Object<Pod>) -> impl Iterator<Item = (&'b Name, &'b Object<ServiceSpec>)> {
        let (selecting, namespace): (&'b Labelled<'b>, _) = (&self.selecting, pod.meta.namespace.as_str());
        let candidates =
            pod.meta.labels.iter().filter_map(move |(label, value)| selecting.get(&(namespace, label.as_str(), value.as_str())));
        candidates
            .flatten()
            .copied()
            .filter(|(_, service)| service.spec.selector.as_ref().is_some_and(|selector| pod.meta.carries(selector)))
    }

    /// Slices of Services without a selector are somebody's own; those of the others say nothing new, but are as true.
    fn slices(&self, world: &'a World) -> HashMap<Name, Vec<(u16, Mapping<'a>)>> {
        let mut found: HashMap<Name, Vec<(u16, Mapping<'a>)>> = HashMap::new();
        for (name, slice) in &world.slices {
            let service = slice.meta.labels.get(SERVICE_NAME).map(|service| Name::new(name.namespace.clone(), service.clone()));
            let Some((service, object)) = service.and_then(|service| world.services.get_key_value(&service)) else { continue };
            let pods: BTreeSet<&Name> = slice
                .spec
                .endpoints
                .iter()
                .flat_map(|one| &one.addresses)
                .filter_map(|address| self.pod_at(address.parse().ok()?))
                .filter(|pod| pod.namespace == service.namespace)
                .collect();
            for (number, port) in services::ports(object) {
                let Some(target) = services::served(&slice.spec, port) else { continue };
                for pod in &pods {
                    found.entry((*pod).clone()).or_default().push((target, Mapping { service, number, port }));
                }
            }
        }
        found
    }
}

fn selecting(world: &World) -> Labelled<'_> {
    let mut found: Labelled<'_> = HashMap::new();
    for (name, service) in &world.services {
        let pair = service.spec.selector.iter().flatten().next();
        if let Some((label, value)) = pair.filter(|_| !services::is_external(service)) {
            found.entry((&name.namespace, label, value)).or_default().push((name, service.as_ref()));
        }
    }
    found
}
