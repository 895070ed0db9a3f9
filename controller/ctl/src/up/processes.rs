//! From Pods to local processes: command, environment and addresses, as Kubernetes would give them.

use super::children::ProcessSpec;
use crate::expand::expand;
use selvage_controller::translate::bound_port;
use selvage_controller::world::{Name, World};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// A container that cannot be run as a process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Pod/{pod}: spec.containers[{index}].{problem}")]
pub struct Unrunnable {
    pod: String,
    index: usize,
    problem: String,
}

/// The processes of every Pod, by the name that marks their output: the Pod's, with the container's where there are several.
pub fn processes(world: &World, directory: &Path) -> (BTreeMap<String, ProcessSpec>, Vec<Unrunnable>) {
    let (mut specs, mut unrunnable) = (BTreeMap::new(), Vec::new());
    let alone = |namespace: &str| world.pods.keys().all(|name| name.namespace == namespace);
    for (name, pod) in &world.pods {
        let Some(own) = world.addresses.as_ref().and_then(|addresses| addresses.process(name)) else { continue };
        let services = services(world, name);
        let mut shared = BTreeMap::new();
        shared.insert("LISTEN_HOST".into(), own.to_string());
        shared.insert("POD_NAME".into(), name.name.clone());
        shared.insert("POD_NAMESPACE".into(), name.namespace.clone());
        shared.insert("POD_IP".into(), own.to_string());
        for (index, container) in pod.spec.spec.containers.iter().enumerate() {
            let mut environment: BTreeMap<String, String> = shared.clone();
            for variable in container.env.iter().flatten() {
                // References to ConfigMaps and Secrets are not followed on a laptop.
                let value =
                    expand(variable.value.as_deref().unwrap_or_default(), |name| environment.get(name).or_else(|| services.get(name)));
                environment.insert(variable.name.clone(), value);
            }
            let words = container.command.iter().flatten().chain(container.args.iter().flatten());
            let command: Vec<String> =
                words.map(|word| expand(word, |name| environment.get(name).or_else(|| services.get(name)))).collect();
            if container.command.as_ref().is_none_or(Vec::is_empty) {
                let problem =
                    "command: is required, because a laptop runs processes and no images: write the program and its arguments".into();
                unrunnable.push(Unrunnable { pod: format!("{}/{}", name.namespace, name.name), index, problem });
                continue;
            }
            let ports = container.ports.iter().flatten().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            let ports = ports.filter_map(|port| u16::try_from(port.container_port).ok());
            let listens = ports.map(|port| SocketAddr::new(own.into(), port)).collect();
            let mut shown = if alone(&name.namespace) { name.name.clone() } else { format!("{}/{}", name.namespace, name.name) };
            if pod.spec.spec.containers.len() > 1 {
                shown = format!("{shown}.{}", container.name);
            }
            let directory = container.working_dir.as_ref().map_or_else(|| directory.to_path_buf(), |below| directory.join(below));
            specs.insert(shown, ProcessSpec { command, environment, services: services.clone(), directory, listens });
        }
    }
    (specs, unrunnable)
}

/// The variables by which a workload finds Services (Kubernetes: "Environment variables" of Services): of its own namespace by name, of others
/// by namespace and name. A Pod without a sidecar gets none: there is nothing that would answer.
fn services(world: &World, pod: &Name) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let meshed = world.pods.get(pod).is_some_and(|object| world.meshed(object));
    for (name, service) in world.services.iter().filter(|_| meshed) {
        let Some(address) = world.addresses.as_ref().and_then(|addresses| addresses.service(pod, name)) else { continue };
        let upper = |text: &str| text.to_uppercase().replace(['-', '.'], "_");
        let own =
            if name.namespace == pod.namespace { upper(&name.name) } else { format!("{}_{}", upper(&name.namespace), upper(&name.name)) };
        variables.insert(format!("{own}_SERVICE_HOST"), address.to_string());
        for (index, port) in service.spec.ports.iter().flatten().enumerate() {
            if index == 0 {
                variables.insert(format!("{own}_SERVICE_PORT"), bound(port.port));
            }
            if let Some(port_name) = &port.name {
                variables.insert(format!("{own}_SERVICE_PORT_{}", upper(port_name)), bound(port.port));
            }
        }
    }
    variables
}

/// The port at which a sidecar answers for a Service's: those that need privileges are moved.
fn bound(port: i32) -> String {
    u16::try_from(port).map_or_else(|_| port.to_string(), |port| bound_port(port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn world(objects: &[serde_json::Value]) -> World {
        let mut world = World { addresses: Some(Default::default()), ..World::default() };
        objects.iter().cloned().for_each(|object| world.insert_json(object));
        assert!(world.malformed.is_empty(), "{:?}", world.malformed);
        world.settle().expect("there is room");
        world
    }

    fn pod(name: &str, container: serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}}, "spec": {"containers": [container]}})
    }

    fn service(name: &str, namespace: &str) -> serde_json::Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}})
    }

    #[test]
    fn commands_and_variables_are_expanded_with_addresses() {
        let world = world(&[
            pod(
                "web",
                json!({"name": "web", "command": ["serve", "--on", "$(LISTEN_HOST):8080"], "args": ["$(UP_STREAM)"],
                    "env": [{"name": "UP_STREAM", "value": "http://$(BACK_END_SERVICE_HOST):$(BACK_END_SERVICE_PORT)"}], "ports": [{"containerPort": 8080}]}),
            ),
            service("back-end", "shop"),
            service("far", "other"),
        ]);
        let (specs, unrunnable) = processes(&world, Path::new("/tmp"));
        assert!(unrunnable.is_empty(), "{unrunnable:?}");
        let name = Name::new("shop", "web");
        let addresses = world.addresses.as_ref().expect("addresses");
        let own = addresses.process(&name).expect("an address");
        let near = addresses.service(&name, &Name::new("shop", "back-end")).expect("an address");
        let far = addresses.service(&name, &Name::new("other", "far")).expect("an address");
        let spec = &specs["web"];
        assert_eq!(spec.command, ["serve", "--on", &format!("{own}:8080"), &format!("http://{near}:10080")]);
        assert_eq!(spec.listens, [SocketAddr::new(own.into(), 8080)]);
        assert_eq!(spec.services["OTHER_FAR_SERVICE_HOST"], far.to_string());
        assert_eq!(spec.services["BACK_END_SERVICE_PORT_HTTP"], "10080");
    }

    #[test]
    fn a_container_without_a_command_is_named_and_the_others_run() {
        let world =
            world(&[pod("image", json!({"name": "image", "image": "nginx"})), pod("web", json!({"name": "web", "command": ["serve"]}))]);
        let (specs, unrunnable) = processes(&world, Path::new("/tmp"));
        assert_eq!(specs.keys().collect::<Vec<_>>(), ["web"]);
        assert!(unrunnable[0].to_string().contains("Pod/shop/image: spec.containers[0].command"), "{unrunnable:?}");
    }

    #[test]
    fn a_workload_without_a_sidecar_is_given_no_addresses_of_services() {
        let mut outside = pod("outside", json!({"name": "outside", "command": ["serve"]}));
        outside["metadata"]["labels"]["selvage.dev/inject"] = json!("disabled");
        let world = world(&[outside, service("back-end", "shop")]);
        let (specs, _) = processes(&world, Path::new("/tmp"));
        assert!(specs["outside"].services.is_empty(), "{:?}", specs["outside"].services);
    }
}
