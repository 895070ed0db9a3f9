//! Endpoints of local Pods: on a laptop nobody else makes EndpointSlices.
//!
//! A Service with a selector gets a slice for each set of Pods whose target ports are the same numbers. A Pod with a sidecar is reached at
//! its mesh address, one without at its process's.

use super::{Meta, Name, Object, Pod, World};
use k8s_openapi::api::core::v1::{ObjectReference, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label by which a slice says whose it is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Adds slices for every Service with a selector whose Pods are known.
pub(super) fn synthesise(world: &mut World) {
    let mut made = Vec::new();
    for (name, service) in &world.services {
        let Some(selector) = service.spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { continue };
        let ports = service.spec.ports.as_deref().unwrap_or_default();
        let mut groups: BTreeMap<Vec<u16>, Vec<Endpoint>> = BTreeMap::new();
        let selected = |pod: &&Arc<Object<Pod>>| pod.meta.namespace == name.namespace && pod.meta.carries(selector);
        for pod in world.pods.values().filter(selected) {
            let numbers: Vec<u16> = ports.iter().map(|port| pod.spec.target_port(port).unwrap_or_default()).collect();
            groups.entry(numbers).or_default().extend(endpoint(world, pod));
        }
        for (index, (numbers, endpoints)) in groups.into_iter().enumerate() {
            // With a dot, which no Service has in its name: `orders-2` may be another one.
            let slice_name = if index == 0 { name.name.clone() } else { format!("{}.{}", name.name, index + 1) };
            made.push((Name::new(name.namespace.clone(), slice_name), slice(&name.name, ports, &numbers, endpoints)));
        }
    }
    for (name, spec) in made {
        let labels = spec.metadata.labels.clone().unwrap_or_default();
        let meta = Meta { namespace: name.namespace.clone(), name: name.name.clone(), labels, ..Meta::default() };
        world.slices.entry(name).or_insert_with(|| Arc::new(Object { meta, spec }));
    }
}

fn endpoint(world: &World, pod: &Object<Pod>) -> Option<Endpoint> {
    let addresses = world.addresses.as_ref()?;
    let name = pod.meta.named();
    let address = if world.meshed(pod) { addresses.sidecar(&name) } else { addresses.process(&name) };
    Some(Endpoint {
        addresses: vec![address?.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(name.namespace),
            name: Some(name.name),
            uid: Some(pod.meta.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice(service: &str, ports: &[ServicePort], numbers: &[u16], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |(port, number): (&ServicePort, &u16)| {
        // 0: no container of these Pods has a port of that name, so nothing of this port is served by them.
        (*number != 0).then(|| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(i32::from(*number)),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut slice = EndpointSlice { address_type: "IPv4".into(), endpoints, ..EndpointSlice::default() };
    slice.metadata.labels = Some(BTreeMap::from([(SERVICE_NAME.to_string(), service.to_string())]));
    slice.ports = Some(ports.iter().zip(numbers).filter_map(port).collect());
    slice
}
