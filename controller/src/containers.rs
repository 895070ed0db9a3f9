//! A proxy's container: the same beside an application and behind a Gateway.
//!
//! It runs as a user of its own, without privileges, on a file system that it cannot write; its keys and last good configuration live
//! in memory, its token is bound to its pod, and no other container has either mounted.

use crate::settings::{AccessLog, PullPolicy, Settings};
use crate::world::PLATFORM_NAMESPACE;
use crate::world::pod::SIDECAR;
use selvage_config::ports;
use selvage_policy::TrustDomain;
use serde_json::{Value, json};

/// User and group of every proxy.
pub const PROXY_UID: i64 = ports::PROXY_USER as i64;
/// The audience of a proxy's token: it is good for nothing else.
pub const TOKEN_AUDIENCE: &str = "selvage.dev/controller";
/// The ConfigMap with the trusted roots, in every namespace.
pub const ROOTS: &str = "selvage-roots";
/// The account of the controller: its name in certificates is made of it.
const CONTROLLER_ACCOUNT: &str = "controller";

/// How long a token lives, in seconds; the kubelet renews it before.
const TOKEN_LIFE: i64 = 3600;
/// Most that state in memory may take: two generations of configuration, and keys.
const STATE_LIMIT: &str = "64Mi";
/// How long a proxy may take until it is ready for the first time, in seconds: then it is restarted.
const START_SECONDS: i64 = 120;

/// Volumes that only a proxy may mount, with where it does.
pub const VOLUMES: [(&str, &str); 3] =
    [("selvage-token", "/var/run/selvage/token"), ("selvage-roots", "/var/run/selvage/roots"), ("selvage-state", "/var/run/selvage/state")];

/// One of the four programs in the image.
pub fn program(name: &str) -> String {
    format!("/selvage/{name}")
}

/// What a proxy is: its container's name and its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `mesh-agent`, beside an application.
    Sidecar,
    /// `gateway`, behind a Gateway.
    Edge,
}

/// The container of a proxy, without what the role adds.
pub fn proxy(which: Proxy, settings: &Settings, trust_domain: &TrustDomain) -> Value {
    let (name, binary, resources, access_log) = match which {
        Proxy::Sidecar => (SIDECAR, "mesh-agent", &settings.sidecars.resources, settings.sidecars.access_log),
        Proxy::Edge => ("selvage-gateway", "gateway", &settings.gateways.resources, settings.gateways.access_log),
    };
    let log = match access_log {
        AccessLog::Off => "off",
        AccessLog::Stdout => "-",
    };
    let from_pod = |field: &str| json!({ "fieldRef": { "apiVersion": "v1", "fieldPath": field } });
    let mounts: Vec<Value> = VOLUMES
        .iter()
        .map(|(name, path)| match *name {
            "selvage-state" => json!({ "name": name, "mountPath": path }),
            _ => json!({ "name": name, "mountPath": path, "readOnly": true }),
        })
        .collect();
    json!({
        "name": name,
        "image": settings.image,
        "imagePullPolicy": pull_policy(settings.image_pull_policy),
        "command": [program(binary)],
        "args": ["run", "--access-log", log],
        "env": [
            { "name": "SELVAGE_CONTROLLER", "value": settings.controller },
            { "name": "SELVAGE_CONTROLLER_NAME", "value": controller_name(trust_domain) },
            { "name": "SELVAGE_POD_NAMESPACE", "valueFrom": from_pod("metadata.namespace") },
            { "name": "SELVAGE_POD_NAME", "valueFrom": from_pod("metadata.name") },
            { "name": "SELVAGE_NODE", "value": "$(SELVAGE_POD_NAMESPACE)/$(SELVAGE_POD_NAME)" },
        ],
        "ports": [{ "name": "selvage-metrics", "containerPort": ports::METRICS, "protocol": "TCP" }],
        "startupProbe": {
            "httpGet": { "path": "/readyz", "port": ports::HEALTH },
            "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": START_SECONDS,
        },
        "readinessProbe": {
            "httpGet": { "path": "/readyz", "port": ports::HEALTH },
            "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 2,
        },
        "resources": resources,
        "securityContext": unprivileged(),
        "volumeMounts": mounts,
    })
}

/// The volumes of [`VOLUMES`].
pub fn volumes() -> Vec<Value> {
    let token = json!({ "serviceAccountToken": { "path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_LIFE } });
    let kinds = [
        json!({ "projected": { "sources": [token] } }),
        json!({ "configMap": { "name": ROOTS } }),
        json!({ "emptyDir": { "medium": "Memory", "sizeLimit": STATE_LIMIT } }),
    ];
    let named = VOLUMES.iter().zip(kinds).map(|((name, _), mut volume)| {
        volume["name"] = json!(name);
        volume
    });
    named.collect()
}

/// What a container may that needs nothing from the host.
pub fn unprivileged() -> Value {
    json!({
        "runAsUser": PROXY_UID,
        "runAsGroup": PROXY_UID,
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "privileged": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// As Kubernetes writes it.
pub fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
}

/// The name that the controller's certificate proves.
pub fn controller_name(trust_domain: &TrustDomain) -> String {
    format!("{CONTROLLER_ACCOUNT}.{PLATFORM_NAMESPACE}.sa.{trust_domain}")
}
