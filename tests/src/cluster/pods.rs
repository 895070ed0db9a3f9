//! Pods and their containers.

use super::kubectl::{eventually, json, kubectl};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

/// A pod as the API server knows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub object: Value,
}

impl Pod {
    fn new(object: Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_string();
        Self { namespace: text("namespace"), name: text("name"), object }
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        let text = self.object["status"]["podIP"].as_str().unwrap_or_else(|| panic!("{} has no address", self.name));
        text.parse().expect("a pod's address is an IP address")
    }

    /// A port of its own address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(), port)
    }

    /// Whether the condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    /// Whether it is on its way out.
    pub fn is_leaving(&self) -> bool {
        self.object["metadata"]["deletionTimestamp"].is_string()
    }

    /// An init container.
    pub fn init_container(&self, name: &str) -> Option<&Value> {
        self.object["spec"]["initContainers"].as_array()?.iter().find(|container| container["name"] == name)
    }

    /// The status of a container, init containers included.
    pub fn container_status(&self, name: &str) -> Option<&Value> {
        let lists = ["containerStatuses", "initContainerStatuses"];
        lists.iter().filter_map(|list| self.object["status"][list].as_array()).flatten().find(|status| status["name"] == name)
    }

    /// How often a container was started again.
    pub fn restarts(&self, name: &str) -> u64 {
        self.container_status(name).and_then(|status| status["restartCount"].as_u64()).unwrap_or_default()
    }
}

/// One pod.
pub fn pod(namespace: &str, name: &str) -> Pod {
    Pod::new(json("pod", namespace, name))
}

/// The pods with these labels that are not on their way out.
pub fn pods(namespace: &str, labels: &str) -> Vec<Pod> {
    let text = kubectl(&["get", "pods", "-n", namespace, "-l", labels, "-o", "json"]);
    let list: Value = serde_json::from_str(&text).expect("kubectl writes JSON");
    let all = list["items"].as_array().expect("a list").iter().cloned().map(Pod::new);
    all.filter(|pod| !pod.is_leaving()).collect()
}

/// Kills a container of these pods, all at once and with no chance to say goodbye, and waits until each runs again and is ready.
pub fn crash(all: &[Pod], container: &str) {
    for one in all {
        let status = one.container_status(container);
        let id = status.and_then(|status| status["containerID"].as_str()).map(|id| id.trim_start_matches("containerd://"));
        let id = id.unwrap_or_else(|| panic!("{} has no running container {container}", one.name));
        let killed = Command::new("ctr").args(["tasks", "kill", "--signal", "SIGKILL", id]).output().expect("ctr is there");
        assert!(killed.status.success(), "{}", String::from_utf8_lossy(&killed.stderr));
    }
    for one in all {
        eventually(&format!("{container} of {} runs again", one.name), || {
            let now = pod(&one.namespace, &one.name);
            (now.restarts(container) > one.restarts(container) && now.is_ready()).then_some(())
        });
    }
}

/// Deletes a pod without waiting.
pub fn remove(pod: &Pod) {
    kubectl(&["delete", "pod", "-n", &pod.namespace, &pod.name, "--wait=false"]);
}
