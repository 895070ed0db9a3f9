//! Workloads with a sidecar: what it accepts for them, and the Services as they call them.
//!
//! ```text
//!              on a laptop                              in a cluster (Bind::Captured)
//! inbound      mesh address:port ──► process:port       15306, port p          ──► pod:p
//!                                                       15306, any other port  ──► pod, the same port
//! outbound     an address a Service ──► Service         15301                  ──► by original destination
//! ```

use super::gateways::bound_port;
use super::index::Mapping;
use super::{Facts, Translation, outermost, services};
use crate::provision::{GATEWAY_LABEL, label_value};
use crate::world::{Name, Object, PLATFORM_NAMESPACE, Pod};
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Clients, DestinationMatch, Forward, MeshMode, Protocol};
use selvage_config::{ListenerSpec, Resource, keys, ports};
use selvage_policy::mesh::Mtls;
use selvage_policy::target::TargetKind;
use selvage_policy::{Key, SpiffeId, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    for (name, identity) in &facts.workloads {
        let Some(pod) = facts.world.pods.get(name) else { continue };
        let workload = Workload { facts, name, pod, identity };
        if facts.world.in_cluster() {
            workload.captured(translation);
        } else {
            workload.inbound(translation);
            workload.outbound(translation);
        }
    }
}

/// Every node: its UID, what people call it, and its view. A Pod serves a Gateway because it runs as that Gateway's account: the label alone
/// grants nothing.
pub(super) fn nodes(facts: &Facts<'_>) -> Vec<(String, String, Key)> {
    let (gateways, workloads) = (facts.gateways.keys(), facts.workloads.keys());
    if !facts.world.in_cluster() {
        let views = gateways.map(|name| name.key("Gateway")).chain(workloads.map(|name| name.key("Pod")));
        return views.map(|view| (view.to_string(), view.to_string(), view)).collect();
    }
    let running = facts.world.pods.iter().filter(|(_, pod)| !pod.spec.ended);
    let node = |(name, pod): (&Name, &std::sync::Arc<Object<Pod>>)| {
        Some((pod.meta.uid.clone(), format!("{}/{}", name.namespace, name.name), view(facts, name, pod)?))
    };
    running.filter_map(node).collect()
}

/// The view that a Pod's proxy is given, if it is one of ours.
pub(super) fn view(facts: &Facts<'_>, name: &Name, pod: &Object<Pod>) -> Option<Key> {
    if facts.workloads.contains_key(name) {
        // Without its own address it would be told of nothing to accept: it comes back when it has one.
        return (!pod.spec.addresses.is_empty()).then(|| name.key("Pod"));
    }
    let label = pod.meta.labels.get(GATEWAY_LABEL)?;
    let serves = |(gateway, identity): &(&Name, &SpiffeId)| {
        gateway.namespace == name.namespace && identity.account() == pod.spec.account() && label_value(&gateway.name) == *label
    };
    facts.gateways.iter().find(serves).map(|(gateway, _)| gateway.key("Gateway"))
}

/// One workload with its sidecar.
struct Workload<'w, 'a> {
    facts: &'w Facts<'a>,
    name: &'w Name,
    pod: &'w Object<Pod>,
    identity: &'w SpiffeId,
}

impl Workload<'_, '_> {
    /// In a cluster: the kernel brings everything to two ports.
    fn captured(&self, translation: &mut Translation) {
        let Some(own) = self.pod.spec.addresses.first().copied() else { return };
        let (namespace, pod) = (&self.name.namespace, &self.name.name);
        for (number, mappings) in self.ports() {
            let destination = Some(DestinationMatch { addresses: Vec::new(), port: Some(number) });
            let spec = ListenerSpec {
                bind: Bind::Captured(ports::INBOUND),
                destination,
                ..self.accepting(number, &mappings, Forward::Local(SocketAddr::new(own, number)))
            };
            self.add(keys::inbound(namespace, pod, number), &spec, translation);
        }
        let spec = ListenerSpec { bind: Bind::Captured(ports::INBOUND), ..self.accepting(0, &[], Forward::Own(own)) };
        self.add(keys::inbound_any(namespace, pod), &spec, translation);
        let spec = self.calling(Bind::Captured(ports::OUTBOUND), 0, Protocol::Detect, Forward::Destination);
        self.add(keys::outbound_any(namespace, pod), &spec, translation);
    }

    /// On a laptop: one socket a port.
    fn inbound(&self, translation: &mut Translation) {
        let Some(addresses) = &self.facts.world.addresses else { return };
        let (Some(sidecar), Some(process)) = (addresses.sidecar(self.name), addresses.process(self.name)) else { return };
        for (number, mappings) in self.ports() {
            let spec = ListenerSpec {
                bind: Bind::Bound(SocketAddr::new(sidecar.into(), number)),
                ..self.accepting(number, &mappings, Forward::Local(SocketAddr::new(process.into(), number)))
            };
            self.add(keys::inbound(&self.name.namespace, &self.name.name, number), &spec, translation);
        }
    }

    /// On a laptop: one socket a Service's port.
    fn outbound(&self, translation: &mut Translation) {
        let Some(addresses) = &self.facts.world.addresses else { return };
        for (service_name, service) in &self.facts.world.services {
            let Some(address) = addresses.service(self.name, service_name) else { continue };
            let mut bound: BTreeMap<u16, u16> = BTreeMap::new();
            for (number, port) in services::ports(service) {
                let first = *bound.entry(bound_port(number)).or_insert(number);
                if first != number {
                    let service = service_name.key("Service");
                    let moved = "because those below 1024 are moved on a laptop: it is not served for workloads; choose another";
                    let remark = format!("{service}: spec.ports: port {number} falls on port {first} of the same Service, {moved}");
                    if !translation.remarks.contains(&remark) {
                        translation.remarks.push(remark);
                    }
                    continue;
                }
                let protocol = listened(services::protocol(self.facts, service_name, number, port));
                let bind = Bind::Bound(SocketAddr::new(address.into(), bound_port(number)));
                let backend = keys::backend(&service_name.namespace, &service_name.name, number);
                let spec = self.calling(bind, number, protocol, Forward::Backend(backend));
                let key = keys::outbound(&self.name.namespace, &self.name.name, &service_name.namespace, &service_name.name, number);
                self.add(key, &spec, translation);
            }
        }
    }

    /// The ports it is called at, but those of the proxy, with the Services that lead there.
    fn ports(&self) -> impl Iterator<Item = (u16, Vec<Mapping<'_>>)> {
        self.facts.index.ports(self.name, self.pod).into_iter().filter(|(number, _)| !ports::PROXY.contains(number))
    }

    /// What it accepts at one of its ports. Every Service that maps to the port is in its chain: its guards hold whatever name a caller used,
    /// the Pod's address included.
    fn accepting(&self, number: u16, mappings: &[Mapping<'_>], forward: Forward) -> ListenerSpec {
        let mut chain = outermost(&self.name.namespace);
        chain.extend(mappings.iter().flat_map(|one| services::targets(one.service, one.port)));
        chain.push(Target::new(TargetKind::Workload, &self.name.namespace, &self.name.name));
        let mut seen = BTreeSet::new();
        chain.retain(|target| seen.insert(target.clone()));
        let spoken: Vec<AppProtocol> =
            mappings.iter().map(|one| services::protocol(self.facts, one.service, one.number, one.port)).collect();
        let application = agreed(spoken.iter().copied()).filter(|protocol| *protocol == AppProtocol::H2c);
        let near = |gateway: &&Name| gateway.namespace == self.name.namespace || gateway.namespace == PLATFORM_NAMESPACE;
        let assertors = self.facts.gateways.iter().filter(|(gateway, _)| near(gateway)).map(|(_, identity)| identity.clone());
        ListenerSpec {
            bind: Bind::Captured(number),
            destination: None,
            hostname: None,
            port: number,
            protocol: agreed(spoken.into_iter().map(listened)).unwrap_or(Protocol::Detect),
            certificates: Vec::new(),
            mesh: Some(match self.facts.world.mesh().mtls {
                Mtls::Permissive => MeshMode::Permissive,
                Mtls::Strict => MeshMode::Strict,
            }),
            clients: Clients::Fellows,
            forward,
            chain,
            posture: true,
            identity: Some(self.identity.clone()),
            application,
            assertors: assertors.collect(),
        }
    }

    /// How it calls others.
    fn calling(&self, bind: Bind, port: u16, protocol: Protocol, forward: Forward) -> ListenerSpec {
        ListenerSpec {
            bind,
            destination: None,
            hostname: None,
            port,
            protocol,
            certificates: Vec::new(),
            mesh: None,
            clients: Clients::Application,
            forward,
            chain: Vec::new(),
            posture: false,
            identity: Some(self.identity.clone()),
            application: None,
            assertors: Vec::new(),
        }
    }

    fn add(&self, key: Key, spec: &ListenerSpec, translation: &mut Translation) {
        translation.add(Resource::core(key, spec, self.pod.meta.created));
    }
}

/// What all say, if they say one thing.
fn agreed<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

/// What a listener expects of what is spoken behind a Service's port.
fn listened(protocol: AppProtocol) -> Protocol {
    match protocol {
        AppProtocol::Http | AppProtocol::H2c => Protocol::Http,
        AppProtocol::Tcp => Protocol::Tcp,
        AppProtocol::Detect => Protocol::Detect,
    }
}
