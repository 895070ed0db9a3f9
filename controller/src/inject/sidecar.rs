//! The two containers of ours, and where they stand in a Pod.

use super::exclusions::Exclusions;
use super::probes::{self, Probes};
use super::{INIT, SIDECAR, STATUS, list};
use crate::containers::{self, Proxy, VOLUMES};
use crate::settings::Settings;
use selvage_policy::TrustDomain;
use serde_json::{Value, json};

/// Where the API server's ServiceAccount plugin, which runs again after us, mounts the application's API token in every container that
/// has nothing there. Ours have the roots there, so that they never see it.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Puts them in, in place of what an earlier run put in.
pub(super) fn put(pod: &mut Value, settings: &Settings, trust_domain: &TrustDomain, exclusions: &Exclusions, probes: &Probes) {
    let spec = &mut pod["spec"];
    if let Some(containers) = list(spec, "initContainers") {
        containers.retain(|container| container["name"] != INIT && container["name"] != SIDECAR);
        // First of all: the Pod's own init containers are captured and served like the rest.
        containers.splice(0..0, [init(settings, exclusions), proxy(settings, trust_domain, probes)]);
    }
    if let Some(volumes) = list(spec, "volumes") {
        volumes.retain(|volume| VOLUMES.iter().all(|(name, _)| volume["name"] != *name));
        volumes.extend(containers::volumes());
    }
    let paths: Vec<&String> = probes.keys().collect();
    let status = json!({ "initContainers": [INIT, SIDECAR], "volumes": VOLUMES.map(|(name, _)| name), "probes": paths });
    if !pod["metadata"]["annotations"].is_object() {
        pod["metadata"]["annotations"] = json!({});
    }
    pod["metadata"]["annotations"][STATUS] = json!(status.to_string());
}

/// Installs the rules of capture and ends. It is root in its container, with the two capabilities that rules need and no other.
fn init(settings: &Settings, exclusions: &Exclusions) -> Value {
    let mut container = json!({
        "name": INIT,
        "image": settings.image,
        "imagePullPolicy": containers::pull_policy(settings.image_pull_policy),
        "command": [containers::program("mesh-agent")],
        "args": ["init"],
        "resources": settings.sidecars.resources,
        "volumeMounts": [instead_of_api_token()],
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "privileged": false,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    });
    let env = exclusions.env();
    if !env.is_empty() {
        container["env"] = Value::Array(env);
    }
    container
}

fn proxy(settings: &Settings, trust_domain: &TrustDomain, probes: &Probes) -> Value {
    let mut container = containers::proxy(Proxy::Sidecar, settings, trust_domain);
    container["restartPolicy"] = json!("Always");
    if let Some(mounts) = container["volumeMounts"].as_array_mut() {
        mounts.push(instead_of_api_token());
    }
    if let (false, Some(env)) = (probes.is_empty(), container["env"].as_array_mut()) {
        env.push(json!({ "name": probes::VARIABLE, "value": probes::written(probes) }));
    }
    container
}

fn instead_of_api_token() -> Value {
    json!({ "name": "selvage-roots", "mountPath": API_TOKEN, "readOnly": true })
}
