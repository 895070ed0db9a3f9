//! What is behind a Service port, and the endpoints that serve it.

use selvage_policy::{Key, SpiffeId, Target};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// One port of a Service. Its key is `Backend/<namespace>/<service>#<port>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendSpec {
    /// Cluster addresses of the Service; empty for headless ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The Service's port.
    pub port: u16,
    /// What is spoken to it (from `appProtocol`, port name, or the kind of the routes that use it).
    pub protocol: AppProtocol,
    /// Mesh, Namespace, Service, port: guards attached to these hold for endpoints without a sidecar, traffic policies for all.
    pub chain: Vec<Target>,
}

/// The application's protocol behind a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, gRPC included.
    H2c,
    /// Opaque.
    Tcp,
    /// Unknown: HTTP as the caller spoke it, else opaque.
    Detect,
}

/// One slice of endpoints of a Backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EndpointsSpec {
    /// Key of kind `Backend`.
    pub backend: Key,
    /// Who serves it.
    pub endpoints: Vec<Endpoint>,
}

/// One address that serves a Backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoint {
    /// Where to connect: the application's own port.
    pub address: SocketAddr,
    /// The workload, for logs and guards: `Pod/<namespace>/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Key>,
    /// The identity it speaks mesh TLS with; absent: it has no sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// Not to be given new connections while others are ready (terminating).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Topology zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}
