//! What one proxy says of a request, and what it hands to the next.

use super::*;
use crate::snapshot::fixture::{Facts, World, gateway, key, service};
use selvage_policy::list::Outcome;
use serde_json::json;

const EDGE_ID: &str = "spiffe://cluster.local/ns/shop/sa/public-selvage";
const ORDERS_ID: &str = "spiffe://cluster.local/ns/shop/sa/orders";

fn id(text: &str) -> SpiffeId {
    text.parse().expect("well formed")
}

/// An edge that sends `/api/…` to `orders`, behind a sidecar or not.
fn edge(sidecar: bool) -> World {
    let mut world = World::default();
    world.listener("http", json!({"identity": EDGE_ID}));
    let filters = json!([
        {"rewrite": {"path": {"prefix": "/"}, "hostname": "orders.shop"}},
        {"requestHeaders": {"set": [["x-by", "edge"]]}},
    ]);
    let backends = json!([{"backend": "Backend/shop/orders#80", "weight": 3}, {"backend": "Backend/shop/old#80", "weight": 1}]);
    let rule = json!({"name": "api", "matches": [{"path": {"prefix": "/api"}}], "filters": filters, "backends": backends, "requestTimeoutMs": 1500});
    world.route("r", 0, json!({"rules": [rule]}));
    let mut endpoint = json!({"address": "127.0.0.1:9000", "workload": "Pod/shop/orders-0"});
    if sidecar {
        endpoint["identity"] = json!(ORDERS_ID);
    }
    world.backend("orders", json!({}), json!([endpoint])).backend("old", json!({}), json!([]));
    world
}

fn get(url: &str) -> Described {
    let (host, path) = url.split_at(url.find('/').expect("a path"));
    let http = DescribedHttp { method: "GET".into(), scheme: "http".into(), host: host.into(), path: path.into(), headers: Vec::new() };
    Described { source: [192, 0, 2, 7].into(), principal: None, http: Some(http), random: 0 }
}

fn ask(world: &World, described: &Described) -> Explanation {
    explain(&world.compile().0, &At::Listener(key("Listener/shop/public#http")), described, moment())
}

fn moment() -> Moment {
    Moment { now: Duration::from_secs(1), wall: SystemTime::UNIX_EPOCH }
}

fn refused(explanation: &Explanation) -> (&str, u16, Option<String>) {
    match &explanation.verdict {
        Verdict::Denied { reason, status, policy, .. } => (reason, *status, policy.as_ref().map(ToString::to_string)),
        Verdict::Allowed => ("", 0, None),
    }
}

#[test]
fn every_step_is_named() {
    let mut world = edge(true);
    world.policy(
        "AuthorizationPolicy",
        "readers",
        gateway("public"),
        json!({"rules": [{"name": "reads", "action": "Allow", "to": [{"methods": ["GET"]}]}]}),
    );
    let explanation = ask(&world, &get("Shop.example.com:80/%61pi/./orders?x=1"));
    assert_eq!(explanation.verdict, Verdict::Allowed);
    assert_eq!(explanation.listener, Some(key("Listener/shop/public#http")));
    assert_eq!(explanation.host.as_deref(), Some("shop.example.com"));
    assert_eq!(explanation.path.as_deref(), Some("/api/orders"), "the canonical path");
    assert_eq!(explanation.route, Some(key("HTTPRoute/shop/r")));
    assert_eq!(explanation.rule.as_deref(), Some("api"));
    assert_eq!(explanation.guards.len(), 1);
    assert_eq!((explanation.guards[0].outcome, explanation.guards[0].rule.as_deref()), (Outcome::Allowed, Some("reads")));
    assert_eq!(explanation.backends.iter().map(|share| share.weight).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(explanation.backend, Some(key("Backend/shop/orders#80")));
    assert_eq!(explanation.endpoints[0].identity, Some(id(ORDERS_ID)));
    assert_eq!(explanation.settings.as_ref().and_then(|settings| settings.request_timeout_ms), Some(1500));
    let next = explanation.next.as_ref().expect("another hop");
    assert_eq!((next.identity.clone(), next.request.principal.clone()), (Some(id(ORDERS_ID)), Some(id(EDGE_ID))));
    let http = next.request.http.as_ref().expect("a request");
    assert_eq!((http.host.as_str(), http.path.as_str()), ("orders.shop", "/orders?x=1"), "as it was rewritten");
    let header = |name: &str| http.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(
        (header("x-by"), header("x-forwarded-for"), header("x-forwarded-host")),
        (Some("edge"), Some("192.0.2.7"), Some("shop.example.com:80"))
    );
    let written = serde_json::to_value(&explanation).expect("serializes");
    assert_eq!(written["verdict"], json!({"outcome": "Allowed"}));
    assert_eq!(written["next"]["request"]["http"]["path"], "/orders?x=1");
}

#[test]
fn refusals_name_reason_status_and_policy() {
    let deny = || json!({"rules": [{"name": "no", "action": "Deny", "to": [{"paths": ["/api/secret/*"]}]}]});
    let mut world = edge(true);
    world.policy("AuthorizationPolicy", "secret", gateway("public"), deny());
    for (url, reason, status, policy) in [
        ("h/api/secret/1", "authorization_denied", 403, Some("AuthorizationPolicy/shop/secret")),
        ("h/api/x/../secret/1", "authorization_denied", 403, Some("AuthorizationPolicy/shop/secret")),
        ("h/other", "no_route", 404, None),
        ("h/api/%2fx", "bad_request", 400, None),
        ("h h/api", "bad_request", 400, None),
    ] {
        let explanation = ask(&world, &get(url));
        assert_eq!(refused(&explanation), (reason, status, policy.map(Into::into)), "{url}");
        assert!(explanation.next.is_none());
    }
    assert_eq!(refused(&ask(&world, &Described { random: u64::MAX, ..get("h/api/x") })), ("no_endpoint", 503, None));
    let nowhere = explain(&world.compile().0, &At::Listener(key("Listener/shop/public#none")), &get("h/"), moment());
    assert_eq!(refused(&nowhere), ("no_route", 404, None));
}

#[test]
fn the_targets_guards_are_run_here_only_where_nobody_else_does() {
    let rules = json!([{"name": "gateway", "action": "Allow", "from": [{"principal": EDGE_ID}], "to": [{"paths": ["/orders"]}]}]);
    for (sidecar, url, steps, reason) in [
        (true, "h/api/orders", 0, ""),
        (true, "h/api/other", 0, ""),
        (false, "h/api/orders", 1, ""),
        (false, "h/api/other", 1, "authorization_denied"),
    ] {
        let mut world = edge(sidecar);
        world.policy("AuthorizationPolicy", "callers", service("orders"), json!({"rules": rules}));
        let explanation = ask(&world, &get(url));
        assert_eq!((explanation.target_guards.len(), refused(&explanation).0), (steps, reason), "{sidecar} {url}");
    }
}

/// The sidecar of `orders`, whose guards want the edge or a reader as the caller.
fn sidecar(assertors: serde_json::Value) -> World {
    let mut world = World::default();
    world.core(
        "Listener/shop/orders-0#in:9000",
        json!({
            "bind": {"bound": "127.0.0.1:9000"}, "port": 9000, "protocol": "Http", "mesh": "Strict", "clients": "Fellows",
            "forward": {"local": "127.0.0.2:9000"}, "chain": [service("orders")], "identity": ORDERS_ID, "assertors": assertors,
        }),
    );
    let from = json!([{"principal": EDGE_ID, "ipBlocks": ["192.0.2.0/24"]}]);
    world.policy(
        "AuthorizationPolicy",
        "callers",
        service("orders"),
        json!({"rules": [{"name": "edge", "action": "Allow", "from": from}]}),
    );
    world
}

#[test]
fn the_next_hop_is_explained_from_what_this_one_sends() {
    let first = ask(&edge(true), &get("h/api/orders"));
    let hop = first.next.expect("another hop");
    let at = At::Address(Bind::Bound(hop.address), hop.address);
    let second = explain(&sidecar(json!([EDGE_ID])).compile().0, &at, &hop.request, moment());
    assert_eq!(second.verdict, Verdict::Allowed, "{second:?}");
    assert_eq!((second.principal, second.source), (Some(id(EDGE_ID)), [192, 0, 2, 7].into()));
    let last = second.next.expect("the application");
    assert_eq!((last.address, last.identity), ("127.0.0.2:9000".parse().expect("an address"), None));

    let unbelieved = explain(&sidecar(json!([])).compile().0, &at, &hop.request, moment());
    assert_eq!(refused(&unbelieved).0, "authorization_denied", "a proxy that is no assertor is not believed about the client's address");
    let plain = Described { principal: None, ..hop.request };
    assert_eq!(refused(&explain(&sidecar(json!([EDGE_ID])).compile().0, &at, &plain, moment())).0, "mesh_required");
}

#[test]
fn headers_only_we_may_set_are_not_believed_from_outside() {
    let mut world = edge(true);
    let rules =
        json!([{"name": "forged", "action": "Deny", "when": "'x-forwarded-for' in request.headers || 'selvage-user' in request.headers"}]);
    world.policy("AuthorizationPolicy", "p", gateway("public"), json!({"rules": rules}));
    let mut described = get("h/api/orders");
    let http = described.http.as_mut().expect("http");
    http.headers =
        vec![("X-Forwarded-For".into(), "10.0.0.1".into()), ("selvage-user".into(), "root".into()), ("x-kept".into(), "1".into())];
    let explanation = ask(&world, &described);
    assert_eq!(explanation.verdict, Verdict::Allowed, "{explanation:?}");
    assert_eq!(explanation.source, IpAddr::from([192, 0, 2, 7]));
    let sent = explanation.next.and_then(|next| next.request.http).expect("a request").headers;
    assert!(sent.iter().any(|(name, _)| name == "x-kept") && !sent.iter().any(|(name, _)| name == "selvage-user"), "{sent:?}");
}

#[test]
fn the_host_is_seen_as_a_header_and_given_once() {
    let mut world = edge(true);
    let rules = json!([{"name": "host", "action": "Allow", "when": "request.headers['host'] == 'h:80'"}]);
    world.policy("AuthorizationPolicy", "p", gateway("public"), json!({"rules": rules}));
    let explanation = ask(&world, &get("h:80/api/orders"));
    assert_eq!(explanation.verdict, Verdict::Allowed);
    let sent = explanation.next.and_then(|next| next.request.http).expect("a request").headers;
    assert!(!sent.iter().any(|(name, _)| name == "host"), "{sent:?}");
    let mut twice = get("h/api/orders");
    twice.http.as_mut().expect("http").headers = vec![("Host".into(), "other".into())];
    assert_eq!(refused(&ask(&world, &twice)).0, "bad_request");
}

#[test]
fn redirects_and_https_listeners_are_explained() {
    let mut world = World::default();
    world.listener("http", json!({"protocol": "Https", "hostname": "a.example.com", "port": 443}));
    world.route("r", 0, json!({"rules": [{"filters": [{"redirect": {"hostname": "b.example.com", "status": 302}}]}]}));
    let secure = |url: &str| {
        let mut described = get(url);
        described.http.as_mut().expect("http").scheme = "https".into();
        described
    };
    let explanation = ask(&world, &secure("a.example.com/x"));
    assert_eq!(explanation.redirect.map(|to| to.location).as_deref(), Some("https://b.example.com/x"));
    assert_eq!(refused(&ask(&world, &get("a.example.com/x"))).0, "misdirected", "plain HTTP on a TLS listener");
    assert_eq!(refused(&ask(&world, &secure("c.example.com/x"))).0, "no_route");
}

#[test]
fn explaining_counts_nothing_and_agrees_with_live_traffic() {
    let mut world = edge(true);
    world.policy("RateLimitPolicy", "p", gateway("public"), json!({"limits": [{"name": "l", "requests": 1, "per": "1h"}]}));
    let snapshot = world.snapshot();
    let at = At::Listener(key("Listener/shop/public#http"));
    for _ in 0..5 {
        assert_eq!(explain(&snapshot, &at, &get("h/api/x"), moment()).verdict, Verdict::Allowed);
    }
    let facts = Facts::get("h/api/x");
    let edge = "127.0.0.9:10080".parse().expect("an address");
    let arrival = Arrival { bind: Bind::Bound(edge), destination: edge, tls: None };
    let live = |purpose| decide::request(&snapshot, arrival, &facts.exchange(), purpose).next.map_err(|denial| denial.reason.as_str());
    assert_eq!(live(Purpose::Live), Ok(Next::Forward));
    assert_eq!(live(Purpose::Live), Err("rate_limited"));
    let late = Moment { now: facts.exchange().now, ..moment() };
    assert_eq!(refused(&explain(&snapshot, &at, &get("h/api/x"), late)).0, "rate_limited", "and it says so without taking anything");
}

#[test]
fn an_opaque_connection_is_explained_by_its_tcp_route() {
    let mut world = World::default();
    world.listener("http", json!({"protocol": "Tcp", "identity": EDGE_ID}));
    world.route("t", 0, json!({"object": {"kind": "TCPRoute", "namespace": "shop", "name": "t"}}));
    world.backend("orders", json!({}), json!([{"address": "127.0.0.1:9000", "identity": ORDERS_ID}]));
    let explanation = ask(&world, &Described { http: None, ..get("h/") });
    assert_eq!((explanation.verdict, explanation.route), (Verdict::Allowed, Some(key("TCPRoute/shop/t"))));
    assert!(explanation.next.expect("a hop").request.http.is_none());
}

#[test]
fn listeners_of_bytes_are_explained_as_they_are_served() {
    let mut world = World::default();
    let tcp_route = |world: &mut World, kind: &str, name: &str, extra: serde_json::Value| {
        let mut spec = json!({"object": {"kind": kind, "namespace": "shop", "name": name}, "rules": [{"backends": [{"backend": "Backend/shop/orders#80", "weight": 1}]}]});
        crate::snapshot::fixture::merge(&mut spec, extra);
        world.core(&format!("Route/shop/{kind}.{name}"), spec);
    };
    let on = |port: u16, protocol: &str| json!({"bind": {"bound": format!("127.0.0.9:{port}")}, "port": port, "protocol": protocol, "identity": EDGE_ID});
    world.listener("passed", on(1, "Passthrough")).listener("ended", on(2, "Tls")).listener("tcp", on(3, "Tcp"));
    for (name, listener) in [("passed", "passed"), ("ended", "ended")] {
        let parents = json!({"parents": [format!("Listener/shop/public#{listener}")], "hostnames": ["a.example"]});
        tcp_route(&mut world, "TLSRoute", name, parents);
    }
    tcp_route(&mut world, "TCPRoute", "tcp", json!({"parents": ["Listener/shop/public#tcp"]}));
    // On bytes nothing is known of HTTP, and what is unknown matches where it denies.
    let on_paths =
        json!({"rules": [{"name": "no", "action": "Deny", "to": [{"paths": ["/secret"]}], "from": [{"ipBlocks": ["192.0.2.66/32"]}]}]});
    world.policy("AuthorizationPolicy", "far", gateway("public"), on_paths);
    world.backend("orders", json!({}), json!([{"address": "127.0.0.1:9000", "identity": ORDERS_ID}]));
    world.listener("out", json!({"port": 0, "protocol": "Detect", "clients": "Application", "forward": "destination", "bind": {"captured": 15301}, "identity": EDGE_ID}));
    world.backend("db", json!({"protocol": "Tcp", "addresses": ["10.0.0.7"]}), json!([{"address": "10.1.0.7:5432"}]));
    let snapshot = world.compile().0;
    let bound = |port: u16| (Bind::Bound(([127, 0, 0, 9], port).into()), SocketAddr::from(([127, 0, 0, 9], port)));
    let captured = (Bind::Captured(15301), SocketAddr::from(([10, 0, 0, 7], 80)));
    for ((bind, destination), scheme, listener, secure, route, reason) in [
        (bound(1), "https", "passed", true, Some("TLSRoute/shop/passed"), None),
        (bound(2), "https", "ended", true, Some("TLSRoute/shop/ended"), None),
        (bound(3), "http", "tcp", false, Some("TCPRoute/shop/tcp"), None),
        (captured, "http", "out", false, Some("Backend/shop/db#80"), None),
        // No TLS to a listener of TLS.
        (bound(1), "http", "passed", false, None, Some("misdirected")),
    ] {
        for (source, denied) in [([192, 0, 2, 7], false), ([192, 0, 2, 66], true)] {
            // As the accept loop has it: the name of the hello, and nothing of HTTP.
            let at = key(&format!("Listener/shop/public#{listener}"));
            let tls = secure.then_some(ArrivalTls { listener: &at, server_name: Some("a.example"), peer: None });
            let arrival = Arrival { bind, destination, tls };
            let facts = Facts::get("a.example/");
            let source = Source { address: source.into(), principal: None };
            let exchange = Exchange { source: &source, http: None, ..facts.exchange() };
            let live = decide::request(&snapshot, arrival, &exchange, Purpose::Live);

            // What is no request at all is bytes like any others.
            let mut described = get("a.example/%zz");
            described.source = source.address;
            if let Some(http) = &mut described.http {
                http.scheme = scheme.into();
            }
            let explained = explain(&snapshot, &At::Address(bind, destination), &described, moment());
            let said = live.next.as_ref().err().map_or("", |denial| denial.reason.as_str());
            assert_eq!(refused(&explained).0, said, "{listener} {scheme}");
            assert_eq!(said, reason.unwrap_or(if denied { "authorization_denied" } else { "" }), "{listener} {scheme}");
            assert_eq!(explained.route, live.matched.map(|matched| (*matched.rule.route).clone()), "{listener} {scheme}");
            assert_eq!(explained.route.map(|route| route.to_string()).as_deref(), route, "{listener} {scheme}");
            assert_eq!(explained.path, None);
            assert!(explained.next.is_none_or(|hop| hop.request.http.is_none()));
        }
    }
}

#[test]
fn a_pod_called_by_its_address_is_explained_as_it_is_served() {
    let mut world = World::default();
    world.listener(
        "out",
        json!({"port": 0, "clients": "Application", "forward": "destination", "chain": [], "bind": {"captured": 15301}, "identity": EDGE_ID}),
    );
    world.backend("orders", json!({}), json!([{"address": "10.1.0.3:8080"}, {"address": "10.1.0.4:8080", "identity": ORDERS_ID}]));
    world.backend("twin", json!({}), json!([{"address": "10.1.0.3:8080"}]));
    let deny = json!({"rules": [{"name": "no", "action": "Deny", "to": [{"paths": ["/secret"]}]}]});
    world.policy("AuthorizationPolicy", "deny", service("twin"), deny);
    let snapshot = world.snapshot();
    let asked = |to: &str, url: &str| {
        let at = At::Address(Bind::Captured(15301), to.parse().expect("an address"));
        explain(&snapshot, &at, &get(url), moment())
    };
    let meshed = asked("10.1.0.4:8080", "any/secret");
    assert_eq!((&meshed.verdict, &meshed.service), (&Verdict::Allowed, &Some(key("Backend/shop/orders#80"))));
    assert_eq!(meshed.endpoints.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["10.1.0.4:8080"], "that pod and no other");
    let hop = meshed.next.expect("a hop");
    assert_eq!(
        (hop.address.to_string().as_str(), hop.identity, hop.request.principal),
        ("10.1.0.4:8080", Some(id(ORDERS_ID)), Some(id(EDGE_ID)))
    );
    assert_eq!(asked("10.1.0.3:8080", "any/open").verdict, Verdict::Allowed);
    let refusal = asked("10.1.0.3:8080", "any/secret");
    assert_eq!(refused(&refusal), ("authorization_denied", 403, Some("AuthorizationPolicy/shop/deny".into())));
    // By the address of another Service of that pod too.
    let mut world = edge(false);
    world.backend("twin", json!({}), json!([{"address": "127.0.0.1:9000"}]));
    world.policy("AuthorizationPolicy", "deny", service("twin"), json!({"rules": [{"name": "no", "action": "Deny"}]}));
    assert_eq!(refused(&ask(&world, &get("h/api/x"))).0, "authorization_denied");
    assert_eq!(
        asked("10.1.0.9:8080", "any/secret").next.expect("a hop").address.to_string(),
        "10.1.0.9:8080",
        "unknown, so passed through"
    );
}

#[test]
fn a_port_that_nobody_declared_is_explained_as_it_is_served() {
    let mut world = World::default();
    world.listener("any", json!({"port": 0, "clients": "Fellows", "forward": {"own": "10.1.0.2"}, "bind": {"captured": 15306}}));
    let snapshot = world.snapshot();
    let asked = |to: &str| explain(&snapshot, &At::Address(Bind::Captured(15306), to.parse().expect("an address")), &get("any/"), moment());
    assert_eq!(asked("10.1.0.2:7000").next.expect("a hop").address.to_string(), "10.1.0.2:7000");
    assert_eq!(refused(&asked("10.1.0.2:15390")).0, "invalid_backend");
}
