//! The canonical head: refuses what two programs could read in two ways, and puts the rest into the one form that router, guards, logs
//! and upstream use.
//!
//! Pingora has parsed the head by then and is content with more than we are: lists of equal lengths, targets without a slash, any host.

use super::Options;
use crate::net::detect::MAX_LINE;
use crate::observe::labels::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;
use pingora_http::authority::{RawTargetAuthority, raw_target_authority};
use selvage_policy::canonical;
use selvage_policy::mesh::PathHandling;
use selvage_policy::refusal::Caller;
use selvage_policy::{Denial, Reason};
use std::net::IpAddr;

/// What the head says about the request as a whole.
#[derive(Debug)]
pub(super) struct Head {
    /// Canonical host, without port.
    pub(super) host: String,
    /// The port in the authority.
    pub(super) port: Option<u16>,
    /// What the client spoke.
    pub(super) protocol: Protocol,
    /// A WebSocket handshake.
    pub(super) upgrade: bool,
    /// The client waits for `100 Continue`.
    pub(super) expects: bool,
}

impl Head {
    /// How a refusal is put.
    pub(super) fn caller(&self) -> Caller {
        if self.protocol == Protocol::Grpc { Caller::Grpc } else { Caller::Http }
    }

    /// The authority as it is sent on.
    pub(super) fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }
}

/// How a refusal is put to a caller whose head was not understood as a whole.
pub(super) fn protocol(req: &RequestHeader) -> Protocol {
    match req.version {
        // gRPC-Web is plain HTTP, over HTTP/2 too.
        Version::HTTP_2 if Caller::of(&req.headers) == Caller::Grpc => Protocol::Grpc,
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Makes the session's head canonical. `local` stands in for the host of HTTP/1.0 requests without one.
pub(super) fn canonical(session: &mut ServerSession, paths: PathHandling, options: &Options, local: IpAddr) -> Result<Head, Denial> {
    let http2 = session.is_http2();
    limits(session, options)?;
    let req = session.req_header();
    if req.method == Method::CONNECT {
        return Err(bad("CONNECT is not served here"));
    }
    if !http2 {
        if !matches!(req.version, Version::HTTP_10 | Version::HTTP_11) {
            return Err(bad("the HTTP version is not served here"));
        }
        codings(session)?;
    }
    // Pingora sends two equal lengths on as they are, from HTTP/2 too.
    one_length(session.req_header())?;
    let (upgrade, expects) = intentions(session.req_header_mut())?;
    let (host, port) = target(session.req_header_mut(), http2, paths, local)?;
    Ok(Head { host, port, protocol: protocol(session.req_header()), upgrade, expects })
}

/// A refusal of the request's form.
pub(super) fn bad(detail: &str) -> Denial {
    Denial::of(Reason::BadRequest, detail)
}

fn limits(session: &ServerSession, options: &Options) -> Result<(), Denial> {
    let req = session.req_header();
    if req.raw_path().len() > MAX_LINE {
        return Err(Denial::of(Reason::TargetTooLong, "the request target has more than 16 KiB"));
    }
    let size = match session.as_http1() {
        Some(_) => session.to_h1_raw().len(),
        // HPACK's own measure (RFC 7541 section 4.1).
        None => req.raw_path().len() + req.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum::<usize>(),
    };
    if req.headers.len() > options.max_headers || size > options.max_head {
        return Err(Denial::of(Reason::HeadersTooLarge, "the request's head has too many fields or bytes"));
    }
    Ok(())
}

/// HTTP/1 framing (RFC 9112 section 6): a length or chunked, never both. HTTP/2 has no codings; its library refuses them.
fn codings(session: &ServerSession) -> Result<(), Denial> {
    let req = session.req_header();
    let mut codings = req.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if req.version == Version::HTTP_10 {
            return Err(bad("HTTP/1.0 has no Transfer-Encoding"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(bad("the only Transfer-Encoding served is chunked, once"));
        }
        // Pingora has dropped the length from the parsed head by now; the bytes still show it.
        if mentions_length(&session.to_h1_raw()) {
            return Err(bad("Content-Length and Transfer-Encoding exclude each other"));
        }
    }
    Ok(())
}

/// One length, never a list (RFC 9110 section 8.6).
fn one_length(req: &RequestHeader) -> Result<(), Denial> {
    let mut lengths = req.headers.get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        let digits = (1..=18).contains(&length.len()) && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.next().is_some() {
            return Err(bad("Content-Length must be one number"));
        }
    }
    Ok(())
}

fn mentions_length(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').any(|line| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"content-length")
    })
}

/// Whether an upgrade is asked for, and `100 Continue`. An Upgrade other than a complete WebSocket handshake is ignored
/// (RFC 9110 section 7.8 allows that), so that no backend sees a protocol change that we did not.
fn intentions(req: &mut RequestHeader) -> Result<(bool, bool), Denial> {
    let expects = match req.headers.get(EXPECT) {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => req.version == Version::HTTP_11,
        Some(_) => return Err(bad("the only expectation served is 100-continue")),
    };
    if req.headers.contains_key(EXPECT) && !expects {
        req.remove_header(&EXPECT);
    }
    if !req.headers.contains_key(UPGRADE) {
        return Ok((false, expects));
    }
    let websocket = req.headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let nominated = req
        .headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade")));
    let bodyless = !req.headers.contains_key(TRANSFER_ENCODING) && req.headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0");
    let upgrade = websocket && nominated && bodyless && req.method == Method::GET && req.version == Version::HTTP_11;
    if !upgrade {
        req.remove_header(&UPGRADE);
    }
    Ok((upgrade, expects))
}

/// Puts host and path into their canonical form; gives the host and its port. A head that is canonical already is left alone.
fn target(req: &mut RequestHeader, http2: bool, paths: PathHandling, local: IpAddr) -> Result<(String, Option<u16>), Denial> {
    let (absolute, changed) = path(req, http2, paths)?;
    let (host, port, authority_changed) = authority(req, absolute.as_deref(), local)?;
    let changed = changed.or_else(|| authority_changed.then(|| String::from_utf8_lossy(req.raw_path()).into_owned()));
    if let Some(target) = changed {
        retarget(req, &target, http2.then(|| join(&host, port)).as_deref())?;
    }
    Ok((host, port))
}

/// The authority of an absolute form, and the canonical path and query where they are not so already.
fn path(req: &RequestHeader, http2: bool, paths: PathHandling) -> Result<(Option<Vec<u8>>, Option<String>), Denial> {
    if !req.raw_path_is_utf8() {
        return Err(bad("the request target is not UTF-8"));
    }
    let (absolute, wanted) = match raw_target_authority(req.raw_path()) {
        RawTargetAuthority::Absolute { scheme, authority, path_and_query } if !http2 => {
            if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
                return Err(bad("the request target's scheme is neither http nor https"));
            }
            (Some(authority.to_vec()), path_and_query)
        }
        RawTargetAuthority::None => (None, req.raw_path()),
        RawTargetAuthority::Absolute { .. } | RawTargetAuthority::AmbiguousAuthority => return Err(bad("the request target is ambiguous")),
    };
    let wanted = std::str::from_utf8(wanted).map_err(|_| bad("the request target is not UTF-8"))?;
    let (path, query) = wanted.split_once('?').map_or((wanted, None), |(path, query)| (path, Some(query)));
    // `http://host?query` has an empty path (RFC 9112 section 3.2.1: it is sent as `/`).
    let path = if absolute.is_some() && path.is_empty() { "/" } else { path };
    if query.is_some_and(|query| query.bytes().any(|byte| byte <= b' ' || byte == 0x7f)) {
        return Err(bad("the query has a control character or a space"));
    }
    let canonical = canonical::path(path, paths)?;
    let changed = absolute.is_some() || canonical != path;
    let target = || query.map_or_else(|| canonical.to_string(), |query| format!("{canonical}?{query}"));
    let target = changed.then(target);
    Ok((absolute, target))
}

/// The canonical authority, written back to `Host` where that says it differently.
fn authority(req: &mut RequestHeader, absolute: Option<&[u8]>, local: IpAddr) -> Result<(String, Option<u16>, bool), Denial> {
    let malformed = || bad("the host is missing or malformed");
    let mut hosts = req.headers.get_all(HOST).iter();
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("Host is given more than once"));
    }
    let given = req.uri.authority().map(|authority| authority.as_str().as_bytes()).or(absolute);
    if let (Some(given), Some(field)) = (given, field)
        && given != field.as_bytes()
    {
        return Err(bad("Host and the request target name different authorities"));
    }
    let from_uri = req.uri.authority().is_some() && field.is_none();
    let raw = given.or(field.map(http::HeaderValue::as_bytes));
    let Some(raw) = raw else {
        if req.version != Version::HTTP_10 {
            return Err(malformed());
        }
        let host = if local.is_ipv6() { format!("[{local}]") } else { local.to_string() };
        insert(req, &host)?;
        return Ok((host, None, false));
    };
    let raw = std::str::from_utf8(raw).map_err(|_| malformed())?;
    let (host, port) = canonical::authority(raw)?;
    let host = host.into_owned();
    let same = match port {
        None => host == raw,
        Some(port) => {
            raw.strip_prefix(host.as_str()).and_then(|rest| rest.strip_prefix(':')).is_some_and(|given| given == port.to_string())
        }
    };
    if (!same && !from_uri) || (absolute.is_some() && field.is_none()) {
        insert(req, &join(&host, port))?;
    }
    Ok((host, port, !same && req.uri.authority().is_some()))
}

fn insert(req: &mut RequestHeader, host: &str) -> Result<(), Denial> {
    req.insert_header(HOST, host).map_err(|_| bad("the host is missing or malformed"))
}

fn join(host: &str, port: Option<u16>) -> String {
    port.map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

/// Replaces path and query; over HTTP/2 the authority too, which stands in the same place.
pub(super) fn retarget(req: &mut RequestHeader, target: &str, authority: Option<&str>) -> Result<(), Denial> {
    let Some(authority) = authority else {
        return req.set_raw_path(target.as_bytes()).map_err(|_| bad("the request target is malformed"));
    };
    let scheme = req.uri.scheme_str().unwrap_or("http").to_string();
    let uri = http::Uri::builder().scheme(scheme.as_str()).authority(authority).path_and_query(target).build();
    req.set_uri(uri.map_err(|_| bad("the request target is malformed"))?);
    Ok(())
}
