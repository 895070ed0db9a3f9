//! Whom the API server believes when it asks a webhook: the authority's roots, in the two webhook configurations.
//!
//! The chart has the configurations without `caBundle`; the controller keeps that one field, by server-side apply, and nothing else of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The MutatingWebhookConfiguration.
pub const MUTATING: &str = "selvage-injection";
/// The ValidatingWebhookConfiguration.
pub const VALIDATING: &str = "selvage-validation";
/// Every webhook: its configuration, its name and its path.
pub const WEBHOOKS: [(&str, &str, &str); 3] = [
    (MUTATING, "namespace.inject.selvage.dev", "/inject/namespace"),
    (MUTATING, "pod.inject.selvage.dev", "/inject/pod"),
    (VALIDATING, "validate.selvage.dev", "/validate"),
];

/// What is to be applied so that the API server trusts `roots` (PEM): both configurations, with no field but `caBundle`.
///
/// Where a configuration is missing, applying it fails, as it lacks what is required: then the chart is not installed.
pub fn ca_bundles(roots: &[String]) -> [Value; 2] {
    let bundle = STANDARD.encode(roots.concat());
    [("MutatingWebhookConfiguration", MUTATING), ("ValidatingWebhookConfiguration", VALIDATING)].map(|(kind, configuration)| {
        let webhooks = WEBHOOKS.iter().filter(|(of, _, _)| *of == configuration);
        let webhooks: Vec<Value> = webhooks.map(|(_, name, _)| json!({ "name": name, "clientConfig": { "caBundle": bundle } })).collect();
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": configuration },
            "webhooks": webhooks,
        })
    })
}
