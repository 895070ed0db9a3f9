//! Workloads with a sidecar: what it accepts for them, and the Services as they call them.

use super::gateways::bound_port;
use super::{Facts, Translation, outermost, port, services};
use crate::world::endpoints::target_port;
use crate::world::{Name, Object, PLATFORM_NAMESPACE};
use k8s_openapi::api::core::v1::PodSpec;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Clients, Forward, MeshMode, Protocol};
use selvage_config::{ListenerSpec, Resource, keys};
use selvage_policy::mesh::Mtls;
use selvage_policy::target::TargetKind;
use selvage_policy::{SpiffeId, Target};
use std::collections::BTreeSet;
use std::net::SocketAddr;

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    for (name, identity) in &facts.workloads {
        let Some(pod) = facts.world.pods.get(name) else { continue };
        inbound(facts, name, pod, identity, translation);
        outbound(facts, name, pod, identity, translation);
    }
}

/// The TCP ports a Pod declares.
fn declared(pod: &PodSpec) -> BTreeSet<u16> {
    let ports = pod.containers.iter().flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").filter_map(|one| port(one.container_port)).collect()
}

fn inbound(facts: &Facts<'_>, name: &Name, pod: &Object<PodSpec>, identity: &SpiffeId, translation: &mut Translation) {
    let Some(addresses) = &facts.world.addresses else { return };
    let (Some(sidecar), Some(process)) = (addresses.sidecar(name), addresses.process(name)) else { return };
    let mesh = match facts.world.mesh().mtls {
        Mtls::Permissive => MeshMode::Permissive,
        Mtls::Strict => MeshMode::Strict,
    };
    let near = |gateway: &&Name| gateway.namespace == name.namespace || gateway.namespace == PLATFORM_NAMESPACE;
    let assertors: Vec<SpiffeId> =
        facts.gateways.iter().filter(|(gateway, _)| near(gateway)).map(|(_, identity)| identity.clone()).collect();
    for number in declared(&pod.spec) {
        // Every Service that maps to this port: its guards hold whatever name a caller used, the pod's address included.
        let mut chain = outermost(&name.namespace);
        let mut protocols = BTreeSet::new();
        for (service_name, service) in facts.world.services.iter().filter(|(service, _)| service.namespace == name.namespace) {
            let selected = service.spec.selector.as_ref().is_some_and(|selector| !selector.is_empty() && pod.meta.carries(selector));
            for (service_port, port) in services::ports(service) {
                if selected && target_port(port, &pod.spec) == Some(number) {
                    chain.extend(services::targets(service_name, port));
                    protocols.insert(listened(services::protocol(facts, service_name, service_port, port)));
                }
            }
        }
        chain.push(Target::new(TargetKind::Workload, &name.namespace, &name.name));
        let mut seen = BTreeSet::new();
        chain.retain(|target| seen.insert(target.clone()));
        let protocol = match (protocols.len(), protocols.first()) {
            (1, Some(0)) => Protocol::Http,
            (1, Some(1)) => Protocol::Tcp,
            _ => Protocol::Detect,
        };
        let spec = ListenerSpec {
            bind: Bind::Bound(SocketAddr::new(sidecar.into(), number)),
            destination: None,
            hostname: None,
            port: number,
            protocol,
            certificates: Vec::new(),
            mesh: Some(mesh),
            clients: Clients::Fellows,
            forward: Forward::Local(SocketAddr::new(process.into(), number)),
            chain,
            posture: true,
            identity: Some(identity.clone()),
            assertors: assertors.clone(),
        };
        translation.add(Resource::core(keys::inbound(&name.namespace, &name.name, number), &spec, pod.meta.created));
    }
}

fn listened(protocol: AppProtocol) -> u8 {
    match protocol {
        AppProtocol::Http | AppProtocol::H2c => 0,
        AppProtocol::Tcp => 1,
        AppProtocol::Detect => 2,
    }
}

fn outbound(facts: &Facts<'_>, name: &Name, pod: &Object<PodSpec>, identity: &SpiffeId, translation: &mut Translation) {
    let Some(addresses) = &facts.world.addresses else { return };
    for (service_name, service) in &facts.world.services {
        let Some(address) = addresses.service(name, service_name) else { continue };
        for (number, port) in services::ports(service) {
            let protocol = match services::protocol(facts, service_name, number, port) {
                AppProtocol::Http | AppProtocol::H2c => Protocol::Http,
                AppProtocol::Tcp => Protocol::Tcp,
                AppProtocol::Detect => Protocol::Detect,
            };
            let spec = ListenerSpec {
                bind: Bind::Bound(SocketAddr::new(address.into(), bound_port(number))),
                destination: None,
                hostname: None,
                port: number,
                protocol,
                certificates: Vec::new(),
                mesh: None,
                clients: Clients::Application,
                forward: Forward::Backend(keys::backend(&service_name.namespace, &service_name.name, number)),
                chain: Vec::new(),
                posture: false,
                identity: Some(identity.clone()),
                assertors: Vec::new(),
            };
            let key = keys::outbound(&name.namespace, &name.name, &service_name.namespace, &service_name.name, number);
            translation.add(Resource::core(key, &spec, pod.meta.created));
        }
    }
}
