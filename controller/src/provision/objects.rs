//! The objects of one Gateway.

use super::Port;
use super::names::{CLASS_LABEL, GATEWAY_LABEL, MANAGED, MANAGED_LABEL, label_value, workload_name};
use crate::containers::{self, PROXY_UID, Proxy};
use crate::gateway_api::GatewaySpec;
use crate::settings::{Settings, TrafficPolicy};
use crate::world::{INJECT, Object};
use selvage_config::ports::HEALTH;
use selvage_policy::TrustDomain;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How long a pod may take to end, in seconds: `gateway` itself goes on for 5 until no node sends it new connections any more, then
/// requests under way have 20.
const GRACE: u32 = 30;

/// The kinds of which a Gateway has an object each: API version and kind.
pub const KINDS: [(&str, &str); 4] =
    [("v1", "ServiceAccount"), ("v1", "Service"), ("apps/v1", "Deployment"), ("policy/v1", "PodDisruptionBudget")];

/// On a Deployment: how many Pods the settings said when it was applied. Whoever scales it changes the number and not this.
pub const REPLICAS: &str = "selvage.dev/replicas";

/// What the objects of a Gateway are made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The Gateway.
    pub gateway: &'a Object<GatewaySpec>,
    /// The ports of its listeners, those of its ListenerSets included.
    pub ports: &'a BTreeSet<Port>,
    /// The address that it asks for.
    pub address: Option<IpAddr>,
    /// What the platform team says.
    pub settings: &'a Settings,
    /// The trust domain in force.
    pub trust_domain: &'a TrustDomain,
}

impl Plan<'_> {
    /// Every object, in the order in which they are applied. Without ports there is no Service.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = vec![self.service_account(), self.deployment(), self.disruption_budget()];
        if !self.ports.is_empty() {
            objects.insert(1, self.service());
        }
        objects
    }

    fn name(&self) -> String {
        workload_name(&self.gateway.meta.name, &self.gateway.spec.gateway_class_name)
    }

    /// The labels that nobody else's pods carry: neither those of another implementation for this Gateway, nor those of the class it had
    /// before.
    fn selector(&self) -> Map<String, Value> {
        let mut labels = Map::new();
        labels.insert(GATEWAY_LABEL.into(), json!(label_value(&self.gateway.meta.name)));
        labels.insert(CLASS_LABEL.into(), json!(label_value(&self.gateway.spec.gateway_class_name)));
        labels
    }

    fn labels(&self) -> Map<String, Value> {
        let infrastructure = self.gateway.spec.infrastructure.iter().filter_map(|asked| asked.labels.as_ref()).flatten();
        let mut labels: Map<String, Value> = infrastructure.map(|(name, value)| (name.clone(), json!(value))).collect();
        labels.extend(self.selector());
        labels.insert(MANAGED_LABEL.into(), json!(MANAGED));
        labels
    }

    fn object(&self, api_version: &str, kind: &str) -> Value {
        let meta = &self.gateway.meta;
        let mut object = json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {
                "name": self.name(),
                "namespace": meta.namespace,
                "labels": self.labels(),
                // The Gateway's end is theirs.
                "ownerReferences": [{
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": meta.name, "uid": meta.uid, "controller": true,
                }],
            },
        });
        let annotations = self.annotations();
        if !annotations.is_empty() {
            object["metadata"]["annotations"] = Value::Object(annotations);
        }
        object
    }

    fn annotations(&self) -> Map<String, Value> {
        let asked = self.gateway.spec.infrastructure.iter().filter_map(|asked| asked.annotations.as_ref()).flatten();
        asked.map(|(name, value)| (name.clone(), json!(value))).collect()
    }

    fn service_account(&self) -> Value {
        let mut account = self.object("v1", "ServiceAccount");
        account["automountServiceAccountToken"] = json!(false);
        account
    }

    fn service(&self) -> Value {
        let mut service = self.object("v1", "Service");
        let port = |port: &Port| {
            json!({
                "name": format!("{}-{}", port.transport.word(), port.number),
                "protocol": port.transport.protocol(),
                "port": port.number,
                "targetPort": port.bound(),
            })
        };
        service["spec"] = json!({
            "type": "LoadBalancer",
            "selector": self.selector(),
            "ports": self.ports.iter().map(port).collect::<Vec<_>>(),
            "externalTrafficPolicy": match self.settings.gateways.external_traffic_policy {
                TrafficPolicy::Local => "Local",
                TrafficPolicy::Cluster => "Cluster",
            },
        });
        if let Some(address) = self.address {
            service["spec"]["loadBalancerIP"] = json!(address.to_string());
        }
        service
    }

    fn deployment(&self) -> Value {
        let mut deployment = self.object("apps/v1", "Deployment");
        let mut labels = self.labels();
        // A Gateway's proxy has no sidecar, whatever its Namespace says.
        labels.insert(INJECT.into(), json!("disabled"));
        let replicas = i32::from(self.settings.gateways.replicas);
        deployment["metadata"]["annotations"][REPLICAS] = json!(replicas.to_string());
        deployment["spec"] = json!({
            "replicas": replicas,
            "selector": { "matchLabels": self.selector() },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
            "template": { "metadata": { "labels": labels, "annotations": self.annotations() }, "spec": self.pod() },
        });
        deployment
    }

    /// It does not name the listeners' ports: a listener that comes or goes must not restart the proxies.
    fn pod(&self) -> Value {
        let mut container = containers::proxy(Proxy::Edge, self.settings, self.trust_domain);
        container["livenessProbe"] = json!({
            "httpGet": { "path": "/healthz", "port": HEALTH },
            "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3,
        });
        json!({
            "serviceAccountName": self.name(),
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE,
            "securityContext": {
                "runAsUser": PROXY_UID, "runAsGroup": PROXY_UID, "fsGroup": PROXY_UID, "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": { "matchLabels": self.selector() },
            }],
            "containers": [container],
            "volumes": containers::volumes(),
        })
    }

    fn disruption_budget(&self) -> Value {
        let mut budget = self.object("policy/v1", "PodDisruptionBudget");
        budget["spec"] = json!({ "maxUnavailable": 1, "selector": { "matchLabels": self.selector() } });
        budget
    }
}
