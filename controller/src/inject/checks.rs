//! What a Pod with a sidecar must not have.

use super::{INIT, SIDECAR};
use crate::containers::{PROXY_UID, VOLUMES};
use crate::world::Fault;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use selvage_config::ports;
use selvage_policy::Key;

/// Ports that the sidecar listens on.
const SIDECAR_PORTS: [u16; 5] = [ports::OUTBOUND, ports::INBOUND, ports::HEALTH, ports::METRICS, ports::ADMIN];

/// Everything that is in the way. `injected`: an earlier run of ours has been here, so what has our names is ours.
pub(super) fn check(key: &Key, spec: &PodSpec, injected: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    let ours = |name: &str| name == INIT || name == SIDECAR;
    let lists = [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())];
    for (list, containers) in lists {
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let at = format!("spec.{list}[{index}]");
            if !ours(&container.name) {
                faults.extend(of_container(key, &at, container, spec));
            } else if list == "containers" || !injected {
                faults.push(Fault::of(
                    key,
                    format!("{at}.name"),
                    format!("`{}` is the name of a container of ours: take another", container.name),
                ));
            }
        }
    }
    let volumes = spec.volumes.iter().flatten().enumerate();
    for (index, volume) in volumes.filter(|(_, volume)| !injected && is_ours(&volume.name)) {
        faults.push(Fault::of(
            key,
            format!("spec.volumes[{index}].name"),
            format!("`{}` is the name of a volume of ours: take another", volume.name),
        ));
    }
    faults
}

fn of_container(key: &Key, at: &str, container: &Container, spec: &PodSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (own, pod) = (container.security_context.as_ref(), spec.security_context.as_ref());
    let identities = [
        ("runAsUser", own.and_then(|context| context.run_as_user), pod.and_then(|context| context.run_as_user)),
        ("runAsGroup", own.and_then(|context| context.run_as_group), pod.and_then(|context| context.run_as_group)),
    ];
    for (field, own, _) in identities.into_iter().filter(|(_, own, pod)| own.or(*pod) == Some(PROXY_UID)) {
        let whose = if own.is_some() { at } else { "spec" };
        let problem = format!("{PROXY_UID} is the sidecar's, whose traffic is not captured: run `{}` as another", container.name);
        faults.push(Fault::of(key, format!("{whose}.securityContext.{field}"), problem));
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate().filter(|(_, mount)| is_ours(&mount.name)) {
        let problem = format!("`{}` holds what only the sidecar may read: mount another volume", mount.name);
        faults.push(Fault::of(key, format!("{at}.volumeMounts[{index}].name"), problem));
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        if SIDECAR_PORTS.iter().any(|taken| i32::from(*taken) == port.container_port) {
            let problem = format!("{} is a port of the sidecar: listen on another", port.container_port);
            faults.push(Fault::of(key, format!("{at}.ports[{index}].containerPort"), problem));
        }
    }
    faults
}

fn is_ours(volume: &str) -> bool {
    VOLUMES.iter().any(|(name, _)| *name == volume)
}
