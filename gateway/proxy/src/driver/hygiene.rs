//! Header hygiene: what a hop must not pass on, and whose word is believed.
//!
//! Everything beginning `selvage-`, and the forwarding headers, are ours to say. They are read from a peer that may say them, then
//! removed from every request; what is sent on is written anew.

use super::head::bad;
use http::header::{CONNECTION, HeaderName, TE};
use http::{HeaderMap, Version};
use pingora_http::RequestHeader;
use selvage_config::ListenerSpec;
use selvage_config::resource::fields::is_ours;
use selvage_config::resource::listener::Clients;
use selvage_policy::{Denial, SpiffeId};
use smallvec::SmallVec;
use std::net::IpAddr;
use std::time::Duration;

/// Says that the sender owns this request's retries, and which attempt this is.
pub(crate) const ATTEMPT: HeaderName = HeaderName::from_static("selvage-attempt");
/// Milliseconds left.
pub(crate) const DEADLINE: HeaderName = HeaderName::from_static("selvage-deadline");
/// Tells the application who called.
pub(crate) const PRINCIPAL: HeaderName = HeaderName::from_static("selvage-principal");
/// In replies between proxies: whether anything may have reached the application.
pub(crate) const ORIGIN: HeaderName = HeaderName::from_static("selvage-origin");
/// The client's address.
pub(crate) const X_FORWARDED_FOR: &str = "x-forwarded-for";
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static(X_FORWARDED_FOR);
/// The scheme the client used.
pub(crate) const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static(X_FORWARDED_PROTO);
/// The authority the client asked for.
pub(crate) const X_FORWARDED_HOST: &str = "x-forwarded-host";
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static(X_FORWARDED_HOST);

/// Names a `Connection` header may nominate; nobody needs more, and each costs time.
const MAX_NOMINATIONS: usize = 10;

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody's we know.
    Stranger,
    /// The application's beside us.
    Application,
    /// A fellow proxy's, proved by its certificate: hints that reduce are taken.
    Fellow,
    /// A fellow proxy's that speaks for end users.
    Assertor,
}

/// What the sender said and may say.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// It owns the retries.
    pub(crate) owns_retries: bool,
    /// It waits this much longer.
    pub(crate) left: Option<Duration>,
    /// The client's address.
    pub(crate) client: Option<IpAddr>,
    /// The client's scheme.
    pub(crate) scheme: Option<&'static str>,
    /// The authority that the client asked for.
    pub(crate) host: Option<http::HeaderValue>,
}

impl Standing {
    /// The sender's on this listener. A plain connection to a listener for fellows is a stranger's.
    pub(crate) fn of(listener: &ListenerSpec, principal: Option<&SpiffeId>) -> Self {
        match (listener.clients, principal) {
            (Clients::Outside, _) | (Clients::Fellows, None) => Self::Stranger,
            (Clients::Application, _) => Self::Application,
            (Clients::Fellows, Some(peer)) if listener.assertors.contains(peer) => Self::Assertor,
            (Clients::Fellows, Some(_)) => Self::Fellow,
        }
    }

    /// A proxy of the mesh.
    pub(crate) fn is_fellow(self) -> bool {
        matches!(self, Self::Fellow | Self::Assertor)
    }
}

/// Reads what the sender may say and removes what only we say and what ends at this hop.
pub(crate) fn clean(req: &mut RequestHeader, standing: Standing, upgrade: bool) -> Result<Told, Denial> {
    let told = listen(&req.headers, standing);
    nominations(req, upgrade)?;
    // One pass: most requests have nothing to remove, and each look-up by name costs as much as a few names passed by.
    let keeps_te = req.version == Version::HTTP_2 && req.headers.get(TE).is_some_and(|value| value == "trailers");
    let gone = |name: &HeaderName| is_ours(name.as_str()) || ends_here(name.as_str()) || (*name == TE && !keeps_te);
    let gone: SmallVec<[HeaderName; 8]> = req.headers.keys().filter(|name| gone(name)).cloned().collect();
    for name in &gone {
        req.remove_header(name);
    }
    Ok(told)
}

/// Removes what only we say.
pub(crate) fn unsay(req: &mut RequestHeader) {
    for name in &ours(&req.headers) {
        req.remove_header(name);
    }
}

/// The same in fields alone.
pub(crate) fn unsay_in(headers: &mut HeaderMap) {
    for name in &ours(headers) {
        headers.remove(name);
    }
}

fn ours(headers: &HeaderMap) -> SmallVec<[HeaderName; 8]> {
    headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect()
}

/// Whether a field is about this hop alone; `TE` and `Connection` are looked into. Pingora loses the trailers of requests, and on HTTP/1.1
/// hops those of responses: so nobody is told that there will be any, nor, by `TE`, of a client that would take them where none can reach it.
fn ends_here(name: &str) -> bool {
    match name.as_bytes().first() {
        Some(b'k') => name == "keep-alive",
        Some(b'p') => matches!(name, "proxy-connection" | "proxy-authenticate" | "proxy-authorization"),
        Some(b'h') => name == "http2-settings",
        Some(b't') => name == "trailer",
        _ => false,
    }
}

fn listen(headers: &HeaderMap, standing: Standing) -> Told {
    let mut told = Told::default();
    let one = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())
    };
    if standing.is_fellow() {
        told.owns_retries = headers.contains_key(&ATTEMPT);
        told.left = one(&DEADLINE).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_millis);
    }
    if standing == Standing::Assertor {
        told.client = one(&FORWARDED_FOR).and_then(|value| value.to_str().ok()?.parse().ok());
        told.scheme = one(&FORWARDED_PROTO).and_then(|value| match value.as_bytes() {
            b"https" => Some("https"),
            b"http" => Some("http"),
            _ => None,
        });
        told.host = one(&FORWARDED_HOST).cloned();
    }
    told
}

/// Removes what `Connection` nominates (RFC 9110 section 7.6.1), and leaves in it only what Pingora needs to see.
fn nominations(req: &mut RequestHeader, upgrade: bool) -> Result<(), Denial> {
    if !req.headers.contains_key(CONNECTION) {
        return Ok(());
    }
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let mut close = false;
    for value in req.headers.get_all(CONNECTION) {
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
            let name = HeaderName::from_bytes(token).map_err(|_| bad("Connection names something that is no header"))?;
            match name.as_str() {
                "close" => close = true,
                "keep-alive" | "upgrade" => {}
                "host" | "content-length" | "transfer-encoding" | "content-type" => {
                    return Err(bad("Connection names a header that belongs to the whole way"));
                }
                _ => nominated.push(name),
            }
        }
    }
    if nominated.len() > MAX_NOMINATIONS {
        return Err(bad("Connection names too many headers"));
    }
    for name in &nominated {
        req.remove_header(name);
    }
    let left = match (upgrade, close) {
        (true, _) => Some("Upgrade"),
        (false, true) => Some("close"),
        (false, false) => None,
    };
    match left {
        // A literal that is a valid value.
        Some(left) => req.insert_header(CONNECTION, left).map_err(|_| bad("Connection is malformed"))?,
        None => drop(req.remove_header(&CONNECTION)),
    }
    Ok(())
}
