//! The access log and the metrics of real requests.

use super::*;

#[tokio::test]
async fn a_line_names_everything_that_decided() {
    let backend = Backend::hello().await;
    let address = free_address();
    let target = json!({ "kind": "Gateway", "namespace": "shop", "name": "public" });
    let rules = json!([
        { "name": "not-there", "action": "Deny", "to": [{ "paths": ["/private/*"] }] },
        { "name": "anybody", "action": "Allow" },
    ]);
    let mut rule = to("app", json!({}));
    rule["name"] = json!("everything");
    let guard = policy("AuthorizationPolicy", "guard", target, json!({ "rules": rules }));
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", rule), guard];
    resources.extend(service_of("app", "Http", json!([{ "address": backend.address, "workload": "Pod/shop/app-1" }])));
    let world = World::start(resources).await;
    ask(address, "POST /a%62?secret=1 HTTP/1.1\r\nHost: Shop.Example:80\r\nContent-Length: 3\r\n\r\nabc").await;
    let line = &world.lines(1).await[0];
    for (field, expected) in [
        ("listener", json!("Listener/shop/public#http")),
        ("route", json!("HTTPRoute/shop/all")),
        ("rule", json!("everything")),
        ("policy", json!("AuthorizationPolicy/shop/guard")),
        ("policy_rule", json!("anybody")),
        ("source", json!("127.0.0.1")),
        ("protocol", json!("http1")),
        ("method", json!("POST")),
        ("host", json!("shop.example")),
        ("path", json!("/ab")),
        ("status", json!(200)),
        ("bytes_received", json!(3)),
        ("bytes_sent", json!(5)),
        ("endpoint", json!(backend.address.to_string())),
        ("workload", json!("Pod/shop/app-1")),
        ("attempts", json!(1)),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.starts_with("20")), "{line}");
    assert!(line["duration_ms"].as_f64().is_some_and(|took| took > 0.0) && line.get("reason").is_none(), "{line}");
    assert!(!line.to_string().contains("secret"), "a query may hold secrets: {line}");

    get(address, "/private/x", "").await;
    let line = &world.lines(2).await[1];
    for (field, expected) in [
        ("policy", json!("AuthorizationPolicy/shop/guard")),
        ("policy_rule", json!("not-there")),
        ("reason", json!("authorization_denied")),
        ("status", json!(403)),
        ("attempts", json!(0)),
    ] {
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    assert!(line.get("endpoint").is_none(), "{line}");
}

#[tokio::test]
async fn every_request_leaves_one_line_and_one_count() {
    let backend = Backend::hello().await;
    let (world, address) = simple(&backend, json!({})).await;
    get(address, "/", "").await;
    get(address, "/%zz", "").await;
    ask(address, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n").await;
    let lines = world.lines(3).await;
    assert_eq!(lines.len(), 3);
    assert!(lines[1..].iter().all(|line| line["reason"] == "bad_request" && line["status"] == 400), "{lines:?}");
    assert_eq!(world.metric("selvage_requests_total{code_class=\"2xx\",protocol=\"http1\",reason=\"\"}"), 1.0);
    assert_eq!(world.metric("selvage_requests_total{code_class=\"4xx\",protocol=\"http1\",reason=\"bad_request\"}"), 2.0);
    assert_eq!(world.metric("selvage_request_duration_seconds_count{protocol=\"http1\"}"), 3.0);
    assert_eq!(world.shared.metrics.requests.in_flight(), 0);
}

#[tokio::test]
async fn series_are_as_many_for_a_thousand_routes_as_for_one() {
    let backend = Backend::hello().await;
    let mut counts = Vec::new();
    for routes in [1, 1000] {
        let address = free_address();
        let mut resources = vec![mesh_settings(), listener(address, json!({}))];
        for n in 0..routes {
            let rule = to("app", json!({ "matches": [{ "path": { "prefix": format!("/r{n}") } }] }));
            resources.push(route(&format!("r{n}"), rule));
        }
        resources.extend(service("app", "Http", &[backend.address]));
        let world = World::start(resources).await;
        for n in [0, routes / 2, routes - 1] {
            assert_eq!(get(address, &format!("/r{n}"), &format!("User-Agent: a{n}\r\n")).await.status, 200);
        }
        counts.push(world.shared.metrics.series());
    }
    assert_eq!(counts[0], counts[1]);
}

#[tokio::test]
async fn a_limit_shows_its_fields_whether_it_lets_pass_or_refuses() {
    let backend = Backend::hello().await;
    let address = free_address();
    let target = json!({ "kind": "Gateway", "namespace": "shop", "name": "public" });
    let limits = json!([{ "name": "burst", "requests": 2, "per": "1h" }]);
    let limit = policy("RateLimitPolicy", "limit", target, json!({ "limits": limits }));
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({}))), limit];
    resources.extend(service("app", "Http", &[backend.address]));
    let _world = World::start(resources).await;
    for expected in [200, 200, 429] {
        let answer = get(address, "/", "").await;
        assert_eq!(answer.status, expected);
        assert!(answer.one("ratelimit").is_some() && answer.one("ratelimit-policy").is_some(), "{answer:?}");
        assert_eq!(answer.one("retry-after").is_some(), expected == 429, "{answer:?}");
    }
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn what_a_policy_in_audit_mode_would_refuse_is_logged_and_counted_and_passes() {
    let app = Backend::hello().await;
    let (address, opaque) = (free_address(), free_address());
    let audit = |name: &str, target: Value| {
        let rules = json!([{ "name": "no", "action": "Deny" }]);
        policy("AuthorizationPolicy", name, target, json!({ "mode": "Audit", "rules": rules }))
    };
    let tcp = json!({
        "bind": { "bound": opaque }, "port": 9000, "protocol": "Tcp", "clients": "Outside", "forward": { "local": app.address },
        "chain": [{ "kind": "Workload", "namespace": "shop", "name": "db" }],
    });
    let mut resources = vec![
        mesh_settings(),
        listener(address, json!({})),
        json!({ "key": "Listener/shop/db#in", "spec": tcp }),
        route("all", to("app", json!({}))),
        audit("edge", json!({ "kind": "Gateway", "namespace": "shop", "name": "public" })),
        audit("target", json!({ "kind": "Service", "namespace": "shop", "name": "app" })),
        audit("db", json!({ "kind": "Workload", "namespace": "shop", "name": "db" })),
    ];
    resources.extend(service("app", "Http", &[app.address]));
    let world = World::start(resources).await;
    let counted = || world.metric("selvage_audited_total{policy_kind=\"AuthorizationPolicy\",reason=\"authorization_denied\"}");
    assert_eq!(get(address, "/", "").await.status, 200);
    let line = &world.lines(1).await[0];
    assert_eq!(line["audited"], json!(["AuthorizationPolicy/shop/edge", "AuthorizationPolicy/shop/target"]), "{line}");
    assert_eq!((counted(), line.get("reason")), (2.0, None));
    assert_eq!(get(opaque, "/", "").await.status, 200);
    let line = &world.lines(2).await[1];
    assert_eq!((&line["protocol"], &line["audited"]), (&json!("tcp"), &json!(["AuthorizationPolicy/shop/db"])), "{line}");
    assert_eq!(counted(), 3.0);
}
