//! Where a proxy accepts connections, and what it does with them.
//!
//! Every listener, edge or sidecar, is this one type: roles differ in values only. Listeners with the same
//! [`Bind`] share a socket; the connection's original destination, then TLS name and host, choose among them.

use super::backend::AppProtocol;
use super::text::HostPattern;
use selvage_policy::{Key, SpiffeId, Target};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// One place to accept connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ListenerSpec {
    /// The socket.
    pub bind: Bind,
    /// Which original destinations it takes on a captured socket; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationMatch>,
    /// Host names it serves; absent: all. (Gateway API listener isolation: the most specific listener of a socket takes the request.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<HostPattern>,
    /// The port the outside knows it by: `Host`, redirects and `ports` in rules use it, not the bound one. 0 on a captured listener that
    /// takes every port: there it is the one that was dialled.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Certificates to terminate TLS with (keys of kind `Certificate`), chosen by SNI; for `Https` and `Tls`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Key>,
    /// Whether the mesh hop is spoken here; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshMode>,
    /// Who is on the other side, which decides whose headers are believed.
    pub clients: Clients,
    /// Where connections go.
    pub forward: Forward,
    /// What it is part of, from the outside in: guards attached to any of these hold here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Target>,
    /// Whether the mesh's default posture is applied here (the target's own proxy does, others do not).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub posture: bool,
    /// The workload this proxy speaks for on this listener: the identity of its upstream connections and, for `mesh`, of its answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// What the application beside us speaks, where all its Services at this port say one thing; absent: what is found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<AppProtocol>,
    /// Whose word about the end user is believed (Gateway identities).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assertors: Vec<SpiffeId>,
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Bind {
    /// An address of our own. The original destination is the local address.
    Bound(SocketAddr),
    /// Connections redirected to this port of all local addresses; the kernel knows the original destination.
    Captured(u16),
}

/// Original destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DestinationMatch {
    /// Any of these; empty: every address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// This port; absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 by prior knowledge.
    Http,
    /// The same inside TLS.
    Https,
    /// Opaque bytes inside TLS that is terminated here.
    Tls,
    /// TLS that is not terminated here: routed by its server name, and passed on as it is.
    Passthrough,
    /// Opaque bytes.
    Tcp,
    /// Found out from the first bytes: HTTP/1.1, HTTP/2, else opaque.
    Detect,
}

/// How the mesh hop is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MeshMode {
    /// Mesh TLS is recognised and plain connections are served too.
    Permissive,
    /// Only mesh TLS.
    Strict,
}

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clients {
    /// Anybody: no header of ours is believed, and identity headers are removed.
    Outside,
    /// The application beside us: the same, and loops are refused.
    Application,
    /// Fellow proxies (on mesh connections; a plain connection is `Outside`): hints that reduce are taken; words about the end user only from assertors.
    Fellows,
}

/// Where a listener's connections go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Forward {
    /// By the Routes whose `parents` name this listener.
    Routes,
    /// To one Service port (key of kind `Backend`): by the Routes whose `parents` name that backend, else over its endpoints.
    Backend(Key),
    /// To the backend that owns the original destination, as above; unknown destinations pass through untouched.
    Destination,
    /// To the application at this address, and nowhere else.
    Local(SocketAddr),
    /// To the application at this address, on the port the caller dialled, for ports that nobody declared; never a port of the proxy
    /// itself (see [`crate::ports::PROXY`]).
    Own(IpAddr),
}
