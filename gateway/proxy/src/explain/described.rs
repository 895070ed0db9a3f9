//! A request as somebody describes it, before anything was made of it.

use selvage_policy::SpiffeId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A request and who sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Described {
    /// The address the connection comes from.
    pub source: IpAddr,
    /// The identity the caller proves; ignored where the listener speaks no mesh TLS, as it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<SpiffeId>,
    /// The request; absent: an opaque TCP connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<DescribedHttp>,
    /// What is drawn where live traffic draws by weight: 0 is the first backend with a weight.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub random: u64,
}

/// The HTTP part, raw: it is made canonical here as live requests are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DescribedHttp {
    /// The method.
    pub method: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Host, with or without a port.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Header fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
