//! Permissions against Snapshots, without sockets.

use super::*;
use crate::net::closing::Closing;
use crate::net::worker::LINGER;
use crate::snapshot::fixture::{self, World, gateway, service};
use http::{HeaderMap, Method};
use selvage_config::resource::listener::Bind;
use selvage_policy::{Key, Source};
use serde_json::{Value, json};

fn edge() -> World {
    let mut world = World::default();
    let rewrite = json!([{ "rewrite": { "path": { "full": "/sent" } } }, { "requestHeaders": { "set": [["x-added", "1"]] } }]);
    let rule = json!([{ "filters": rewrite, "backends": [{ "backend": "Backend/shop/orders#80", "weight": 1 }] }]);
    world.listener("http", json!({})).route("r", 0, json!({ "rules": rule }));
    world.backend("orders", json!({}), json!([{ "address": "127.0.0.1:9000" }]));
    world
}

fn connection() -> Arc<Connection> {
    let edge = "127.0.0.9:10080".parse().expect("an address");
    Arc::new(Connection {
        bind: Bind::Bound(edge),
        listener: Arc::new(Key::new("Listener", "shop", "public#http")),
        peer: ([192, 0, 2, 7], 40000).into(),
        destination: edge,
        tls: None,
        generation: 1,
        closing: Closing::default(),
        permits: Permits::new(LINGER),
    })
}

fn facts(path: &str) -> Facts {
    let source = Source { address: [192, 0, 2, 7].into(), principal: None };
    let uri = path.parse().expect("a path");
    let http = HttpFacts { method: Method::GET, scheme: "http", host: "shop.example".into(), uri, headers: HeaderMap::new() };
    Facts { source, http: Some(http), target: None }
}

fn deny(world: &World, target: selvage_policy::Target, to: Value) -> Snapshot {
    let mut world = world.clone();
    world.policy("AuthorizationPolicy", "late", target, json!({ "rules": [{ "name": "no", "action": "Deny", "to": [to] }] }));
    later(world.snapshot())
}

fn later(mut snapshot: Snapshot) -> Snapshot {
    snapshot.generation += 1;
    snapshot
}

/// Lets it in under `world`, its target's guards included, while `current` is in force.
fn let_in(world: &World, connection: &Arc<Connection>, path: &str, current: &ArcSwap<Snapshot>) -> Permit {
    let snapshot = world.snapshot();
    let listener = snapshot.listeners[&fixture::key("Listener/shop/public#http")].clone();
    let backend = snapshot.destinations[&fixture::key("Backend/shop/orders#80")].backend.clone();
    let facts = facts(path);
    let held = facts.http.as_ref().expect("HTTP");
    let source = Source { address: [192, 0, 2, 7].into(), principal: None };
    let destination = selvage_policy::exchange::Destination { address: connection.destination };
    let http = selvage_policy::Http {
        method: &held.method,
        scheme: "http",
        host: "shop.example",
        path: held.uri.path(),
        query: None,
        headers: &held.headers,
    };
    let exchange = selvage_policy::Exchange {
        source: &source,
        destination: &destination,
        http: Some(http),
        now: std::time::Duration::ZERO,
        wall: std::time::SystemTime::UNIX_EPOCH,
    };
    let matched = listener.routes.find(&exchange).expect("a rule");
    let permit = Permit::issue(connection, listener, facts, snapshot.generation, current);
    let endpoint = ([127, 0, 0, 1], 9000).into();
    permit.aim(TargetFacts { backends: [backend].into(), endpoint, way: Some((matched, 0)), trace: None }, &snapshot, current);
    permit
}

#[test]
fn a_permission_falls_with_the_first_snapshot_that_refuses_it_and_names_what_refuses() {
    let world = edge();
    for (what, snapshot, falls) in [
        ("nothing changed", later(world.snapshot()), false),
        ("a guard for another path", deny(&world, gateway("public"), json!({ "paths": ["/other"] })), false),
        ("a guard for its path", deny(&world, gateway("public"), json!({ "paths": ["/x/*"] })), true),
        ("the target sees what is sent", deny(&world, service("orders"), json!({ "paths": ["/x/*"] })), false),
        ("the target's guard for what is sent", deny(&world, service("orders"), json!({ "paths": ["/sent"] })), true),
        ("with the fields that are added", deny(&world, service("orders"), json!({ "headers": [{ "name": "x-added" }] })), true),
    ] {
        let (connection, current) = (connection(), ArcSwap::from_pointee(world.snapshot()));
        let permit = let_in(&world, &connection, "/x/y", &current);
        assert_eq!(permit.withdrawal().denial(), None, "{what}");
        connection.review(&snapshot);
        let denial = permit.withdrawal().denial();
        assert_eq!(denial.is_some(), falls, "{what}: {denial:?}");
        if let Some(denial) = denial {
            assert_eq!((denial.reason, denial.rule.as_deref()), (Reason::PolicyChanged, Some("no")), "{what}");
            assert_eq!(denial.policy.as_ref().expect("a policy").to_string(), "AuthorizationPolicy/shop/late");
        }
        drop(permit);
        assert!(connection.permits.held.lock().is_empty(), "it is forgotten with its exchange");
    }
}

#[test]
fn what_is_routed_elsewhere_or_nowhere_by_now_keeps_its_permission() {
    let world = edge();
    let mut without_route = world.clone();
    without_route.remove("Route/shop/HTTPRoute.r");
    let (connection, current) = (connection(), ArcSwap::from_pointee(world.snapshot()));
    let permit = let_in(&world, &connection, "/x", &current);
    connection.review(&later(without_route.snapshot()));
    assert_eq!(permit.withdrawal().denial(), None);
}

#[tokio::test(start_paused = true)]
async fn what_no_listener_takes_any_more_has_a_while_to_finish_or_to_be_taken_again() {
    let world = edge();
    let mut strict = world.clone();
    strict.listener("http", json!({ "mesh": "Strict" }));
    for snapshot in [Snapshot::empty(), strict.snapshot()] {
        let gone = later(snapshot);
        let (connection, current) = (connection(), ArcSwap::from_pointee(world.snapshot()));
        let permit = let_in(&world, &connection, "/x", &current);
        connection.review(&gone);
        sleep(LINGER / 2).await;
        connection.review(&gone);
        assert_eq!(permit.withdrawal().denial(), None);
        connection.review(&world.snapshot());
        sleep(LINGER).await;
        assert_eq!(permit.withdrawal().denial(), None, "it was taken again in time");
        connection.review(&gone);
        permit.withdrawal().withdrawn().await;
        assert_eq!(permit.withdrawal().denial().expect("withdrawn").reason, Reason::PolicyChanged);
    }
}

#[test]
fn a_snapshot_that_came_while_it_was_let_in_is_asked_at_once() {
    let world = edge();
    let refusing =
        [deny(&world, gateway("public"), json!({ "paths": ["/*"] })), deny(&world, service("orders"), json!({ "paths": ["/*"] }))];
    for snapshot in refusing {
        let permit = let_in(&world, &connection(), "/x", &ArcSwap::from_pointee(snapshot));
        assert!(permit.withdrawal().denial().is_some());
    }
}
