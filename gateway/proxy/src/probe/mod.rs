//! Probes of an application that only its own proxy may reach: the kubelet asks the proxy, the proxy asks the application, as it was asked to.
//!
//! ```text
//! kubelet ── GET /probe/<container>/<livez|readyz|startupz> on the health port ──► Probes ── httpGet, tcpSocket or grpc ──► the pod's own address
//! ```
//!
//! Never an open proxy: paths, ports and headers are those of the pod's manifest, nothing of a request but its `User-Agent` (where it is the kubelet's)
//! is passed on, and of an answer only whether it was good.

mod grpc;
mod perform;
#[cfg(test)]
mod tests;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::time::timeout;

/// What every path begins with.
pub const PREFIX: &str = "/probe/";
/// Kubernetes' own default.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The longest that is waited for an application, whatever its manifest says: a probe under way holds one of few places.
const LONGEST: Duration = Duration::from_secs(300);
/// More than a pod can have: three a container.
const MOST: usize = 1024;

/// The probes of a pod, by the path they are asked for under.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probes(BTreeMap<String, Probe>);

/// One probe.
#[derive(Clone, Debug, PartialEq)]
struct Probe {
    handler: Handler,
    timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum Handler {
    Http(HttpGet),
    Tcp(u16),
    Grpc { port: u16, service: String },
}

#[derive(Clone, Debug, PartialEq)]
struct HttpGet {
    port: u16,
    target: PathAndQuery,
    tls: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A list of probes that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InvalidProbes {
    /// No JSON, or another shape.
    #[error("is no JSON object of paths and probes: {0}")]
    Json(#[from] serde_json::Error),
    /// Too long.
    #[error("has more than {MOST} probes")]
    TooMany,
    /// One of them.
    #[error("{path}: {problem}")]
    Probe {
        /// Its path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A probe as a manifest has it. What only the kubelet needs to know (periods, thresholds) is not looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    exec: Option<IgnoredAny>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenHttp {
    port: u16,
    path: Option<String>,
    host: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    http_headers: Vec<WrittenHeader>,
}

#[derive(Deserialize)]
struct WrittenHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct WrittenTcp {
    port: u16,
    host: Option<String>,
}

#[derive(Deserialize)]
struct WrittenGrpc {
    port: u16,
    service: Option<String>,
}

impl FromStr for Probes {
    type Err = InvalidProbes;

    fn from_str(text: &str) -> Result<Self, InvalidProbes> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let written: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)?;
        if written.len() > MOST {
            return Err(InvalidProbes::TooMany);
        }
        let probe = |(path, value): (String, serde_json::Value)| {
            let parsed = if path.starts_with(PREFIX) {
                serde_json::from_value(value).map_err(|error| error.to_string()).and_then(Probe::parse)
            } else {
                Err(format!("a path begins with {PREFIX}"))
            };
            match parsed {
                Ok(probe) => Ok((path, probe)),
                Err(problem) => Err(InvalidProbes::Probe { path, problem }),
            }
        };
        written.into_iter().map(probe).collect::<Result<_, _>>().map(Self)
    }
}

impl Probes {
    /// Asks the application at `pod`. `None`: there is no such probe. `agent`: the caller's `User-Agent`.
    pub async fn ask(&self, path: &str, pod: IpAddr, agent: Option<&HeaderValue>) -> Option<Result<(), String>> {
        let probe = self.0.get(path)?;
        let asked = async {
            match &probe.handler {
                Handler::Http(get) => perform::http(get, pod, agent).await,
                Handler::Tcp(port) => perform::connect(SocketAddr::new(pod, *port)).await.map(drop),
                Handler::Grpc { port, service } => grpc::check(SocketAddr::new(pod, *port), service).await,
            }
        };
        Some(match timeout(probe.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("the container did not answer within {:?}", probe.timeout)),
        })
    }

    /// The longest that one may take.
    pub fn longest(&self) -> Duration {
        self.0.values().map(|probe| probe.timeout).max().unwrap_or_default()
    }
}

impl Probe {
    fn parse(written: Written) -> Result<Self, String> {
        let handler = match (written.http_get, written.tcp_socket, written.grpc, written.exec) {
            (Some(http), None, None, None) => Handler::Http(HttpGet::parse(http)?),
            (None, Some(tcp), None, None) => Handler::Tcp(port("tcpSocket", tcp.port, tcp.host.as_deref())?),
            (None, None, Some(grpc), None) => {
                Handler::Grpc { port: port("grpc", grpc.port, None)?, service: grpc.service.unwrap_or_default() }
            }
            _ => return Err("needs exactly one of httpGet, tcpSocket and grpc; what runs in the container (exec) stays as it is".into()),
        };
        let timeout = written.timeout_seconds.filter(|seconds| *seconds > 0).map_or(TIMEOUT, Duration::from_secs);
        Ok(Self { handler, timeout: timeout.min(LONGEST) })
    }
}

impl HttpGet {
    fn parse(written: WrittenHttp) -> Result<Self, String> {
        let port = port("httpGet", written.port, written.host.as_deref())?;
        let tls = match written.scheme.as_deref().map(str::to_ascii_uppercase).as_deref() {
            None | Some("" | "HTTP") => false,
            Some("HTTPS") => true,
            Some(other) => return Err(format!("httpGet.scheme: `{other}` is neither HTTP nor HTTPS")),
        };
        let path = written.path.unwrap_or_default();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let target = PathAndQuery::from_str(&path).map_err(|_| format!("httpGet.path: `{path}` is no path"))?;
        let header = |header: WrittenHeader| {
            let name =
                HeaderName::from_str(&header.name).map_err(|_| format!("httpGet.httpHeaders: `{}` is no header name", header.name))?;
            let value =
                HeaderValue::from_str(&header.value).map_err(|_| format!("httpGet.httpHeaders: the value of {name} is malformed"))?;
            Ok((name, value))
        };
        let headers = written.http_headers.into_iter().map(header).collect::<Result<_, String>>()?;
        Ok(Self { port, target, tls, headers })
    }
}

fn port(handler: &str, port: u16, host: Option<&str>) -> Result<u16, String> {
    match (port, host.unwrap_or_default()) {
        (0, _) => Err(format!("{handler}.port: a port is from 1 to 65535")),
        (_, "") => Ok(port),
        (_, host) => Err(format!("{handler}.host: `{host}`: only the pod itself is asked here; leave such a probe to the kubelet")),
    }
}
