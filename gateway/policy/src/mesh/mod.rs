//! MeshConfig: what holds for the whole platform.

use crate::identity::TrustDomain;
use crate::is_default;
use crate::list::{self, Invalid};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The platform's settings. The one named `default` holds; it is cluster-scoped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshConfigSpec {
    /// The name of the root of trust; it cannot be changed afterwards. Default `cluster.local`.
    #[serde(default = "default_trust_domain", skip_serializing_if = "is_default_trust_domain")]
    #[schemars(with = "String", length(min = 1, max = 253), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "trustDomain cannot be changed"}]))]
    pub trust_domain: TrustDomain,
    /// Other names whose identities count as ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 16), inner(length(min = 1, max = 253)))]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Whether callers without mesh TLS are served.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mtls: Mtls,
    /// What a target without any allow rule does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub posture: Posture,
    /// What is done with paths that systems disagree about.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths: PathHandling,
}

impl Default for MeshConfigSpec {
    fn default() -> Self {
        Self {
            trust_domain: default_trust_domain(),
            trust_domain_aliases: Vec::new(),
            mtls: Mtls::default(),
            posture: Posture::default(),
            paths: PathHandling::default(),
        }
    }
}

impl MeshConfigSpec {
    /// Parses the spec strictly and checks it: the error names the field.
    pub fn parse(spec: &serde_json::Value) -> Result<Self, Invalid> {
        let parsed: Self = list::parse(spec)?;
        Invalid::at_most("spec.trustDomainAliases", parsed.trust_domain_aliases.len(), 16)?;
        if let Some(index) = parsed.trust_domain_aliases.iter().position(|alias| *alias == parsed.trust_domain) {
            return Err(Invalid::field(format!("spec.trustDomainAliases[{index}]"), "the trust domain itself is no alias; leave it out"));
        }
        Ok(parsed)
    }
}

fn default_trust_domain() -> TrustDomain {
    TrustDomain::try_from("cluster.local".to_string()).expect("a literal that is well formed")
}

fn is_default_trust_domain(domain: &TrustDomain) -> bool {
    *domain == default_trust_domain()
}

/// Whether mesh TLS is required of callers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mtls {
    /// Mesh TLS between proxies, plain callers are served as anonymous.
    #[default]
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// What a target does that no allow rule is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Posture {
    /// Everybody may call.
    #[default]
    AllowAll,
    /// Whoever has a workload identity may call.
    MeshOnly,
    /// Workloads of the same namespace may call.
    SameNamespace,
    /// Nobody may call.
    Deny,
}

/// The one setting of the canonical request: the same for every proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PathHandling {
    /// `%2f` in a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoded_slash: Encoded,
    /// `%5c` in a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoded_backslash: Encoded,
    /// `//` in a path.
    #[serde(default, skip_serializing_if = "is_default")]
    pub double_slash: DoubleSlash,
}

/// What is done with an encoded separator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Encoded {
    /// 400.
    #[default]
    Refuse,
    /// Kept as it is, never decoded.
    Keep,
}

/// What is done with `//`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DoubleSlash {
    /// Becomes `/`.
    #[default]
    Merge,
    /// 400.
    Refuse,
    /// Kept as it is.
    Keep,
}
