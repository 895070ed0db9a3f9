//! RateLimitPolicy as somebody writes it.

use crate::is_default;
use crate::target::{Envelope, Inheritance, TargetRef, TargetSelector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many requests pass in a time. Several limits hold together: a request passes if every one has room, and then it
/// counts under every one; otherwise it is refused with 429 and counts under none. A retry is not counted again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.inheritance) || self.inheritance != 'Override'", "message": "inheritance is Always or Default for this kind"}
]))]
pub struct RateLimitPolicySpec {
    /// Objects it holds for, in its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Objects it holds for, by label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_selectors: Vec<TargetSelector>,
    /// `Default`: only where no more specific RateLimitPolicy is attached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inheritance: Inheritance,
    /// CEL; the policy applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub when: Option<String>,
    /// Who counts together. `Proxy`: each proxy by itself.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: RateLimitScope,
    /// Leave policy and limit names out of refusals.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hide_details: bool,
    /// The limits, all of which hold.
    #[schemars(length(min = 1, max = 16))]
    pub limits: Vec<Limit>,
}

/// Who shares a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitScope {
    /// Each proxy has its own count.
    #[default]
    Proxy,
}

/// One limit: a token bucket a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!(has(self.key) && has(self.by))", "message": "give key or by, not both"}]))]
pub struct Limit {
    /// Its name, in refusals, in the `RateLimit` fields, in logs.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// CEL that gives the key to count under, for example `request.headers["x-client"]`. A key that cannot be computed counts
    /// under one shared key. At most one of `key` and `by`; with neither there is one count for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub key: Option<String>,
    /// Named parts of the request to count by, together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub by: Vec<KeyPart>,
    /// Requests per `per`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests: u32,
    /// The time they are refilled in: a Gateway API duration, 1s to 24h.
    #[schemars(length(min = 2, max = 16))]
    pub per: String,
    /// How many may come at once; absent: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
}

/// A part of the request with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyPart {
    /// The client's address; of IPv6 its /64 network, all of whose addresses one client may have.
    ClientAddress,
    /// The caller's workload identity.
    Principal,
    /// The host.
    Host,
    /// The canonical path.
    Path,
    /// The method.
    Method,
}

impl Envelope for RateLimitPolicySpec {
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
