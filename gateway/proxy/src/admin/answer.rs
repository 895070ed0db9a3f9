//! What the servers answer.

use super::{Serves, Watched};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use selvage_config::Resource;
use serde::Serialize;
use std::net::IpAddr;

/// Whether a proxy serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// What is missing before it can serve all it is for; empty: ready.
    pub missing: Vec<String>,
    /// It is going away.
    pub draining: bool,
}

/// How a proxy's configuration went.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Counts configurations of this process.
    pub generation: u64,
    /// Seconds since the configuration was last heard to be current.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Resources that cannot be used.
    pub rejected: Vec<Rejected>,
    /// Sockets.
    pub listeners: Vec<Listening>,
    /// Certificates.
    pub certificates: Vec<Certificate>,
}

/// A Resource that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// Its version.
    pub version: String,
    /// Why, and what to do.
    pub reason: String,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listening {
    /// The listener, by key.
    pub listener: String,
    /// The socket.
    pub bind: String,
    /// Why it could not be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its name.
    pub name: String,
    /// When it ends, RFC 3339.
    pub not_after: String,
}

/// The file form.
#[derive(Serialize)]
struct Configuration {
    resources: Vec<Resource>,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Tcp,
    Unix,
}

type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub(super) fn answer(serves: Serves, over: Over, watched: &dyn Watched, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    // A name that anybody may point at a loopback address must not make a browser read for him (DNS rebinding).
    if serves == Serves::Admin && over == Over::Tcp && !is_local(headers) {
        return text(StatusCode::FORBIDDEN, "call this port by its loopback address or as localhost\n");
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "this port can only be read\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let (health, metrics, admin) = (serves != Serves::Metrics, serves != Serves::Health, serves == Serves::Admin);
    match path {
        "/healthz" if health => text(StatusCode::OK, "alive\n"),
        "/readyz" if health => readiness(&watched.health()),
        "/metrics" if metrics => typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", watched.metrics().into()),
        "/config" if admin => json(&Configuration { resources: watched.resources().iter().map(|resource| resource.redacted()).collect() }),
        "/status" if admin => json(&watched.status()),
        "/" if admin => text(StatusCode::OK, "/healthz /readyz /metrics /config /status\n"),
        _ => text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

/// What the application's probe says.
pub(super) fn probed(outcome: Result<(), String>) -> Answer {
    match outcome {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(problem) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{problem}\n")),
    }
}

fn readiness(health: &Health) -> Answer {
    if health.draining {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if health.missing.is_empty() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, &format!("missing: {}\n", health.missing.join(", ")))
    }
}

/// Whether `Host` is a loopback address or `localhost`, with any port or none.
fn is_local(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec_pretty(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            typed(StatusCode::OK, "application/json", bytes.into())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: &str) -> Answer {
    typed(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(text.as_bytes()))
}

fn typed(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
