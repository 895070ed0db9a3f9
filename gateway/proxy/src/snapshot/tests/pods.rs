//! Pods called by their own addresses, and what comes in for a pod on ports that nobody declared.

use super::*;
use crate::snapshot::fixture::Facts;
use selvage_policy::{Target, TargetKind};

const OUTBOUND: Bind = Bind::Captured(15301);
const INBOUND: Bind = Bind::Captured(15306);
const STOCK: &str = "spiffe://cluster.local/ns/shop/sa/stock";

/// Captured outbound of a pod, a Service with two pods, one of them with a sidecar, and a headless one.
fn outbound() -> World {
    let mut world = World::default();
    world.listener("out", json!({"port": 0, "clients": "Application", "forward": "destination", "chain": [], "bind": {"captured": 15301}}));
    let stock = json!([{"address": "10.1.0.4:8080", "identity": STOCK}, {"address": "10.1.0.5:8080"}]);
    world.backend("stock", json!({"addresses": ["10.0.0.1"]}), stock);
    world.backend("replicas", json!({"port": 7000}), json!([{"address": "10.1.0.4:7000", "identity": STOCK}]));
    world
}

fn decided(snapshot: &Snapshot, bind: Bind, to: &str, url: &str) -> decide::Decided {
    let facts = Facts::get(url);
    let arrival = Arrival { bind, destination: address(to), tls: None };
    decide::request(snapshot, arrival, &facts.exchange(), Purpose::Live)
}

fn way(snapshot: &Snapshot, bind: Bind, to: &str, url: &str) -> (Option<String>, Result<Next, Reason>) {
    let decided = decided(snapshot, bind, to, url);
    (decided.matched.map(|matched| matched.rule.route.to_string()), decided.next.map_err(|denial| denial.reason))
}

#[test]
fn a_pod_that_is_called_by_its_address_gets_the_call_and_no_route_takes_it_elsewhere() {
    let mut world = outbound();
    let route =
        json!({"parents": ["Backend/shop/stock#80", "Backend/shop/replicas#80"], "rules": [{"matches": [{"path": {"prefix": "/a"}}]}]});
    world.route("mesh", 0, route);
    let snapshot = world.snapshot();
    let default = |service: &str| Some(format!("Backend/shop/{service}#80"));
    for (to, service) in [("10.1.0.4:8080", "stock"), ("10.1.0.5:8080", "stock"), ("10.1.0.4:7000", "replicas")] {
        for url in ["any/a", "any/b"] {
            assert_eq!(way(&snapshot, OUTBOUND, to, url), (default(service), Ok(Next::Pinned(address(to)))), "{to} {url}");
        }
    }
    // The Service's own address follows its routes, as ever.
    assert_eq!(way(&snapshot, OUTBOUND, "10.0.0.1:80", "any/a").1, Ok(Next::Forward));
    assert_eq!(way(&snapshot, OUTBOUND, "10.0.0.1:80", "any/b").1, Err(Reason::NoRoute));
    // What is no endpoint is nobody we know, whoever lives at the address.
    for unknown in ["10.1.0.4:8081", "10.1.0.6:8080"] {
        assert_eq!(way(&snapshot, OUTBOUND, unknown, "any/a"), (None, Ok(Next::PassThrough(address(unknown)))));
    }
}

#[test]
fn a_redirect_of_a_mesh_route_says_the_port_that_was_called() {
    let mut world = outbound();
    world.backend("shop", json!({"addresses": ["10.0.0.2"], "port": 8080}), json!([]));
    for (service, parent, address, location) in [
        ("stock", "Backend/shop/stock#80", "10.0.0.1:80", "http://h/b"),
        ("shop", "Backend/shop/shop#80", "10.0.0.2:8080", "http://h:8080/b"),
    ] {
        let redirect = json!({"redirect": {"status": 301, "path": {"full": "/b"}}});
        world.route(service, 0, json!({"parents": [parent], "rules": [{"filters": [redirect]}]}));
        let (_, next) = way(&world.snapshot(), OUTBOUND, address, "h/a");
        let Ok(Next::Redirect(found)) = next else { panic!("{address}: {next:?}") };
        assert_eq!(found.location, location);
    }
}

#[test]
fn the_address_of_a_service_wins_over_that_of_an_endpoint() {
    let mut world = outbound();
    world.backend("other", json!({}), json!([{"address": "10.0.0.1:80"}]));
    let snapshot = world.snapshot();
    assert_eq!(way(&snapshot, OUTBOUND, "10.0.0.1:80", "any/"), (Some("Backend/shop/stock#80".into()), Ok(Next::Forward)));
}

#[test]
fn addresses_follow_endpoints_as_they_come_and_go() {
    let (mut world, live) = (outbound(), Live::default());
    let first = Snapshot::compile(&Snapshot::empty(), &world.resources, &live).0;
    let pinned = |snapshot: &Snapshot, to: &str| matches!(way(snapshot, OUTBOUND, to, "any/").1, Ok(Next::Pinned(_)));
    let kept = first.destinations[&key("Backend/shop/stock#80")].backend.endpoints.at(address("10.1.0.4:8080")).expect("an endpoint");
    let new = json!({"backend": "Backend/shop/stock#80", "endpoints": [{"address": "10.1.0.4:8080", "identity": STOCK}, {"address": "10.1.0.9:8080"}]});
    world.core("Endpoints/shop/stock-1#80", new);
    let second = Snapshot::compile(&first, &world.resources, &live).0;
    for (to, expected) in [("10.1.0.4:8080", true), ("10.1.0.9:8080", true), ("10.1.0.5:8080", false), ("10.1.0.4:7000", true)] {
        assert_eq!(pinned(&second, to), expected, "{to}");
        // Endpoints are no part of a Snapshot: who still holds the one before sees them too.
        assert_eq!(pinned(&first, to), expected, "{to}");
    }
    assert!(
        Arc::ptr_eq(&first.destinations[&key("Backend/shop/stock#80")], &second.destinations[&key("Backend/shop/stock#80")]),
        "nothing else changed"
    );
    assert_eq!(kept.in_flight(), 0);
    // A slice that is drained is still reached; one that is gone is not, nor that of a Service that is gone.
    world.core(
        "Endpoints/shop/stock-1#80",
        json!({"backend": "Backend/shop/stock#80", "endpoints": [{"address": "10.1.0.4:8080", "draining": true}]}),
    );
    let third = Snapshot::compile(&second, &world.resources, &live).0;
    assert!(pinned(&third, "10.1.0.4:8080"));
    world.remove("Backend/shop/replicas#80").remove("Endpoints/shop/stock-1#80");
    let last = Snapshot::compile(&third, &world.resources, &live).0;
    assert!(!pinned(&last, "10.1.0.4:8080") && !pinned(&last, "10.1.0.4:7000"));
    // It comes back under the slices it has.
    let again = outbound();
    let again = Snapshot::compile(&last, &again.resources, &live).0;
    assert!(pinned(&again, "10.1.0.4:8080") && pinned(&again, "10.1.0.4:7000") && pinned(&again, "10.1.0.5:8080"));
}

#[test]
fn an_endpoint_without_a_sidecar_is_guarded_by_every_service_that_has_it() {
    let mut world = outbound();
    world.backend("twin", json!({}), json!([{"address": "10.1.0.5:8080", "workload": "Pod/shop/stock-1"}]));
    // Of another namespace: neither its guards nor anything else of it concerns a workload of `shop`, but an address that is none.
    world.core("Backend/other/stock#80", json!({"port": 80, "protocol": "Http", "chain": []}));
    let endpoints = json!([{"address": "10.1.0.5:8080", "workload": "Pod/shop/stock-1"}, {"address": "192.0.2.1:8080"}]);
    world.core("Endpoints/other/stock-1#80", json!({"backend": "Backend/other/stock#80", "endpoints": endpoints}));
    let snapshot = world.snapshot();
    let names = |chosen: &str, endpoint: &str| {
        let chosen = &snapshot.destinations[&key(&format!("Backend/{chosen}#80"))].backend;
        let guarding = decide::guarding(&snapshot, chosen, address(endpoint));
        guarding.iter().map(|backend| format!("{}/{}", backend.key.namespace, backend.key.name)).collect::<Vec<_>>()
    };
    for chosen in ["shop/stock", "shop/twin"] {
        assert_eq!(names(chosen, "10.1.0.5:8080"), ["shop/stock#80", "shop/twin#80"], "by whichever it is reached");
    }
    assert_eq!(names("shop/stock", "10.1.0.4:8080"), ["shop/stock#80"]);
    assert_eq!(
        names("other/stock", "10.1.0.5:8080"),
        ["shop/stock#80", "shop/twin#80", "other/stock#80"],
        "and by the one that was called"
    );
    assert_eq!(names("shop/stock", "192.0.2.1:8080"), ["other/stock#80", "shop/stock#80"]);
    // One that has moved on meanwhile is still guarded by what was chosen.
    assert_eq!(names("shop/stock", "10.1.0.77:8080"), ["shop/stock#80"]);
}

/// Captured inbound of a pod: one declared port and every other.
fn inbound() -> World {
    let mut world = World::default();
    let workload = Target::new(TargetKind::Workload, "shop", "orders-0");
    let spec = |extra: Value| {
        let mut spec = json!({"bind": {"captured": 15306}, "protocol": "Detect", "clients": "Fellows", "chain": [workload], "mesh": "Permissive",
            "identity": "spiffe://cluster.local/ns/shop/sa/orders"});
        crate::snapshot::fixture::merge(&mut spec, extra);
        spec
    };
    world.listener("declared", spec(json!({"port": 8080, "destination": {"port": 8080}, "forward": {"local": "10.1.0.2:8080"}})));
    world.listener("any", spec(json!({"port": 0, "forward": {"own": "10.1.0.2"}})));
    world.listener("edge", json!({"bind": {"bound": "10.1.0.2:16080"}}));
    world
}

#[test]
fn undeclared_ports_lead_to_the_same_port_of_the_application_and_never_to_a_proxy() {
    let snapshot = inbound().snapshot();
    let local = |to: &str| Ok(Next::Local(address(to)));
    for (to, expected) in [
        ("10.1.0.2:8080", local("10.1.0.2:8080")),
        ("10.1.0.2:7000", local("10.1.0.2:7000")),
        // Whatever address of the pod was called.
        ("[fd00::2]:7000", local("10.1.0.2:7000")),
        ("10.1.0.2:15301", Err(Reason::InvalidBackend)),
        ("10.1.0.2:15306", Err(Reason::InvalidBackend)),
        ("10.1.0.2:15315", Err(Reason::InvalidBackend)),
        ("10.1.0.2:15320", Err(Reason::InvalidBackend)),
        ("10.1.0.2:15390", Err(Reason::InvalidBackend)),
        // The socket of an edge in the same process.
        ("10.1.0.2:16080", Err(Reason::InvalidBackend)),
    ] {
        assert_eq!(way(&snapshot, INBOUND, to, "any/").1, expected, "{to}");
    }
}

#[test]
fn undeclared_ports_are_guarded_as_the_workload_is() {
    let mut world = inbound();
    world.policy("AuthorizationPolicy", "deny", Target::new(TargetKind::Workload, "shop", "orders-0"), deny_all());
    for to in ["10.1.0.2:7000", "10.1.0.2:15390"] {
        assert_eq!(way(&world.snapshot(), INBOUND, to, "any/").1, Err(Reason::AuthorizationDenied), "{to}");
    }
    let mut world = inbound();
    world.listener(
        "any",
        json!({"bind": {"captured": 15306}, "protocol": "Detect", "mesh": "Strict", "forward": {"own": "10.1.0.2"},
        "identity": "spiffe://cluster.local/ns/shop/sa/orders"}),
    );
    assert_eq!(way(&world.snapshot(), INBOUND, "10.1.0.2:7000", "any/").1, Err(Reason::MeshRequired));
}

#[test]
fn loopback_is_no_address_of_a_pod() {
    for own in ["127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::"] {
        let mut world = inbound();
        world.listener("any", json!({"bind": {"captured": 15306}, "forward": {"own": own}}));
        let (snapshot, rejections) = world.compile();
        assert_eq!(rejections.len(), 1, "{own}");
        assert!(rejections[0].reason.contains("forward.own"), "{}", rejections[0].reason);
        assert_eq!(way(&snapshot, INBOUND, "10.1.0.2:7000", "any/").1, Err(Reason::NoRoute));
    }
}

#[test]
fn a_preamble_means_the_port_that_was_dialled_where_nobody_declared_it() {
    let snapshot = inbound().snapshot();
    let listener = |name: &str| &snapshot.listeners[&key(&format!("Listener/shop/public#{name}"))];
    let meant = |at: &str, dialled: u16, port: u16| {
        crate::l4::preamble::listener(&snapshot, listener(at), dialled, port).map(|found| found.key.name.clone())
    };
    assert_eq!(meant("any", 7000, 7000).as_deref(), Some("public#any"));
    assert_eq!(meant("any", 7000, 8080).as_deref(), Some("public#declared"));
    assert_eq!(meant("declared", 8080, 8080).as_deref(), Some("public#declared"));
    for (at, dialled, port) in
        [("any", 7000, 7001), ("any", 7000, 15390), ("any", 7000, 15306), ("declared", 8080, 7000), ("declared", 8080, 15306)]
    {
        assert_eq!(meant(at, dialled, port), None, "{at} {dialled} {port}");
    }
}
