//! What filters do to heads: header changes, redirects and rewrites, as Gateway API's HTTPRoute filters define them.
//!
//! Everything here works on plain values, so that `explain` and the driver share it. A rewritten path is canonical again: the
//! replacement was made canonical when the route was compiled, and what is joined to it is a suffix of a canonical path.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use selvage_config::resource::route::{FilterSpec, HeaderChange, PathChange, RedirectSpec};
use selvage_policy::Http;

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// The `Location` field.
    pub location: String,
}

/// Where a request is sent after rewrites: what replaces `Host` and path. The query never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// New host; absent: as it was.
    pub host: Option<String>,
    /// New path; absent: as it was.
    pub path: Option<String>,
}

/// Header fields that can be changed: of a request or response, plain or Pingora's.
pub trait Fields {
    /// Replaces all fields of this name by one.
    fn set(&mut self, name: HeaderName, value: HeaderValue);
    /// Replaces all fields of this name, lower-case, by one.
    fn say(&mut self, name: &'static str, value: HeaderValue) {
        self.set(HeaderName::from_static(name), value);
    }
    /// Adds one more.
    fn add(&mut self, name: HeaderName, value: HeaderValue);
    /// Removes all of this name.
    fn remove(&mut self, name: &HeaderName);
}

/// Makes the changes: sets, then adds, then removes. Names and values that are not valid were refused when the route was compiled.
pub fn change(change: &HeaderChange, fields: &mut impl Fields) {
    let parse = |(name, value): &(String, String)| Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?));
    for (name, value) in change.set.iter().filter_map(parse) {
        fields.set(name, value);
    }
    for (name, value) in change.add.iter().filter_map(parse) {
        fields.add(name, value);
    }
    for name in change.remove.iter().filter_map(|name| name.parse().ok()) {
        fields.remove(&name);
    }
}

/// The request header changes of `filters`, in order.
pub fn request_fields(filters: &[FilterSpec], fields: &mut impl Fields) {
    for filter in filters {
        if let FilterSpec::RequestHeaders(spec) = filter {
            change(spec, fields);
        }
    }
}

/// The response header changes of `filters`, in order.
pub fn response_fields(filters: &[FilterSpec], fields: &mut impl Fields) {
    for filter in filters {
        if let FilterSpec::ResponseHeaders(spec) = filter {
            change(spec, fields);
        }
    }
}

/// What the rewrites among `filters` (a rule's, then its backend's) make of host and path; of several the last wins part by part.
pub fn rewrite<'a>(filters: impl IntoIterator<Item = &'a FilterSpec>, path: &str, prefix: Option<usize>) -> Rewritten {
    let mut rewritten = Rewritten::default();
    for filter in filters {
        if let FilterSpec::Rewrite(spec) = filter {
            rewritten.host = spec.hostname.clone().or(rewritten.host);
            rewritten.path = spec.path.as_ref().map(|change| changed_path(change, path, prefix)).or(rewritten.path);
        }
    }
    rewritten
}

/// The answer of a RequestRedirect. `port` is the one that was called, as the caller knows it.
pub fn redirect(spec: &RedirectSpec, http: &Http<'_>, prefix: Option<usize>, port: u16) -> Redirect {
    let scheme = spec.scheme.as_deref().unwrap_or(http.scheme);
    let host = spec.hostname.as_deref().unwrap_or(http.host);
    // Gateway API, HTTPRequestRedirectFilter.port: without one, a given scheme means its well-known port, else the listener's: on a captured one that of the
    // destination.
    let port = spec.port.unwrap_or(match &spec.scheme {
        Some(_) => well_known(scheme).unwrap_or(port),
        None => port,
    });
    let path = spec.path.as_ref().map_or_else(|| http.path.to_string(), |change| changed_path(change, http.path, prefix));
    let mut location = format!("{scheme}://{host}");
    if well_known(scheme) != Some(port) {
        location.push_str(&format!(":{port}"));
    }
    location.push_str(&path);
    if let Some(query) = http.query {
        location.push('?');
        location.push_str(query);
    }
    Redirect { status: spec.status, location }
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The table of Gateway API's `HTTPPathModifier.replacePrefixMatch`. Without a matched prefix a prefix change does nothing;
/// routes that pair the two are refused when they are compiled.
fn changed_path(change: &PathChange, path: &str, prefix: Option<usize>) -> String {
    match (change, prefix) {
        (PathChange::Full(full), _) if full.is_empty() => "/".into(),
        (PathChange::Full(full), _) => full.clone(),
        (PathChange::Prefix(_), None) => path.into(),
        (PathChange::Prefix(replacement), Some(prefix)) => {
            let rest = path.get(prefix..).unwrap_or_default();
            let joined = format!("{}{rest}", replacement.trim_end_matches('/'));
            if joined.is_empty() { "/".into() } else { joined }
        }
    }
}

impl Fields for HeaderMap {
    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.insert(name, value);
    }
    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.append(name, value);
    }
    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }
}

// Pingora's heads refuse a field only where it has more than 32768 of them; a request with that many was refused before.
impl Fields for RequestHeader {
    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.insert_header(name, value);
    }
    // Of a text Pingora keeps no copy in the case it came.
    fn say(&mut self, name: &'static str, value: HeaderValue) {
        let _ = self.insert_header(name, value);
    }
    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.append_header(name, value);
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

impl Fields for ResponseHeader {
    fn set(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.insert_header(name, value);
    }
    fn add(&mut self, name: HeaderName, value: HeaderValue) {
        let _ = self.append_header(name, value);
    }
    fn remove(&mut self, name: &HeaderName) {
        self.remove_header(name);
    }
}

#[cfg(test)]
mod tests;
