//! What rules change, in the one form that proxies know.

use super::matches::{json, text};
use crate::translate::status::Problem;
use selvage_config::resource::route::{FilterSpec, HeaderChange, PathChange, RedirectSpec, RewriteSpec};
use serde::Serialize;
use serde_json::Value;

/// A filter as somebody wrote it.
pub(super) enum Filter {
    /// One that is served.
    Served(FilterSpec),
    /// One that this version does not serve.
    Unsupported(String),
    /// One that refers to something nobody has.
    Unresolved(Problem),
}

pub(super) fn filter(one: &impl Serialize) -> Filter {
    let one = json(one);
    let kind = text(&one, "/type").unwrap_or_default();
    let path = |pointer: &str| {
        let full = text(&one, &format!("{pointer}/replaceFullPath")).map(PathChange::Full);
        full.or_else(|| text(&one, &format!("{pointer}/replacePrefixMatch")).map(PathChange::Prefix))
    };
    Filter::Served(match kind.as_str() {
        "RequestHeaderModifier" => FilterSpec::RequestHeaders(change(&one["requestHeaderModifier"])),
        "ResponseHeaderModifier" => FilterSpec::ResponseHeaders(change(&one["responseHeaderModifier"])),
        "RequestRedirect" => FilterSpec::Redirect(RedirectSpec {
            scheme: text(&one, "/requestRedirect/scheme"),
            hostname: text(&one, "/requestRedirect/hostname"),
            path: path("/requestRedirect/path"),
            port: one.pointer("/requestRedirect/port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()),
            status: one
                .pointer("/requestRedirect/statusCode")
                .and_then(Value::as_u64)
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or(302),
        }),
        "URLRewrite" => FilterSpec::Rewrite(RewriteSpec { hostname: text(&one, "/urlRewrite/hostname"), path: path("/urlRewrite/path") }),
        "ExtensionRef" => {
            let (group, kind) =
                (text(&one, "/extensionRef/group").unwrap_or_default(), text(&one, "/extensionRef/kind").unwrap_or_default());
            return Filter::Unresolved(("InvalidKind", format!("extensionRef: {kind} of group {group} is not a filter of ours")));
        }
        other => return Filter::Unsupported(format!("filter {other} is not served yet")),
    })
}

fn change(value: &Value) -> HeaderChange {
    let pairs = |field: &str| {
        let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|pair| Some((text(pair, "/name")?.to_lowercase(), text(pair, "/value")?))).collect()
    };
    let remove = value.get("remove").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase);
    HeaderChange { set: pairs("set"), add: pairs("add"), remove: remove.collect() }
}

/// Two filters that cannot stand in one rule: a redirect with a rewrite, or two of one kind. Names the second.
pub(super) fn incompatible(filters: &[FilterSpec]) -> Option<&'static str> {
    let mut seen: Vec<&'static str> = Vec::new();
    for filter in filters {
        let name = match filter {
            FilterSpec::RequestHeaders(_) => "RequestHeaderModifier",
            FilterSpec::ResponseHeaders(_) => "ResponseHeaderModifier",
            FilterSpec::Redirect(_) => "RequestRedirect",
            FilterSpec::Rewrite(_) => "URLRewrite",
            FilterSpec::Unresolved(_) => continue,
        };
        let rival = match name {
            "RequestRedirect" => "URLRewrite",
            "URLRewrite" => "RequestRedirect",
            _ => name,
        };
        if seen.contains(&name) || seen.contains(&rival) {
            return Some(name);
        }
        seen.push(name);
    }
    None
}
