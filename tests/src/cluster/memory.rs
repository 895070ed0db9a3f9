//! What proxies and controllers weigh, as the kubelet counts it.

use super::kubectl::{eventually, try_kubectl};
use serde_json::Value;

/// The working set of the largest container of each role, in bytes.
pub fn working_sets() -> [(&'static str, u64); 3] {
    eventually("the kubelet has counted every role", || {
        let text = try_kubectl(&["get", "--raw", "/api/v1/nodes/node0/proxy/stats/summary"]).ok()?;
        let largest = of_summary(&serde_json::from_str(&text).ok()?);
        largest.iter().all(|(_, bytes)| *bytes > 0).then_some(largest)
    })
}

fn of_summary(summary: &Value) -> [(&'static str, u64); 3] {
    let mut most = [("controller", 0), ("edge", 0), ("sidecar", 0)];
    for pod in summary["pods"].as_array().into_iter().flatten() {
        let text = |field: &str| pod["podRef"][field].as_str().unwrap_or_default();
        for container in pod["containers"].as_array().into_iter().flatten() {
            let bytes = container["memory"]["workingSetBytes"].as_u64().unwrap_or_default();
            let role = match (text("namespace"), container["name"].as_str().unwrap_or_default()) {
                ("selvage-system", _) => "controller",
                ("bookshop", "selvage-proxy") => "sidecar",
                ("bookshop", _) if text("name").starts_with("public-selvage") => "edge",
                _ => continue,
            };
            for (_, largest) in most.iter_mut().filter(|(known, _)| *known == role) {
                *largest = bytes.max(*largest);
            }
        }
    }
    most
}
