//! Precedence, rule by rule; the property against a linear reference is in `reference`.

mod reference;

use crate::snapshot::fixture::{Facts, World};
use serde_json::{Value, json};

/// The route that takes a request, or `-`.
fn taken(world: &World, facts: &Facts) -> String {
    let snapshot = world.snapshot();
    let table = &snapshot.listeners.values().next().expect("one listener").routes;
    table.find(&facts.exchange()).map_or_else(|| "-".into(), |matched| format!("{}#{}", matched.rule.route.name, matched.rule.name))
}

/// Routes `a`, `b`, … in this order of age, with one rule of these matches each.
fn world(matches: &[Value]) -> World {
    let mut world = World::default();
    world.listener("http", json!({}));
    for (number, one) in matches.iter().enumerate() {
        let name = char::from(b'a' + number as u8).to_string();
        world.route(&name, number as i64, json!({"rules": [{"matches": [one]}]}));
    }
    world
}

#[test]
fn precedence_is_path_then_method_then_headers_then_query_then_age() {
    let exact = |path: &str| json!({"path": {"exact": path}});
    let prefix = |path: &str| json!({"path": {"prefix": path}});
    let header = |name: &str| json!({"name": name, "value": {"exact": "1"}});
    for (what, matches, url, wanted) in [
        ("exact over longest prefix", vec![prefix("/x/y"), exact("/x/y")], "h/x/y", "b"),
        ("longer prefix over shorter", vec![prefix("/x"), prefix("/x/y")], "h/x/y/z", "b"),
        ("a prefix is whole segments", vec![prefix("/"), prefix("/x")], "h/xy", "a"),
        ("a final slash of a prefix is nothing", vec![prefix("/"), prefix("/x/")], "h/x", "b"),
        ("exact is exact", vec![prefix("/"), exact("/x")], "h/x/", "a"),
        ("regex over the root prefix", vec![prefix("/"), json!({"path": {"regex": "/v[0-9]+"}})], "h/v1", "b"),
        ("regex is a whole match", vec![prefix("/"), json!({"path": {"regex": "/v[0-9]+"}})], "h/v1/x", "a"),
        ("a longer prefix over regex", vec![json!({"path": {"regex": "/v1.*"}}), prefix("/v1")], "h/v1/x", "b"),
        ("path over method", vec![json!({"method": "GET", "path": {"prefix": "/x"}}), exact("/x")], "h/x", "b"),
        ("method over headers", vec![json!({"headers": [header("x-a"), header("x-b")]}), json!({"method": "GET"})], "h/x", "b"),
        (
            "more headers over fewer",
            vec![json!({"headers": [header("x-a")]}), json!({"headers": [header("x-a"), header("x-b")]})],
            "h/",
            "b",
        ),
        (
            "a header named twice counts once",
            vec![json!({"headers": [header("x-a")]}), json!({"headers": [header("x-a"), header("x-a")]})],
            "h/",
            "a",
        ),
        ("headers over query", vec![json!({"query": [header("q"), header("r")]}), json!({"headers": [header("x-a")]})], "h/?q=1&r=1", "b"),
        ("more query over less", vec![json!({"query": [header("q")]}), json!({"query": [header("q"), header("r")]})], "h/?q=1&r=1", "b"),
        ("the older of equals", vec![prefix("/x"), prefix("/x")], "h/x", "a"),
        ("an absent path is the root prefix", vec![json!({}), prefix("/")], "h/x", "a"),
        ("nothing matches", vec![exact("/x")], "h/y", "-"),
        (
            "conditions must hold for the longest path to win",
            vec![prefix("/"), json!({"path": {"prefix": "/x"}, "method": "PUT"})],
            "h/x",
            "a",
        ),
    ] {
        let facts = Facts::of("GET", url, &[("x-a", "1"), ("x-b", "1")]);
        let found = taken(&world(&matches), &facts);
        assert_eq!(found.split('#').next(), Some(wanted), "{what}: {found}");
    }
}

#[test]
fn of_equal_age_the_name_decides_and_in_one_route_the_order() {
    let mut world = World::default();
    world.listener("http", json!({}));
    let twice = json!([{"name": "first"}, {"name": "second"}]);
    world.route("b", 5, json!({"rules": twice.clone()})).route("a", 5, json!({"rules": twice}));
    assert_eq!(taken(&world, &Facts::get("h/")), "a#first");
    world.route("a", 6, json!({"rules": [{}]}));
    assert_eq!(taken(&world, &Facts::get("h/")), "b#first");
}

#[test]
fn the_name_is_compared_as_one_text() {
    // `-` sorts before `/`: as texts `a-b/x` comes before `a/x`, part by part it would not.
    let mut world = World::default();
    world.listener("http", json!({}));
    world.route("x", 5, json!({"object": {"kind": "HTTPRoute", "namespace": "a", "name": "x"}}));
    world.route("y", 5, json!({"object": {"kind": "HTTPRoute", "namespace": "a-b", "name": "y"}}));
    assert_eq!(taken(&world, &Facts::get("h/")), "y#0");
}

#[test]
fn hosts_go_from_exact_to_the_longest_wildcard_to_any() {
    let mut world = World::default();
    world.listener("http", json!({}));
    let paths = |path: &str| json!([{"matches": [{"path": {"prefix": path}}]}]);
    world.route("any", 0, json!({"rules": paths("/")}));
    world.route("com", 1, json!({"hostnames": ["*.example.com"], "rules": paths("/")}));
    world.route("deep", 2, json!({"hostnames": ["*.a.example.com"], "rules": paths("/")}));
    world.route("exact", 3, json!({"hostnames": ["x.a.example.com"], "rules": paths("/only")}));
    for (url, wanted) in [
        ("x.a.example.com/only/1", "exact#0"),
        ("x.a.example.com/other", "deep#0"),
        ("y.a.example.com/only", "deep#0"),
        ("a.example.com/", "com#0"),
        ("y.x.b.example.com/", "com#0"),
        ("example.com/", "any#0"),
        ("a.example.com.org/", "any#0"),
        ("[::1]/", "any#0"),
    ] {
        assert_eq!(taken(&world, &Facts::get(url)), wanted, "{url}");
    }
}

#[test]
fn a_route_stands_under_what_its_hosts_and_the_listeners_have_in_common() {
    for (listener, hostnames, host, wanted) in [
        (Some("*.example.com"), json!([]), "x.example.com", true),
        (Some("*.example.com"), json!([]), "x.example.org", false),
        (Some("*.example.com"), json!(["x.example.com"]), "x.example.com", true),
        (Some("*.example.com"), json!(["x.example.com"]), "y.example.com", false),
        (Some("*.example.com"), json!(["*.a.example.com"]), "b.a.example.com", true),
        (Some("*.example.com"), json!(["*.a.example.com"]), "b.example.com", false),
        (Some("x.example.com"), json!(["*.example.com"]), "x.example.com", true),
        (Some("x.example.com"), json!(["*.example.com"]), "y.example.com", false),
        (Some("x.example.com"), json!(["y.example.com"]), "y.example.com", false),
        (Some("*.example.com"), json!(["example.com"]), "example.com", false),
        (None, json!(["x.example.com", "*.example.org"]), "a.example.org", true),
        (None, json!(["x.example.com"]), "z.example.com", false),
    ] {
        let mut world = World::default();
        world.listener("http", listener.map_or(json!({}), |hostname| json!({"hostname": hostname})));
        world.route("r", 0, json!({"hostnames": hostnames}));
        let found = taken(&world, &Facts::get(&format!("{host}/")));
        assert_eq!(found != "-", wanted, "{listener:?} {hostnames} {host}");
    }
}

#[test]
fn mesh_parents_ignore_host_names() {
    let mut world = World::default();
    world.backend("orders", json!({}), json!([]));
    world.route("r", 0, json!({"parents": ["Backend/shop/orders#80"], "hostnames": ["x.example.com"]}));
    let snapshot = world.snapshot();
    let destination = snapshot.destinations.values().next().expect("one");
    assert!(destination.routes.find(&Facts::get("orders.shop/").exchange()).is_some());
}

#[test]
fn header_and_query_values_are_tested_whole() {
    for (what, condition, url, headers, wanted) in [
        (
            "repeated lines are one value",
            json!({"headers": [{"name": "x-a", "value": {"exact": "1, 2"}}]}),
            "h/",
            vec![("x-a", "1"), ("x-a", "2")],
            true,
        ),
        (
            "the first line alone is not the value",
            json!({"headers": [{"name": "x-a", "value": {"exact": "1"}}]}),
            "h/",
            vec![("x-a", "1"), ("x-a", "2")],
            false,
        ),
        (
            "header values are case-sensitive",
            json!({"headers": [{"name": "x-a", "value": {"exact": "One"}}]}),
            "h/",
            vec![("x-a", "one")],
            false,
        ),
        ("header names are not", json!({"headers": [{"name": "X-A", "value": {"exact": "1"}}]}), "h/", vec![("x-a", "1")], true),
        ("a regex is anchored", json!({"headers": [{"name": "x-a", "value": {"regex": "[0-9]"}}]}), "h/", vec![("x-a", "12")], false),
        ("an absent header matches nothing", json!({"headers": [{"name": "x-a", "value": {"regex": ".*"}}]}), "h/", vec![], false),
        ("the first of a repeated parameter", json!({"query": [{"name": "q", "value": {"exact": "1"}}]}), "h/?q=1&q=2", vec![], true),
        ("not a later one", json!({"query": [{"name": "q", "value": {"exact": "2"}}]}), "h/?q=1&q=2", vec![], false),
        ("decoded", json!({"query": [{"name": "q r", "value": {"exact": "a&b"}}]}), "h/?q%20r=a%26b", vec![], true),
        ("plus stays plus", json!({"query": [{"name": "q", "value": {"exact": "a b"}}]}), "h/?q=a+b", vec![], false),
        ("a parameter without value is empty", json!({"query": [{"name": "q", "value": {"exact": ""}}]}), "h/?q", vec![], true),
        ("no query", json!({"query": [{"name": "q", "value": {"regex": ".*"}}]}), "h/", vec![], false),
        ("names are case-sensitive", json!({"query": [{"name": "Q", "value": {"exact": "1"}}]}), "h/?q=1", vec![], false),
    ] {
        let found = taken(&world(&[condition]), &Facts::of("GET", url, &headers));
        assert_eq!(found != "-", wanted, "{what}");
    }
}

#[test]
fn paths_of_routes_are_made_canonical() {
    let matches = [json!({"path": {"exact": "/%61/./b"}}), json!({"path": {"prefix": "/x%7ey/"}})];
    assert_eq!(taken(&world(&matches), &Facts::get("h/a/b")), "a#0");
    assert_eq!(taken(&world(&matches), &Facts::get("h/x~y/z")), "b#0");
}

#[test]
fn grpc_routes_compete_with_http_routes() {
    let mut world = World::default();
    world.listener("http", json!({}));
    world.route("http", 0, json!({"rules": [{"matches": [{"path": {"prefix": "/shop.Orders"}}]}]}));
    world.route(
        "grpc",
        1,
        json!({
            "object": {"kind": "GRPCRoute", "namespace": "shop", "name": "grpc"},
            "rules": [{"matches": [{"path": {"exact": "/shop.Orders/List"}}]}],
        }),
    );
    assert_eq!(taken(&world, &Facts::of("POST", "h/shop.Orders/List", &[])), "grpc#0");
    assert_eq!(taken(&world, &Facts::of("POST", "h/shop.Orders/Get", &[])), "http#0");
}

#[test]
fn the_matched_prefix_is_where_the_rest_begins() {
    for (prefix, url, rest) in
        [("/x", "h/x/y", "/y"), ("/x/", "h/x/y", "/y"), ("/x", "h/x", ""), ("/", "h/x/y", "/x/y"), ("/x", "h/x/", "/")]
    {
        let snapshot = world(&[json!({"path": {"prefix": prefix}})]).snapshot();
        let facts = Facts::get(url);
        let matched = snapshot.listeners.values().next().expect("one").routes.find(&facts.exchange()).expect("matches");
        assert_eq!(&facts.path[matched.prefix.expect("a prefix")..], rest, "{prefix} {url}");
    }
}

#[test]
fn connections_without_http_get_the_oldest_tcp_route() {
    let mut world = World::default();
    world.listener("http", json!({"protocol": "Tcp"}));
    let tcp = |name: &str| json!({"object": {"kind": "TCPRoute", "namespace": "shop", "name": name}});
    world.route("young", 9, tcp("young")).route("old", 1, tcp("old"));
    let snapshot = world.snapshot();
    let table = &snapshot.listeners.values().next().expect("one").routes;
    assert_eq!(table.opaque(None).expect("a rule").rule.route.name, "old");
    let facts = Facts::get("h/");
    let opaque = selvage_policy::Exchange { http: None, ..facts.exchange() };
    assert_eq!(table.find(&opaque).expect("a rule").rule.route.name, "old");
    assert!(!table.is_empty());
}

#[test]
fn tls_is_routed_by_server_name_and_the_rest_by_tcproute() {
    let mut world = World::default();
    world.listener("http", json!({"protocol": "Passthrough"}));
    let tls = |hosts: &[&str]| json!({"object": {"kind": "TLSRoute", "namespace": "shop", "name": hosts[0]}, "hostnames": hosts});
    world.route("exact", 2, tls(&["a.example"]));
    world.route("wide", 1, tls(&["*.example"]));
    world.route("wider", 0, tls(&["*.b.example"]));
    let mut younger = tls(&["a.example"]);
    younger["object"]["name"] = json!("younger");
    world.route("younger", 3, younger);
    let tcp = json!({"object": {"kind": "TCPRoute", "namespace": "shop", "name": "tcp"}});
    let taken = |world: &World, name: Option<&str>| {
        let table = world.snapshot().listeners.values().next().expect("one").routes.clone();
        table.opaque(name).map_or_else(|| "-".into(), |matched| matched.rule.route.name.clone())
    };
    for (name, wanted, with_tcp) in [
        (Some("a.example"), "a.example", "a.example"),
        (Some("x.b.example"), "*.b.example", "*.b.example"),
        (Some("c.example"), "*.example", "*.example"),
        (Some("example"), "-", "tcp"),
        (None, "-", "tcp"),
    ] {
        assert_eq!(taken(&world, name), wanted, "{name:?}");
        let mut both = world.clone();
        both.route("tcp", 0, tcp.clone());
        assert_eq!(taken(&both, name), with_tcp, "{name:?} with a TCPRoute");
    }
}

#[test]
fn a_consumers_routes_hold_instead_of_the_producers() {
    let mut world = World::default();
    world.backend("orders", json!({}), json!([]));
    let at = |namespace: &str, path: &str| {
        json!({"object": {"kind": "HTTPRoute", "namespace": namespace, "name": namespace}, "parents": ["Backend/shop/orders#80"],
            "rules": [{"matches": [{"path": {"prefix": path}}], "backends": [{"backend": "Backend/shop/orders#80", "weight": 1}]}]})
    };
    world.route("producer", 0, at("shop", "/"));
    let taken = |world: &World, url: &str| {
        let routes = world.snapshot().destinations[&"Backend/shop/orders#80".parse().expect("a key")].routes.clone();
        routes.find(&Facts::get(url).exchange()).map_or_else(|| "-".into(), |matched| matched.rule.route.namespace.clone())
    };
    assert_eq!(taken(&world, "h/any"), "shop");
    let mut consumed = world.clone();
    consumed.core("Route/other/HTTPRoute.consumer", at("other", "/mine"));
    assert_eq!(taken(&consumed, "h/mine"), "other");
    assert_eq!(taken(&consumed, "h/any"), "-", "the producer's rules are not behind it");
}
