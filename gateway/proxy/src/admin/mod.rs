//! Small HTTP servers to look into a proxy: health, metrics, and what it is told.
//!
//! ```text
//! health   /healthz /readyz /probe/…   for the kubelet
//! metrics  /metrics                    for Prometheus
//! admin    /config /status and those   for its operator: loopback or a Unix socket, Host checked, read-only
//! ```
//!
//! They use hyper alone: a fault in the request path does not hide itself, and no route can lead here. Nothing can be changed.

mod answer;
mod server;
#[cfg(test)]
mod tests;

pub use answer::{Certificate, Health, Listening, Rejected, Status};
pub use server::{AdminError, Server};

use crate::probe::Probes;
use selvage_config::Resource;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// `/healthz`, `/readyz`, `/probe/…`.
    Health,
    /// `/metrics`.
    Metrics,
    /// Everything, with the Host checked.
    Admin,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket, made with mode 0600.
    Unix(PathBuf),
}

/// A text that is no [`Address`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no address: write ADDRESS:PORT, or unix:PATH")]
pub struct InvalidAddress(String);

/// What the servers ask of the proxy. The feed and the composition know.
pub trait Watched: Send + Sync + 'static {
    /// Whether it serves, and what is missing.
    fn health(&self) -> Health;

    /// What it was told; it is redacted before it is shown.
    fn resources(&self) -> Vec<Arc<Resource>>;

    /// How that went.
    fn status(&self) -> Status;

    /// The metrics, in the text form of Prometheus.
    fn metrics(&self) -> Vec<u8>;

    /// The probes of the application beside it.
    fn probes(&self) -> Arc<Probes> {
        Arc::default()
    }
}

impl std::str::FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(_) => Err(InvalidAddress(text.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| InvalidAddress(text.into())),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
