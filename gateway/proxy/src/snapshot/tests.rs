//! Rules by weight, listeners of a socket, and the sequence of decisions.

mod pods;

use super::decide::{self, Arrival, ArrivalTls, Next};
use super::fixture::{Dice, Facts, World, gateway, key, service};
use super::*;
use selvage_config::resource::listener::Bind;
use selvage_policy::list::Purpose;
use selvage_policy::{Reason, SpiffeId};
use serde_json::{Value, json};
use std::collections::HashMap;

const EDGE: &str = "127.0.0.9:10080";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn plain() -> Arrival<'static> {
    Arrival { bind: Bind::Bound(address(EDGE)), destination: address(EDGE), tls: None }
}

fn orders_at(port: u16) -> Value {
    json!([{"address": format!("127.0.0.1:{port}")}])
}

/// An edge with one route to one backend without a sidecar.
fn edge() -> World {
    let mut world = World::default();
    world.listener("http", json!({})).route("r", 0, json!({})).backend("orders", json!({}), orders_at(9000));
    world
}

fn deny_all() -> Value {
    json!({"rules": [{"name": "all", "action": "Deny"}]})
}

fn next(world: &World, url: &str) -> Result<Next, Reason> {
    let facts = Facts::get(url);
    decide::request(&world.compile().0, plain(), &facts.exchange(), Purpose::Live).next.map_err(|denial| denial.reason)
}

#[test]
fn weights_are_exact_shares() {
    let mut world = edge();
    world.backend("b", json!({}), json!([])).backend("c", json!({}), json!([]));
    let to = |name: &str, weight: u32| json!({"backend": format!("Backend/shop/{name}#80"), "weight": weight});
    world.route("r", 0, json!({"rules": [{"backends": [to("orders", 1), to("b", 0), to("c", 3)]}]}));
    let snapshot = world.snapshot();
    let rule = snapshot.listeners[&key("Listener/shop/public#http")].routes.find(&Facts::get("h/").exchange()).expect("matches").rule;
    let mut counts: HashMap<String, u32> = HashMap::new();
    for part in 0..1000u64 {
        let random = u64::MAX / 1000 * part + u64::MAX / 2000;
        let chosen = rule.backend(random).expect("a backend").backend.as_ref().expect("exists").key.name.clone();
        *counts.entry(chosen).or_default() += 1;
    }
    assert_eq!(counts, HashMap::from([("orders#80".to_string(), 250), ("c#80".to_string(), 750)]));
    for (random, wanted) in [(0, "orders#80"), (u64::MAX, "c#80"), (u64::MAX / 4, "orders#80"), (u64::MAX / 4 + 1, "c#80")] {
        assert_eq!(rule.backend(random).expect("one").backend.as_ref().expect("exists").key.name, wanted);
    }
}

#[test]
fn a_share_without_backend_is_invalid_and_no_share_goes_elsewhere() {
    let absent = json!({"backend": "Backend/shop/absent#80", "weight": 1});
    let orders = |weight: u32| json!({"backend": "Backend/shop/orders#80", "weight": weight});
    let unresolved = json!({"backend": "Backend/shop/orders#80", "weight": 1, "filters": [{"unresolved": "ConfigMap/x"}]});
    for (what, backends, low, high) in [
        ("half is absent", json!([absent, orders(1)]), false, true),
        ("unresolved reference", json!([{"weight": 1}, orders(1)]), false, true),
        ("none at all", json!([]), false, false),
        ("all weights are zero", json!([orders(0), orders(0)]), false, false),
        ("a filter of the backend does not resolve", json!([unresolved, orders(1)]), false, true),
    ] {
        let mut world = edge();
        world.route("r", 0, json!({"rules": [{"backends": backends}]}));
        let snapshot = world.snapshot();
        let rule = snapshot.listeners[&key("Listener/shop/public#http")].routes.find(&Facts::get("h/").exchange()).expect("matches").rule;
        for (random, wanted) in [(0, low), (u64::MAX, high)] {
            let found = rule.backend(random).map(|_| ()).map_err(|denial| denial.reason);
            assert_eq!(found, if wanted { Ok(()) } else { Err(Reason::InvalidBackend) }, "{what}");
        }
    }
    assert_eq!(Reason::InvalidBackend.status(), 500);
}

#[test]
fn the_most_specific_listener_of_a_socket_takes_the_request() {
    let mut world = World::default();
    for (name, hostname) in
        [("any", None), ("wild", Some("*.example.com")), ("deep", Some("*.a.example.com")), ("one", Some("x.example.com"))]
    {
        world.listener(name, hostname.map_or(json!({}), |hostname| json!({"hostname": hostname})));
    }
    let snapshot = world.snapshot();
    let bind = Bind::Bound(address(EDGE));
    for (host, wanted) in
        [("x.example.com", "one"), ("y.example.com", "wild"), ("y.a.example.com", "deep"), ("example.com", "any"), ("h", "any")]
    {
        let found = snapshot.listener(bind, address(EDGE), host).expect("one");
        assert_eq!(found.key.name, format!("public#{wanted}"), "{host}");
        assert_eq!(snapshot.accept(bind, address(EDGE), Some(host)).expect("one").key, found.key);
    }
    assert_eq!(snapshot.accept(bind, address(EDGE), None).expect("one").key.name, "public#any");
    assert!(snapshot.listener(Bind::Captured(15306), address(EDGE), "h").is_none());
}

#[test]
fn the_narrowest_destination_takes_a_captured_connection_whatever_its_host() {
    let mut world = World::default();
    let captured =
        |destination: Value, hostname: Value| json!({"bind": {"captured": 15306}, "destination": destination, "hostname": hostname});
    world.listener("all", captured(json!({}), Value::Null));
    world.listener("port", captured(json!({"port": 80}), Value::Null));
    world.listener("address", captured(json!({"addresses": ["10.0.0.1"]}), Value::Null));
    world.listener("both", captured(json!({"addresses": ["10.0.0.1"], "port": 80}), json!("x.example.com")));
    let snapshot = world.snapshot();
    for (destination, host, wanted) in [
        ("10.0.0.2:81", "h", Some("all")),
        ("10.0.0.2:80", "h", Some("port")),
        ("10.0.0.1:81", "h", Some("address")),
        ("10.0.0.1:80", "x.example.com", Some("both")),
        ("10.0.0.1:80", "h", None),
    ] {
        let found = snapshot.listener(Bind::Captured(15306), address(destination), host).map(|listener| listener.key.name.clone());
        assert_eq!(found, wanted.map(|name| format!("public#{name}")), "{destination} {host}");
    }
}

#[test]
fn tls_of_one_host_does_not_serve_another() {
    let mut world = World::default();
    let https = |hostname: Value| json!({"protocol": "Https", "hostname": hostname, "certificates": ["Certificate/shop/c"]});
    world
        .listener("a", https(json!("a.example.com")))
        .listener("wild", https(json!("*.example.com")))
        .listener("org", https(json!("b.example.org")));
    for (name, listener) in [("ra", "a"), ("rw", "wild"), ("ro", "org")] {
        world.route(name, 0, json!({"parents": [format!("Listener/shop/public#{listener}")]}));
    }
    world.backend("orders", json!({}), orders_at(9000));
    let snapshot = world.compile().0;
    for (server_name, accepted, host, wanted) in [
        (Some("a.example.com"), "a", "a.example.com", Ok(Next::Forward)),
        (Some("x.example.com"), "wild", "y.example.com", Ok(Next::Forward)),
        (Some("x.example.com"), "wild", "a.example.com", Err(Reason::Misdirected)),
        (Some("a.example.com"), "a", "x.example.com", Err(Reason::Misdirected)),
        (Some("a.example.com"), "a", "b.example.org", Err(Reason::Misdirected)),
        (Some("a.example.com"), "a", "nobody.net", Err(Reason::NoRoute)),
        // The configuration changed since the handshake: another listener is more specific now, or the name is served no more.
        (Some("a.example.com"), "wild", "a.example.com", Err(Reason::Misdirected)),
        (Some("gone.example.net"), "a", "a.example.com", Err(Reason::Misdirected)),
    ] {
        let listener = key(&format!("Listener/shop/public#{accepted}"));
        let arrival = Arrival { tls: Some(ArrivalTls { listener: &listener, server_name, peer: None }), ..plain() };
        let facts = Facts::get(&format!("{host}/"));
        let decided = decide::request(&snapshot, arrival, &facts.exchange(), Purpose::Live);
        assert_eq!(decided.next.map_err(|denial| denial.reason), wanted, "{server_name:?} {host}");
    }
    let facts = Facts::get("a.example.com/");
    let decided = decide::request(&snapshot, plain(), &facts.exchange(), Purpose::Live);
    assert_eq!(decided.next.map_err(|denial| denial.reason), Err(Reason::Misdirected), "a listener for TLS serves nothing plain");
}

/// The inbound side of a workload.
fn inbound(mode: &str) -> World {
    let mut world = World::default();
    world.core(
        "Listener/shop/orders-0#in:8080",
        json!({
            "bind": {"bound": "127.0.0.9:8080"}, "port": 8080, "protocol": "Http", "mesh": mode, "clients": "Fellows",
            "forward": {"local": "127.0.0.10:8080"}, "chain": [service("orders")],
            "identity": "spiffe://cluster.local/ns/shop/sa/orders",
        }),
    );
    world
}

#[test]
fn a_strict_listener_serves_mesh_callers_only() {
    let listener = key("Listener/shop/orders-0#in:8080");
    let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/web".parse().expect("well formed");
    let bind = Bind::Bound(address("127.0.0.9:8080"));
    let local = Ok(Next::Local(address("127.0.0.10:8080")));
    for (mode, meshed, wanted) in
        [("Strict", true, local.clone()), ("Strict", false, Err(Reason::MeshRequired)), ("Permissive", false, local)]
    {
        let snapshot = inbound(mode).snapshot();
        // Host is the application's business here: it is none of ours.
        let facts = Facts::get("whatever.example/");
        let name = "orders.shop.sa.cluster.local";
        let tls = meshed.then_some(ArrivalTls { listener: &listener, server_name: Some(name), peer: Some(&peer) });
        let arrival = Arrival { bind, destination: address("127.0.0.9:8080"), tls };
        let decided = decide::request(&snapshot, arrival, &facts.exchange(), Purpose::Live);
        assert_eq!(decided.next.map_err(|denial| denial.reason), wanted, "{mode} {meshed}");
    }
}

#[test]
fn guards_run_where_the_chain_says() {
    for (what, target, url, wanted) in [
        ("nothing", None, "h/", Ok(Next::Forward)),
        ("the Gateway", Some(gateway("public")), "h/", Err(Reason::AuthorizationDenied)),
        ("another Gateway", Some(gateway("other")), "h/", Ok(Next::Forward)),
        ("the listener", Some(gateway("public").section("http")), "h/", Err(Reason::AuthorizationDenied)),
        ("another listener", Some(gateway("public").section("other")), "h/", Ok(Next::Forward)),
        ("the route", Some(route_target("r")), "h/", Err(Reason::AuthorizationDenied)),
        ("its rule", Some(route_target("r").section("one")), "h/a", Err(Reason::AuthorizationDenied)),
        ("its other rule", Some(route_target("r").section("one")), "h/b", Ok(Next::Forward)),
        ("the Service is guarded at the target", Some(service("orders")), "h/", Ok(Next::Forward)),
        ("what no route matches tells a refused caller nothing", Some(gateway("public")), "x/", Err(Reason::AuthorizationDenied)),
        ("a route's guards do not hold outside it", Some(route_target("r")), "x/", Err(Reason::NoRoute)),
    ] {
        let mut world = edge();
        let rules = json!([{"name": "one", "matches": [{"path": {"prefix": "/a"}}], "backends": []}, {"name": "two"}]);
        world.route("r", 0, json!({"hostnames": ["h"], "rules": rules}));
        if let Some(target) = target {
            world.policy("AuthorizationPolicy", "deny", target, deny_all());
        }
        assert_eq!(next(&world, url), wanted, "{what}");
    }
}

fn route_target(name: &str) -> selvage_policy::Target {
    selvage_policy::Target::new(selvage_policy::TargetKind::HTTPRoute, "shop", name)
}

#[test]
fn the_targets_guards_run_on_the_rewritten_request_and_see_the_proxy_as_caller() {
    let mut world = edge();
    let identity = "spiffe://cluster.local/ns/shop/sa/public-selvage";
    world.listener("http", json!({"identity": identity}));
    let rules = json!([{"name": "gateway", "action": "Allow", "from": [{"principal": identity}], "to": [{"paths": ["/inner/*"], "ports": [9000]}]}]);
    world.policy("AuthorizationPolicy", "callers", service("orders"), json!({"rules": rules}));
    let snapshot = world.snapshot();
    let listener = &snapshot.listeners[&key("Listener/shop/public#http")];
    let backend = &snapshot.destinations[&key("Backend/shop/orders#80")].backend;
    for (path, port, wanted) in [
        ("h/inner/1", 9000, None),
        ("h/outer/1", 9000, Some(Reason::AuthorizationDenied)),
        ("h/inner/1", 9001, Some(Reason::AuthorizationDenied)),
    ] {
        let facts = Facts::get(path);
        let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
        let decision = decide::destination(listener, backend, endpoint, &facts.exchange(), Purpose::Live, &[]);
        assert_eq!(decision.denial.map(|denial| denial.reason), wanted, "{path} {port}");
    }
}

#[test]
fn ports_in_rules_are_the_ones_the_outside_knows() {
    let mut world = edge();
    let deny = |port: u16| json!({"rules": [{"name": "port", "action": "Deny", "to": [{"ports": [port]}]}]});
    world.policy("AuthorizationPolicy", "deny", gateway("public"), deny(10080));
    assert_eq!(next(&world, "h/"), Ok(Next::Forward), "the bound port is nobody's business");
    world.policy("AuthorizationPolicy", "deny", gateway("public"), deny(80));
    assert_eq!(next(&world, "h/"), Err(Reason::AuthorizationDenied));
}

#[test]
fn a_redirect_is_answered_after_the_guards_and_a_filter_that_does_not_resolve_is_never_skipped() {
    let redirect = json!({"redirect": {"scheme": "https", "status": 301}});
    let mut world = edge();
    world.route("r", 0, json!({"rules": [{"filters": [redirect]}]}));
    let Ok(Next::Redirect(found)) = next(&world, "h/x?q=1") else { panic!("a redirect") };
    assert_eq!((found.status, found.location.as_str()), (301, "https://h/x?q=1"));
    world.policy("AuthorizationPolicy", "deny", gateway("public"), deny_all());
    assert_eq!(next(&world, "h/x"), Err(Reason::AuthorizationDenied));
    world.remove("AuthorizationPolicy/shop/deny");
    world.route("r", 0, json!({"rules": [{"filters": [redirect, {"unresolved": "ConfigMap/x"}]}]}));
    assert_eq!(next(&world, "h/x"), Err(Reason::InvalidBackend));
}

#[test]
fn listeners_that_forward_to_services_use_their_routes_else_their_endpoints() {
    let mut world = World::default();
    world.backend("orders", json!({"addresses": ["10.0.0.1"]}), orders_at(9000));
    let outbound = |forward: Value| json!({"clients": "Application", "forward": forward, "chain": [], "bind": {"captured": 15301}});
    world.listener("direct", outbound(json!({"backend": "Backend/shop/orders#80"})));
    let at = |world: &World, destination: &str, url: &str| {
        let facts = Facts::get(url);
        let arrival = Arrival { bind: Bind::Captured(15301), destination: address(destination), tls: None };
        let decided = decide::request(&world.compile().0, arrival, &facts.exchange(), Purpose::Live);
        (decided.matched.map(|matched| matched.rule.route.name.clone()), decided.next.map_err(|denial| denial.reason))
    };
    assert_eq!(at(&world, "10.0.0.1:80", "any/"), (Some("orders#80".into()), Ok(Next::Forward)));
    world.route("mesh", 0, json!({"parents": ["Backend/shop/orders#80"], "rules": [{"matches": [{"path": {"prefix": "/a"}}]}]}));
    assert_eq!(at(&world, "10.0.0.1:80", "any/a"), (Some("mesh".into()), Ok(Next::Forward)));
    assert_eq!(at(&world, "10.0.0.1:80", "any/b"), (None, Err(Reason::NoRoute)), "routes that do not match are no detour to the endpoints");
    world.listener("direct", outbound(json!("destination")));
    assert_eq!(at(&world, "10.0.0.1:80", "any/a"), (Some("mesh".into()), Ok(Next::Forward)));
    assert_eq!(at(&world, "10.9.9.9:80", "any/a"), (None, Ok(Next::PassThrough(address("10.9.9.9:80")))));
    for own in ["127.0.0.1:80", "10.9.9.9:15301", "0.0.0.0:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(at(&world, own, "any/a"), (None, Err(Reason::InvalidBackend)), "{own}: never to this host nor in a circle");
    }
    world.listener("direct", outbound(json!({"backend": "Backend/shop/absent#80"})));
    assert_eq!(at(&world, "10.0.0.1:80", "any/a"), (None, Err(Reason::InvalidBackend)));
}

#[test]
fn a_host_nobody_serves_finds_no_route() {
    let mut world = edge();
    world.listener("http", json!({"hostname": "x.example.com"}));
    assert_eq!(next(&world, "y.example.com/"), Err(Reason::NoRoute));
    assert_eq!(next(&world, "x.example.com/"), Ok(Next::Forward));
}

#[test]
fn random_draws_stay_within_the_rule() {
    let mut world = edge();
    world.backend("b", json!({}), json!([]));
    let to = |name: &str, weight: u32| json!({"backend": format!("Backend/shop/{name}#80"), "weight": weight});
    world.route("r", 0, json!({"rules": [{"backends": [to("orders", 1_000_000), to("b", u32::MAX)]}]}));
    let snapshot = world.snapshot();
    let rule = snapshot.listeners[&key("Listener/shop/public#http")].routes.find(&Facts::get("h/").exchange()).expect("matches").rule;
    let mut dice = Dice(5);
    assert!((0..5000).all(|_| rule.backend(dice.roll()).is_ok()));
}
