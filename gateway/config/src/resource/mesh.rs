//! What holds for the whole platform, as every proxy needs it.

use selvage_policy::mesh::{PathHandling, Posture};
use selvage_policy::{TrustDomain, is_default};
use serde::{Deserialize, Serialize};

/// The platform's settings; its key is `Mesh/default`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MeshSpec {
    /// Our trust domain.
    pub trust_domain: TrustDomain,
    /// Other names of it that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Root certificates of workload identities, PEM, several at once while they rotate.
    pub roots: Vec<String>,
    /// What a target without allow rules does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub posture: Posture,
    /// The one setting of the canonical request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paths: PathHandling,
}
