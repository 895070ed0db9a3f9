//! TrafficPolicy as somebody writes it.

use crate::is_default;
use crate::target::{Envelope, Inheritance, TargetRef, TargetSelector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the targets are reached. Fields merge one by one along the chain, the most specific wins; a route's own field beats any policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.inheritance) || self.inheritance != 'Default'", "message": "inheritance is Always or Override for this kind"}
]))]
pub struct TrafficPolicySpec {
    /// Objects it holds for, in its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Objects it holds for, by label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_selectors: Vec<TargetSelector>,
    /// `Override`: its fields win over more specific ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inheritance: Inheritance,
    /// CEL; the policy applies only where it is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub when: Option<String>,
    /// Deadlines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
}

/// Deadlines, as Gateway API writes durations; `0s` means none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// From the request's head to the end of the response, all tries together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub request: Option<String>,
    /// One try, until its response headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub backend_request: Option<String>,
    /// Making a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub connect: Option<String>,
}

/// Retries.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Retries after the first try; 0 turns every retry off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// Response codes that are tried again, 500 to 599 or 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub codes: Option<Vec<u16>>,
    /// Least wait before a retry; it doubles each time, with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub backoff: Option<String>,
    /// Which methods may be tried again once the request was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<RetryMethods>,
    /// How many retries there may be in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// Which methods may be tried again after something was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryMethods {
    /// GET, HEAD, OPTIONS, TRACE, PUT, DELETE (RFC 9110 section 9.2.2).
    #[default]
    Idempotent,
    /// Every method: the application answers for duplicates.
    All,
}

/// Retries as a share of requests to one target, over ten seconds, each proxy by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RetryBudget {
    /// Per cent of requests; absent: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Retries a second that are always allowed; absent: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10000))]
    pub min_per_second: Option<u32>,
}

impl Envelope for TrafficPolicySpec {
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
