//! What a rule must be besides well-formed. The controller asks before it publishes, the proxy before it serves: one answer.

use super::{FilterSpec, HeaderChange, MatchSpec, PathChange, PathMatch, RuleSpec};
use crate::resource::fields;
use http::{HeaderName, HeaderValue, Method};
use selvage_policy::canonical;
use selvage_policy::mesh::PathHandling;

/// Fields that frame messages: no filter may touch them, nor those that only proxies write.
const RESERVED: [&str; 9] =
    ["connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

impl RuleSpec {
    /// Brings hosts and paths of its filters to their canonical form; an error names the field. Matches are not looked at but for
    /// whether a prefix can be replaced.
    pub fn check(&mut self, paths: PathHandling) -> Result<(), String> {
        let by_prefix = self.matches.iter().all(|one| matches!(one.path, None | Some(PathMatch::Prefix(_))));
        for (number, filter) in self.filters.iter_mut().enumerate() {
            check_filter(filter, by_prefix, paths).map_err(|problem| format!("filters[{number}].{problem}"))?;
        }
        for (number, backend) in self.backends.iter_mut().enumerate() {
            for filter in &mut backend.filters {
                if matches!(filter, FilterSpec::Redirect(_)) {
                    return Err(format!("backends[{number}].filters: a redirect belongs to the rule, not to a backend"));
                }
                check_filter(filter, by_prefix, paths).map_err(|problem| format!("backends[{number}].filters.{problem}"))?;
            }
        }
        Ok(())
    }
}

impl MatchSpec {
    /// Whether any request can match it; an error names the field.
    pub fn check(&self, paths: PathHandling) -> Result<(), String> {
        if let Some(PathMatch::Exact(text) | PathMatch::Prefix(text)) = &self.path {
            canonical::path(text, paths).map_err(|invalid| format!("path: `{text}` can match no request: {invalid}"))?;
        }
        if let Some(method) = &self.method {
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("method: `{method}` is not a method"))?;
        }
        self.headers.iter().try_for_each(|one| match one.name.parse::<HeaderName>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("headers: `{}` is not a header name", one.name)),
        })
    }
}

fn check_filter(filter: &mut FilterSpec, by_prefix: bool, paths: PathHandling) -> Result<(), String> {
    match filter {
        FilterSpec::RequestHeaders(change) => check_headers(change, fields::is_ours).map_err(|problem| format!("requestHeaders.{problem}")),
        FilterSpec::ResponseHeaders(change) => {
            check_headers(change, fields::is_platforms).map_err(|problem| format!("responseHeaders.{problem}"))
        }
        FilterSpec::Redirect(redirect) => {
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                return Err(format!("redirect.status: {} is not one of 301, 302, 303, 307, 308", redirect.status));
            }
            if let Some(other) = redirect.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
                return Err(format!("redirect.scheme: `{other}` is not `http` or `https`"));
            }
            check_target(&mut redirect.hostname, &mut redirect.path, by_prefix, paths).map_err(|problem| format!("redirect.{problem}"))
        }
        FilterSpec::Rewrite(rewrite) => {
            check_target(&mut rewrite.hostname, &mut rewrite.path, by_prefix, paths).map_err(|problem| format!("rewrite.{problem}"))
        }
        FilterSpec::Unresolved(_) => Ok(()),
    }
}

fn check_target(hostname: &mut Option<String>, path: &mut Option<PathChange>, by_prefix: bool, paths: PathHandling) -> Result<(), String> {
    if let Some(host) = hostname {
        match canonical::authority(host) {
            Ok((canonical, None)) => *host = canonical.into_owned(),
            _ => return Err(format!("hostname: `{host}` is not a host name without a port")),
        }
    }
    let canonical = |text: &str| match text {
        "" => Ok(String::new()),
        text => canonical::path(text, paths).map(|path| path.into_owned()).map_err(|invalid| format!("path: `{text}`: {invalid}")),
    };
    match path {
        None => {}
        Some(PathChange::Full(text)) => *text = canonical(text)?,
        Some(PathChange::Prefix(_)) if !by_prefix => {
            return Err("path: a prefix is replaced only where every match of the rule is a prefix match".into());
        }
        Some(PathChange::Prefix(text)) => *text = canonical(text)?,
    }
    Ok(())
}

fn check_headers(change: &HeaderChange, is_ours: fn(&str) -> bool) -> Result<(), String> {
    let name = |field: &str, name: &str| {
        let parsed: HeaderName = name.parse().map_err(|_| format!("{field}: `{name}` is not a header name"))?;
        if is_ours(parsed.as_str()) {
            return Err(format!("{field}: `{name}` is written by proxies only: the next one would believe it"));
        }
        if RESERVED.contains(&parsed.as_str()) {
            return Err(format!("{field}: `{name}` cannot be changed by a filter (for `host` use URLRewrite.hostname)"));
        }
        Ok(())
    };
    for (field, pairs) in [("set", &change.set), ("add", &change.add)] {
        for (key, value) in pairs {
            name(field, key)?;
            value.parse::<HeaderValue>().map_err(|_| format!("{field}: the value of `{key}` has a control character"))?;
        }
    }
    change.remove.iter().try_for_each(|key| name("remove", key))
}
