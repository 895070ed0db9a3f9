//! Rewrites and redirects against the tables of Gateway API.

use super::*;
use crate::snapshot::fixture::{Dice, Facts};
use selvage_config::resource::route::RewriteSpec;
use selvage_policy::canonical;
use selvage_policy::mesh::PathHandling;

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

#[test]
fn prefixes_are_replaced_as_in_the_table_of_gateway_api() {
    for (path, prefix, replacement, wanted) in [
        ("/foo/bar", 4, "/xyz", "/xyz/bar"),
        ("/foo/bar", 4, "/xyz/", "/xyz/bar"),
        ("/foo", 4, "/xyz", "/xyz"),
        ("/foo/", 4, "/xyz", "/xyz/"),
        ("/foo/bar", 4, "", "/bar"),
        ("/foo/", 4, "", "/"),
        ("/foo", 4, "", "/"),
        ("/foo/", 4, "/", "/"),
        ("/foo", 4, "/", "/"),
        ("/foo/bar", 0, "/xyz", "/xyz/foo/bar"),
        ("/", 0, "/xyz", "/xyz/"),
        ("/", 0, "/", "/"),
    ] {
        let change = PathChange::Prefix(replacement.into());
        assert_eq!(changed_path(&change, path, Some(prefix)), wanted, "{path} {prefix} {replacement}");
    }
    assert_eq!(changed_path(&PathChange::Prefix("/x".into()), "/foo", None), "/foo", "no prefix matched");
    assert_eq!(changed_path(&PathChange::Full("/x".into()), "/foo", None), "/x");
    assert_eq!(changed_path(&PathChange::Full(String::new()), "/foo", None), "/");
}

#[test]
fn a_rewritten_path_is_canonical() {
    let mut dice = Dice(11);
    let segments = ["a", "b%2Fc", "x;y", "%C3%A4", "~"];
    let path = |dice: &mut Dice| {
        let count = dice.below(4);
        let joined: String = (0..count).map(|_| format!("/{}", dice.one(&segments))).collect();
        let slash = if dice.chance(30) || joined.is_empty() { "/" } else { "" };
        format!("{joined}{slash}")
    };
    let handling: PathHandling = serde_json::from_str(r#"{"encodedSlash": "Keep"}"#).expect("well formed");
    for _ in 0..2000 {
        let (request, replacement) = (path(&mut dice), path(&mut dice));
        let cuts: Vec<usize> = request.match_indices('/').map(|(at, _)| at).chain([request.trim_end_matches('/').len()]).collect();
        let prefix = dice.one(&cuts);
        let changed = changed_path(&PathChange::Prefix(replacement.clone()), &request, Some(prefix));
        let again = canonical::path(&changed, handling).expect("canonical");
        assert_eq!(again, changed, "{request} {prefix} {replacement}");
        assert!(changed.starts_with('/') && !changed.contains("//"), "{changed}");
    }
}

#[test]
fn redirects_keep_what_is_not_said_and_leave_out_default_ports() {
    let spec = |scheme: Option<&str>, hostname: Option<&str>, port: Option<u16>, path: Option<PathChange>| RedirectSpec {
        scheme: scheme.map(Into::into),
        hostname: hostname.map(Into::into),
        port,
        path,
        status: 302,
    };
    let full = || Some(PathChange::Full("/new".into()));
    for (spec, scheme, listener, wanted) in [
        (spec(Some("https"), None, None, None), "http", 80, "https://h/p/x?q=1"),
        (spec(Some("https"), None, None, None), "http", 8080, "https://h/p/x?q=1"),
        (spec(None, None, None, None), "http", 8080, "http://h:8080/p/x?q=1"),
        (spec(None, None, None, None), "http", 80, "http://h/p/x?q=1"),
        (spec(None, None, None, None), "https", 443, "https://h/p/x?q=1"),
        (spec(None, None, None, None), "https", 80, "https://h:80/p/x?q=1"),
        (spec(None, Some("other.org"), None, None), "http", 8080, "http://other.org:8080/p/x?q=1"),
        (spec(None, None, Some(8443), None), "http", 80, "http://h:8443/p/x?q=1"),
        (spec(None, None, Some(80), None), "http", 8080, "http://h/p/x?q=1"),
        (spec(Some("https"), None, Some(443), None), "http", 80, "https://h/p/x?q=1"),
        (spec(Some("http"), None, Some(443), None), "http", 80, "http://h:443/p/x?q=1"),
        (spec(None, None, None, full()), "http", 80, "http://h/new?q=1"),
        (spec(None, None, None, Some(PathChange::Prefix("/n".into()))), "http", 80, "http://h/n/x?q=1"),
    ] {
        let facts = Facts::get("h/p/x?q=1");
        let exchange = facts.exchange();
        let http = Http { scheme, ..exchange.http.expect("http") };
        assert_eq!(redirect(&spec, &http, Some(2), listener), Redirect { status: 302, location: wanted.into() });
    }
}

#[test]
fn header_changes_set_then_add_then_remove() {
    let mut fields = HeaderMap::new();
    for (name, value) in [("x-old", "1"), ("x-old", "2"), ("x-more", "1"), ("x-gone", "1"), ("x-gone", "2")] {
        fields.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
    }
    let spec = HeaderChange {
        set: pairs(&[("X-Old", "new"), ("x-made", "1")]),
        add: pairs(&[("x-more", "2"), ("x-fresh", "1")]),
        remove: vec!["X-Gone".into(), "x-never".into()],
    };
    change(&spec, &mut fields);
    let all = |name: &str| fields.get_all(name).iter().map(|value| value.to_str().expect("text")).collect::<Vec<_>>();
    assert_eq!((all("x-old"), all("x-made"), all("x-more"), all("x-fresh")), (vec!["new"], vec!["1"], vec!["1", "2"], vec!["1"]));
    assert!(all("x-gone").is_empty());

    let mut head = RequestHeader::build("GET", b"/", None).expect("well formed");
    head.append_header("x-old", "1").expect("room");
    head.append_header("x-gone", "1").expect("room");
    change(&spec, &mut head);
    assert_eq!(head.headers.get_all("x-old").iter().collect::<Vec<_>>(), ["new"]);
    assert!(!head.headers.contains_key("x-gone"));
}

#[test]
fn a_backends_rewrite_beats_the_rules_part_by_part() {
    let rewrite_to = |hostname: Option<&str>, path: Option<&str>| {
        FilterSpec::Rewrite(RewriteSpec { hostname: hostname.map(Into::into), path: path.map(|path| PathChange::Full(path.into())) })
    };
    let filters = [rewrite_to(Some("rule"), Some("/rule")), rewrite_to(Some("backend"), None)];
    assert_eq!(rewrite(&filters, "/p", None), Rewritten { host: Some("backend".into()), path: Some("/rule".into()) });
    assert_eq!(rewrite(&[], "/p", None), Rewritten::default());
}

#[test]
fn request_and_response_changes_are_kept_apart() {
    let set = |name: &str| HeaderChange { set: pairs(&[(name, "1")]), ..HeaderChange::default() };
    let filters = [FilterSpec::RequestHeaders(set("x-request")), FilterSpec::ResponseHeaders(set("x-response"))];
    let (mut request, mut response) = (HeaderMap::new(), HeaderMap::new());
    request_fields(&filters, &mut request);
    response_fields(&filters, &mut response);
    assert!(request.contains_key("x-request") && !request.contains_key("x-response"));
    assert!(response.contains_key("x-response") && !response.contains_key("x-request"));
}
