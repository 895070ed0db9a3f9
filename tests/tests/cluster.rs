//! Selvage in a real Kubernetes: what the laptop promises, over real pods, real tokens and a real API server.
//!
//! `make e2e` brings the cluster up and runs these one after another; by themselves they are ignored. Each leaves the bookshop as it
//! found it.

#[path = "cluster/admission.rs"]
mod admission;
#[path = "cluster/change.rs"]
mod change;
#[path = "cluster/chart.rs"]
mod chart;
#[path = "cluster/injection.rs"]
mod injection;
#[path = "cluster/outage.rs"]
mod outage;
#[path = "cluster/platform.rs"]
mod platform;
#[path = "cluster/scope.rs"]
mod scope;
#[path = "cluster/status.rs"]
mod status;
#[path = "cluster/thread.rs"]
mod thread;
#[path = "cluster/wire_protocols.rs"]
mod wire_protocols;
#[path = "cluster/withdrawal.rs"]
mod withdrawal;

use serde_json::Value;

/// The policy of the bookshop that lets only the storefront read orders.
const ORDERS_CALLERS: &str = "AuthorizationPolicy/bookshop/orders-callers";

/// Asserts that what `caller` says is a refusal by authorization, of this policy.
fn assert_denied(said: &Value, policy: &str) {
    assert_eq!(said["status"], 403, "{said}");
    assert_eq!(said["headers"]["content-type"], "application/problem+json", "{said}");
    assert_eq!(said["body"]["reason"], "authorization_denied", "{said}");
    assert_eq!(said["body"]["policy"], policy, "{said}");
}

/// The identity of a service account of the bookshop.
fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/bookshop/sa/{account}")
}
