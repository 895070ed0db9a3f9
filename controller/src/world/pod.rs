//! A Pod: what it was asked to be, and what of its status matters to others.

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, PodStatus, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::IpAddr;

/// The init container that is a workload's proxy.
pub const SIDECAR: &str = "selvage-proxy";
/// The account of a Pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// One Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// What it was asked to be.
    pub spec: PodSpec,
    /// Its addresses, the first one foremost; none before it has one, and none in files.
    pub addresses: Vec<IpAddr>,
    /// Whether it has ended for good (phase `Succeeded` or `Failed`): its address may be another's by now.
    pub ended: bool,
}

impl Pod {
    /// From what a file or the API server says.
    pub(super) fn new(spec: PodSpec, status: Option<PodStatus>) -> Self {
        let status = status.unwrap_or_default();
        let texts = status.pod_ips.into_iter().flatten().map(|one| one.ip).chain(status.pod_ip);
        let mut addresses = Vec::new();
        for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let ended = status.phase.is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
        Self { spec, addresses, ended }
    }

    /// Its service account.
    pub fn account(&self) -> &str {
        self.spec.service_account_name.as_deref().filter(|account| !account.is_empty()).unwrap_or(DEFAULT_ACCOUNT)
    }

    /// Whether a sidecar was injected: a native one, that runs as long as the Pod does.
    pub fn has_sidecar(&self) -> bool {
        !self.on_host_network() && self.spec.init_containers.iter().flatten().any(|one| one.name == SIDECAR && stays(one))
    }

    /// Whether its addresses are its node's: they say nothing about who answers there.
    pub fn on_host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    /// Containers that run as long as the Pod does, without the proxy.
    pub fn applications(&self) -> impl Iterator<Item = &Container> {
        let beside = self.spec.init_containers.iter().flatten().filter(|one| stays(one) && one.name != SIDECAR);
        self.spec.containers.iter().chain(beside)
    }

    /// The TCP ports that its containers declare.
    pub fn ports(&self) -> impl Iterator<Item = (u16, &ContainerPort)> {
        let ports = self.applications().flat_map(|container| container.ports.iter().flatten());
        let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        tcp.filter_map(|port| Some((u16::try_from(port.container_port).ok().filter(|number| *number != 0)?, port)))
    }

    /// The port that a Service's port leads to.
    pub fn target_port(&self, port: &ServicePort) -> Option<u16> {
        match &port.target_port {
            None => u16::try_from(port.port).ok(),
            Some(IntOrString::Int(number)) => u16::try_from(*number).ok().filter(|number| *number != 0),
            Some(IntOrString::String(name)) => self.ports().find(|(_, port)| port.name.as_ref() == Some(name)).map(|(number, _)| number),
        }
    }
}

/// Whether an init container is a native sidecar (KEP-753).
fn stays(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
