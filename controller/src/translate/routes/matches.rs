//! What rules match, in the one form that proxies know.

use crate::world::route::Matches;
use selvage_config::resource::route::{MatchSpec, PathMatch, ValueMatch, ValueTest};
use selvage_config::resource::text::Pattern;
use selvage_policy::mesh::PathHandling;
use serde::Serialize;
use serde_json::Value;

/// The matches of a rule; an error names the field.
pub(super) fn matches(matches: &Matches, paths: PathHandling) -> Result<Vec<MatchSpec>, String> {
    let specs: Vec<Result<MatchSpec, String>> = match matches {
        Matches::All => Vec::new(),
        Matches::Http(all) => all.iter().map(|one| http(&json(one))).collect(),
        Matches::Grpc(all) => all.iter().map(|one| grpc(&json(one))).collect(),
    };
    let checked = specs.into_iter().enumerate().map(|(index, spec)| {
        let checked = spec.and_then(|spec| spec.check(paths).map(|()| spec));
        checked.map_err(|problem| format!("matches[{index}].{problem}"))
    });
    checked.collect()
}

/// The generated types differ by place and kind; their JSON does not.
pub(super) fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

pub(super) fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).map(String::from)
}

fn http(one: &Value) -> Result<MatchSpec, String> {
    let path = one.get("path").map(|path| {
        let value = text(path, "/value").unwrap_or_else(|| "/".into());
        match path.get("type").and_then(Value::as_str).unwrap_or("PathPrefix") {
            "Exact" => Ok(PathMatch::Exact(value)),
            "RegularExpression" => Pattern::try_from(value).map(PathMatch::Regex).map_err(|error| format!("path.value: {error}")),
            _ => Ok(PathMatch::Prefix(value)),
        }
    });
    Ok(MatchSpec {
        path: path.transpose()?,
        method: text(one, "/method"),
        headers: values(one, "headers", true)?,
        query: values(one, "queryParams", false)?,
    })
}

fn values(one: &Value, field: &str, lower: bool) -> Result<Vec<ValueMatch>, String> {
    let tests = one.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
    tests
        .map(|(index, test)| {
            let name = text(test, "/name").unwrap_or_default();
            let value = text(test, "/value").unwrap_or_default();
            let value = match test.get("type").and_then(Value::as_str) {
                Some("RegularExpression") => {
                    ValueTest::Regex(Pattern::try_from(value).map_err(|error| format!("{field}[{index}].value: {error}"))?)
                }
                _ => ValueTest::Exact(value),
            };
            Ok(ValueMatch { name: if lower { name.to_lowercase() } else { name }, value })
        })
        .collect()
}

/// A gRPC service and method are a path, `/service/method`.
fn grpc(one: &Value) -> Result<MatchSpec, String> {
    let (service, method) = (text(one, "/method/service"), text(one, "/method/method"));
    let regex = one.pointer("/method/type").and_then(Value::as_str) == Some("RegularExpression");
    let pattern = |text: String| Pattern::try_from(text).map(PathMatch::Regex).map_err(|error| format!("method: {error}"));
    let path = match (service, method, regex) {
        (None, None, _) => None,
        (Some(service), Some(method), false) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
        (Some(service), None, false) => Some(PathMatch::Prefix(format!("/{service}"))),
        (None, Some(method), false) => Some(pattern(format!("/[^/]+/{}", regex::escape(&method)))?),
        (service, method, true) => {
            let any = || "[^/]+".to_string();
            Some(pattern(format!("/(?:{})/(?:{})", service.unwrap_or_else(any), method.unwrap_or_else(any)))?)
        }
    };
    Ok(MatchSpec { path, method: None, headers: values(one, "headers", true)?, query: Vec::new() })
}
