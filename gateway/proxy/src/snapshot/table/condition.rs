//! Conditions on one request, parsed once per route.

use http::{HeaderMap, HeaderName, Method};
use percent_encoding::percent_decode_str;
use selvage_config::RouteSpec;
use selvage_config::resource::route::{MatchSpec, PathMatch, ValueMatch, ValueTest};
use selvage_config::resource::text::{HostPattern, Pattern};
use selvage_policy::mesh::PathHandling;
use selvage_policy::{Http, Key, TargetKind, canonical};
use std::borrow::Cow;
use std::sync::Arc;

/// What a route matches, ready for a table.
#[derive(Debug)]
pub(in crate::snapshot) struct RouteMatches {
    /// The route as somebody wrote it.
    pub(in crate::snapshot) key: Arc<Key>,
    pub(in crate::snapshot) kind: TargetKind,
    /// `namespace/name`.
    pub(in crate::snapshot) name: Arc<str>,
    pub(in crate::snapshot) hostnames: Vec<HostPattern>,
    pub(in crate::snapshot) matches: Vec<CompiledMatch>,
}

/// One match of one rule.
#[derive(Debug)]
pub(in crate::snapshot) struct CompiledMatch {
    pub(super) rule: u32,
    pub(super) index: u32,
    pub(super) path: PathKey,
    pub(super) conditions: Arc<Conditions>,
}

/// A path condition in canonical form; a prefix without its final `/`, hence empty for `/`.
#[derive(Debug)]
pub(super) enum PathKey {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Pattern),
}

/// Conditions besides host and path. All must hold.
#[derive(Debug, Default)]
pub(in crate::snapshot) struct Conditions {
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<(HeaderName, ValueTest)>,
    pub(super) query: Vec<(String, ValueTest)>,
}

impl RouteMatches {
    /// Parses the matches of a route. An error names the field.
    pub(in crate::snapshot) fn parse(spec: &RouteSpec, paths: PathHandling) -> Result<Self, String> {
        let mut matches = Vec::new();
        for (number, rule) in spec.rules.iter().enumerate() {
            let all = [MatchSpec::default()];
            let written = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
            for (index, one) in written.iter().enumerate() {
                let at = |problem: String| format!("rules[{number}].matches[{index}].{problem}");
                let path = PathKey::parse(one.path.as_ref(), paths).map_err(at)?;
                let conditions = Arc::new(Conditions::parse(one).map_err(at)?);
                matches.push(CompiledMatch { rule: number as u32, index: index as u32, path, conditions });
            }
        }
        let name = format!("{}/{}", spec.object.namespace, spec.object.name).into();
        Ok(Self { key: Arc::new(spec.object.object()), kind: spec.object.kind, name, hostnames: spec.hostnames.clone(), matches })
    }
}

impl PathKey {
    fn parse(path: Option<&PathMatch>, paths: PathHandling) -> Result<Self, String> {
        let canonical = |text: &str| -> Result<Box<str>, String> {
            let canonical = canonical::path(text, paths).map_err(|invalid| format!("path: `{text}` can match no request: {invalid}"))?;
            Ok(canonical.into_owned().into_boxed_str())
        };
        Ok(match path {
            None => Self::Prefix("".into()),
            Some(PathMatch::Exact(text)) => Self::Exact(canonical(text)?),
            Some(PathMatch::Prefix(text)) => Self::Prefix(canonical(text)?.trim_end_matches('/').into()),
            Some(PathMatch::Regex(pattern)) => Self::Regex(pattern.clone()),
        })
    }
}

impl Conditions {
    fn parse(spec: &MatchSpec) -> Result<Self, String> {
        let method = spec
            .method
            .as_ref()
            .map(|method| Method::from_bytes(method.as_bytes()).map_err(|_| format!("method: `{method}` is not a method")));
        let mut headers: Vec<(HeaderName, ValueTest)> = Vec::new();
        for ValueMatch { name, value } in &spec.headers {
            let name: HeaderName = name.parse().map_err(|_| format!("headers: `{name}` is not a header name"))?;
            // Gateway API: of several with one name only the first counts.
            if !headers.iter().any(|(known, _)| *known == name) {
                headers.push((name, value.clone()));
            }
        }
        let mut query: Vec<(String, ValueTest)> = Vec::new();
        for ValueMatch { name, value } in &spec.query {
            if !query.iter().any(|(known, _)| known == name) {
                query.push((name.clone(), value.clone()));
            }
        }
        Ok(Self { method: method.transpose()?, headers, query })
    }

    pub(super) fn hold(&self, http: &Http<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == http.method)
            && self.headers.iter().all(|(name, test)| header(http.headers, name).is_some_and(|value| passes(test, &value)))
            && self.query.iter().all(|(name, test)| parameter(http.query, name).is_some_and(|value| passes(test, &value)))
    }
}

/// A header's value; repeated lines are one value joined by `, ` (RFC 9110 section 5.3).
fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let joined = value.to_mut();
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
    }
    Some(value)
}

/// The first value of a query parameter, percent-decoded. (`+` stays `+`: the query's form is the application's business.)
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, [u8]>> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decode_str(key).eq(name.bytes()).then(|| percent_decode_str(value).into())
    })
}

fn passes(test: &ValueTest, value: &[u8]) -> bool {
    match test {
        ValueTest::Exact(wanted) => value == wanted.as_bytes(),
        ValueTest::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|value| pattern.matches(value)),
    }
}
