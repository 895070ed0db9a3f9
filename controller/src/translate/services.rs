//! Services: their ports as backends, and who serves them.

use super::{Facts, Translation, outermost, port};
use crate::world::endpoints::SERVICE_NAME;
use crate::world::route::RouteKind;
use crate::world::{Name, Object};
use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use selvage_config::resource::backend::AppProtocol;
use selvage_config::{BackendSpec, Endpoint, EndpointsSpec, Resource, keys};
use selvage_policy::Target;
use selvage_policy::target::TargetKind;
use std::net::{IpAddr, SocketAddr};

/// The TCP ports of a Service.
pub(super) fn ports(service: &Object<ServiceSpec>) -> impl Iterator<Item = (u16, &ServicePort)> {
    let ports = service.spec.ports.iter().flatten();
    ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP").filter_map(|one| Some((port(one.port)?, one)))
}

/// Whether a Service is another name for a host elsewhere: it has no endpoints and selects nothing.
pub(super) fn is_external(service: &Object<ServiceSpec>) -> bool {
    service.spec.type_.as_deref() == Some("ExternalName")
}

/// The port of the endpoints of a slice that serves a Service's port.
pub(super) fn served(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let named = |name: &Option<String>| name.clone().unwrap_or_default();
    let fits = slice.ports.iter().flatten().find(|one| named(&one.name) == named(&port.name));
    fits.and_then(|one| one.port).and_then(super::port)
}

/// Platform, Namespace, Service, port, from the outside in.
pub(super) fn chain(name: &Name, port: &ServicePort) -> Vec<Target> {
    let mut chain = outermost(&name.namespace);
    chain.extend(targets(name, port));
    chain
}

/// The Service and its port as targets.
pub(super) fn targets(name: &Name, port: &ServicePort) -> Vec<Target> {
    let service = Target::new(TargetKind::Service, &name.namespace, &name.name);
    let section = port.name.as_ref().map(|section| service.section(section));
    std::iter::once(service).chain(section).collect()
}

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    for (name, service) in &facts.world.services {
        for (number, port) in ports(service) {
            let addresses = service.spec.cluster_ips.iter().flatten().filter_map(|address| address.parse::<IpAddr>().ok());
            let spec = BackendSpec {
                addresses: addresses.collect(),
                port: number,
                protocol: protocol(facts, name, number, port),
                chain: chain(name, port),
            };
            translation.add(Resource::core(keys::backend(&name.namespace, &name.name, number), &spec, service.meta.created));
        }
    }
    for (name, slice) in &facts.world.slices {
        let Some(service_name) = slice.meta.labels.get(SERVICE_NAME).map(|service| Name::new(name.namespace.clone(), service.clone()))
        else {
            continue;
        };
        let Some(service) = facts.world.services.get(&service_name) else { continue };
        for (number, port) in ports(service) {
            let Some(target) = served(&slice.spec, port) else { continue };
            let endpoints = slice.spec.endpoints.iter().filter_map(|one| endpoint(facts, &name.namespace, one, target)).collect();
            let spec = EndpointsSpec { backend: keys::backend(&service_name.namespace, &service_name.name, number), endpoints };
            translation.add(Resource::core(keys::endpoints(&name.namespace, &name.name, number), &spec, slice.meta.created));
        }
    }
}

fn endpoint(facts: &Facts<'_>, namespace: &str, one: &SliceEndpoint, port: u16) -> Option<Endpoint> {
    let conditions = one.conditions.clone().unwrap_or_default();
    let (ready, serving, terminating) = (conditions.ready.unwrap_or(true), conditions.serving, conditions.terminating.unwrap_or(false));
    let draining = terminating && serving.unwrap_or(false);
    if !ready && !draining {
        return None;
    }
    let address: IpAddr = one.addresses.first()?.parse().ok()?;
    let pod = workload(facts, namespace, one, address)?;
    let identity = pod.as_ref().and_then(|pod| facts.workloads.get(pod)).cloned();
    Some(Endpoint {
        address: SocketAddr::new(address, port),
        workload: pod.map(|pod| pod.key("Pod")),
        identity,
        draining,
        zone: one.zone.clone(),
    })
}

/// The Pod behind an address of a slice, or that there is none. Nothing: the endpoint is left out, because what a slice says of its Pod is
/// not so (yet). Who may write slices must not choose whom callers believe to meet, and a Pod that we do not know may have a sidecar.
fn workload(facts: &Facts<'_>, namespace: &str, one: &SliceEndpoint, address: IpAddr) -> Option<Option<Name>> {
    let target = one.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let named = target.and_then(|target| Some(Name::new(target.namespace.as_deref().unwrap_or(namespace), target.name.as_deref()?)));
    if !facts.world.in_cluster() {
        return Some(named);
    }
    let Some(name) = named else { return Some(facts.index.pod_at(address).cloned()) };
    let pod = facts.world.pods.get(&name)?;
    let same = target.and_then(|target| target.uid.as_ref()).is_none_or(|uid| *uid == pod.meta.uid);
    let there = pod.spec.addresses.is_empty() || pod.spec.addresses.contains(&address);
    (same && there && !pod.spec.ended).then_some(Some(name))
}

/// What is spoken behind a Service port: as `appProtocol` or the port's name says, else as the routes that lead there do.
pub(super) fn protocol(facts: &Facts<'_>, name: &Name, number: u16, port: &ServicePort) -> AppProtocol {
    let hint = port.app_protocol.as_deref().or(port.name.as_deref()).unwrap_or_default().to_lowercase();
    match hint.rsplit('/').next().and_then(|hint| hint.split('-').next()).unwrap_or_default() {
        "h2c" | "grpc" | "http2" => return AppProtocol::H2c,
        "http" | "ws" => return AppProtocol::Http,
        "tcp" => return AppProtocol::Tcp,
        _ => {}
    }
    match facts.led.get(&(name.clone(), number)) {
        Some(RouteKind::Grpc) => AppProtocol::H2c,
        Some(RouteKind::Http) => AppProtocol::Http,
        Some(RouteKind::Tls | RouteKind::Tcp) => AppProtocol::Tcp,
        None => AppProtocol::Detect,
    }
}
