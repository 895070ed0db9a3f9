//! Our CustomResourceDefinitions, made from the Rust types of the policy crate.
//!
//! ```text
//! Spec (serde, schemars) --structural--> schema --+-- CRD, printed by `controller crds`
//!                                                 +-- checks and defaults of files (world::schema)
//! ```
//!
//! So what the API server refuses is refused in a directory of files too, by the same schema.

mod structural;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use selvage_policy::authorization::AuthorizationPolicySpec;
use selvage_policy::mesh::MeshConfigSpec;
use selvage_policy::rate_limit::RateLimitPolicySpec;
use selvage_policy::traffic::TrafficPolicySpec;
use serde_json::{Value, json};

/// The API group of our kinds.
pub const GROUP: &str = "selvage.dev";
/// Their version: additive only.
pub const VERSION: &str = "v1alpha1";

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In namespaces.
    Namespaced,
    /// One for the cluster.
    Cluster,
}

/// How a policy reaches what it holds for (GEP-713).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PolicyLabel {
    /// It holds for what is below its target as well.
    Inherited,
    /// It is no policy.
    None,
}

/// One kind of ours.
#[derive(Clone, Copy, Debug)]
pub struct OwnKind {
    /// The kind.
    pub kind: &'static str,
    /// Its plural, in URLs.
    pub plural: &'static str,
    /// What people type.
    short: &'static str,
    /// Namespaced or not.
    pub scope: Scope,
    label: PolicyLabel,
    columns: &'static [(&'static str, &'static str, &'static str)],
    spec: fn() -> Value,
    requires_target: bool,
}

const TARGET: (&str, &str, &str) = ("Target", "string", ".spec.targetRefs[0].name");
const ACCEPTED: (&str, &str, &str) = ("Accepted", "string", ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status");
const ENFORCED: (&str, &str, &str) = ("Enforced", "string", ".status.ancestors[0].conditions[?(@.type==\"Enforced\")].status");
const AGE: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");

/// Every kind of ours.
pub const KINDS: [OwnKind; 4] = [
    policy("AuthorizationPolicy", "authorizationpolicies", "sap", spec_of::<AuthorizationPolicySpec>),
    policy("RateLimitPolicy", "ratelimitpolicies", "srl", spec_of::<RateLimitPolicySpec>),
    policy("TrafficPolicy", "trafficpolicies", "stp", spec_of::<TrafficPolicySpec>),
    OwnKind {
        kind: "MeshConfig",
        plural: "meshconfigs",
        short: "smc",
        scope: Scope::Cluster,
        label: PolicyLabel::None,
        columns: &[
            ("TrustDomain", "string", ".spec.trustDomain"),
            ("MTLS", "string", ".spec.mtls"),
            ("Posture", "string", ".spec.posture"),
            AGE,
        ],
        spec: spec_of::<MeshConfigSpec>,
        requires_target: false,
    },
];

const fn policy(kind: &'static str, plural: &'static str, short: &'static str, spec: fn() -> Value) -> OwnKind {
    OwnKind {
        kind,
        plural,
        short,
        scope: Scope::Namespaced,
        label: PolicyLabel::Inherited,
        columns: &[TARGET, ACCEPTED, ENFORCED, AGE],
        spec,
        requires_target: true,
    }
}

fn spec_of<T: JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    structural::rewrite(settings.into_generator().into_root_schema_for::<T>().to_value())
}

impl OwnKind {
    /// The kind of that name.
    pub fn of(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.kind == kind)
    }

    /// The whole object's schema, as the API server has it.
    pub fn schema(&self) -> Value {
        let mut spec = (self.spec)();
        if self.requires_target {
            let mut rules = spec.get("x-kubernetes-validations").and_then(Value::as_array).cloned().unwrap_or_default();
            rules.push(json!({
                "rule": "(has(self.targetRefs) && size(self.targetRefs) > 0) || (has(self.targetSelectors) && size(self.targetSelectors) > 0)",
                "message": "name a target: set targetRefs or targetSelectors",
            }));
            spec["x-kubernetes-validations"] = Value::Array(rules);
        }
        json!({
            "type": "object",
            "required": ["spec"],
            "properties": {
                "apiVersion": { "type": "string", "maxLength": 253 },
                "kind": { "type": "string", "maxLength": 63 },
                "metadata": { "type": "object" },
                "spec": spec,
                "status": status(self.requires_target),
            },
        })
    }

    /// The CustomResourceDefinition.
    pub fn definition(&self) -> Value {
        let mut labels = json!({ "app.kubernetes.io/part-of": "selvage" });
        if self.label == PolicyLabel::Inherited {
            labels["gateway.networking.k8s.io/policy"] = json!("Inherited");
        }
        let columns: Vec<Value> =
            self.columns.iter().map(|(name, kind, path)| json!({ "name": name, "type": kind, "jsonPath": path })).collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{}.{GROUP}", self.plural), "labels": labels },
            "spec": {
                "group": GROUP,
                "scope": match self.scope { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
                "names": {
                    "kind": self.kind,
                    "listKind": format!("{}List", self.kind),
                    "plural": self.plural,
                    "singular": self.kind.to_lowercase(),
                    "shortNames": [self.short],
                    "categories": ["selvage"],
                },
                "versions": [{
                    "name": VERSION,
                    "served": true,
                    "storage": true,
                    "subresources": { "status": {} },
                    "additionalPrinterColumns": columns,
                    "schema": { "openAPIV3Schema": self.schema() },
                }],
            },
        })
    }
}

/// All definitions as one YAML stream.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let documents: Result<Vec<String>, _> = KINDS.iter().map(|kind| serde_saphyr::to_string(&kind.definition())).collect();
    Ok(documents?.iter().map(|document| format!("---\n{}\n", document.trim_end())).collect())
}

/// GEP-713 for policies, plain conditions for the rest.
fn status(policy: bool) -> Value {
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": { "type": "string", "maxLength": 316 },
            "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
            "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
            "message": { "type": "string", "maxLength": 32768 },
            "lastTransitionTime": { "type": "string", "format": "date-time", "maxLength": 64 },
            "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
        },
    });
    let conditions = json!({
        "type": "array", "maxItems": 8, "items": condition,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
    });
    if !policy {
        return json!({ "type": "object", "properties": { "conditions": conditions } });
    }
    let text = |most: u32| json!({ "type": "string", "maxLength": most });
    let ancestor = json!({
        "type": "object",
        "required": ["ancestorRef", "controllerName", "conditions"],
        "properties": {
            "ancestorRef": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "group": text(253), "kind": text(63), "namespace": text(63), "name": text(253), "sectionName": text(253),
                    "port": { "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 },
                },
            },
            "controllerName": text(253),
            "conditions": conditions,
        },
    });
    json!({ "type": "object", "properties": { "ancestors": { "type": "array", "maxItems": 16, "items": ancestor, "x-kubernetes-list-type": "atomic" } } })
}
