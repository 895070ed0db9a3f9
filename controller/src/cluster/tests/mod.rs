//! Tests against an API server in this process.

mod api;
mod authority;
mod gateway_api;
mod issuer;
mod lease;
mod statuses;
mod tokens;
mod whole;
mod wire;

use super::metrics::Metrics;
use api::Api;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("metrics"))
}

/// A Pod as the API server has it.
fn pod(namespace: &str, name: &str, uid: &str, account: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "uid": uid },
        "spec": { "serviceAccountName": account, "containers": [{ "name": "app", "ports": [{ "containerPort": 8080 }] }] },
        "status": { "podIP": address, "podIPs": [{ "ip": address }] },
    })
}

/// Waits until it holds, for a few seconds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}
