//! AuthorizationPolicy as somebody writes it.

use crate::is_default;
use crate::target::{Envelope, Inheritance, TargetRef, TargetSelector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may call the targets.
///
/// On one target any deny rule denies, and if there are allow rules one of them must match. Between targets (a namespace and
/// a Service, a Gateway and a route) all must agree. Where no allow rule is attached at all, the posture of `MeshConfig` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.inheritance) || self.inheritance != 'Override'", "message": "inheritance is Always or Default for this kind"}
]))]
pub struct AuthorizationPolicySpec {
    /// Objects it holds for, in its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Objects it holds for, by label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_selectors: Vec<TargetSelector>,
    /// `Default`: only where no more specific AuthorizationPolicy is attached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inheritance: Inheritance,
    /// CEL; the policy applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub when: Option<String>,
    /// `Audit`: what it would refuse is logged and counted, and passes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: Mode,
    /// Leave policy and rule names out of refusals.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hide_details: bool,
    /// At least one rule.
    #[schemars(length(min = 1, max = 64))]
    pub rules: Vec<Rule>,
}

/// Whether a policy acts or only reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// It refuses.
    #[default]
    Enforce,
    /// It reports what it would refuse.
    Audit,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// Lets the request pass this target.
    Allow,
    /// Refuses it, whatever else allows it.
    Deny,
}

/// One rule: `from`, `to` and `when` must all hold; an absent list matches everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// Its name, in refusals, logs and explain.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Allow or Deny.
    pub action: Action,
    /// Who calls: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<RuleFrom>,
    /// What is called: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<RuleTo>,
    /// CEL that must be true as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub when: Option<String>,
}

/// A caller: all given fields must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct RuleFrom {
    /// Namespace of the caller's workload; with `serviceAccount` or `gateway` their namespace (default: the policy's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Service account of the caller's workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account: Option<String>,
    /// Name of a Gateway: requests that came in through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub gateway: Option<String>,
    /// The whole identity, `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`; the trust domain is ours or one of its aliases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub principal: Option<String>,
    /// Client addresses as CIDR blocks: any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 49)))]
    pub ip_blocks: Vec<String>,
}

/// A kind of request: all given fields must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct RuleTo {
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    pub methods: Vec<String>,
    /// Any of these paths: exact, or ending in `/*` for everything below (and the path itself).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
    /// Any of these hosts: exact, or `*.suffix`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
    /// Any of these destination ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<u16>,
    /// All of these header fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HeaderTest>,
}

/// A condition on one header field. A field that is missing from an HTTP request is known to be missing: the test does not match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderTest {
    /// Field name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Any of these values; empty: the field must be there. Of several lines with this name each must be in the list for Allow, any for Deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)))]
    pub values: Vec<String>,
}

impl Envelope for AuthorizationPolicySpec {
    fn target_refs(&self) -> &[TargetRef] {
        &self.target_refs
    }
    fn target_selectors(&self) -> &[TargetSelector] {
        &self.target_selectors
    }
    fn inheritance(&self) -> Inheritance {
        self.inheritance
    }
    fn when(&self) -> Option<&str> {
        self.when.as_deref()
    }
}
