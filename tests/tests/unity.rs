//! The edge and the mesh are one thread: over every way through both, one verdict, one trace, one owner of retries, and nobody's
//! identity but one's own.

use http::Method;
use selvage_tests::{Answer, Client, Directory, Running};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const GATEWAY: &str = "spiffe://cluster.local/ns/bookshop/sa/public-selvage";
const STOREFRONT: &str = "spiffe://cluster.local/ns/bookshop/sa/storefront";

/// The bookshop with more manifests, and a limit that these tests do not meet.
async fn bookshop(more: &str) -> (Directory, Running) {
    let directory = Directory::copy_of("examples/bookshop");
    directory.replace("app/policies.yaml", "requests: 20", "requests: 100000");
    if !more.is_empty() {
        directory.write("app/more.yaml", more);
    }
    let running = Running::start(&directory).await;
    (directory, running)
}

fn edge(running: &Running) -> Client {
    running.client("bookshop/public", 8080)
}

/// A service's own process, round its sidecar: only to read its counters.
fn process(running: &Running, service: &str) -> Client {
    Client::new(SocketAddr::new(running.workload(&format!("bookshop/{service}")).local, 8080))
}

async fn count(running: &Running, service: &str, path: &str) -> u64 {
    process(running, service).get("/counters").await.expect(200).json()["counters"][path].as_u64().unwrap_or(0)
}

fn denied(answer: &Answer, policy: &str) {
    assert_eq!(answer.status, 403, "{}", answer.text());
    let problem = answer.json();
    assert_eq!(problem["reason"], "authorization_denied", "{problem}");
    assert_eq!(problem["policy"], policy, "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_services_policy_holds_on_every_way_to_it() {
    const POLICY: &str = "AuthorizationPolicy/bookshop/orders-callers";
    // A second Service over the same pods, without any policy of its own, and a route to it.
    let (_directory, running) = bookshop(
        r#"apiVersion: v1
kind: Service
metadata: { name: orders-too, namespace: bookshop }
spec:
  selector: { app: orders }
  ports: [{ name: http, port: 8080, targetPort: http }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: side-door, namespace: bookshop }
spec:
  parentRefs: [{ name: public }]
  hostnames: [side.example]
  rules:
  - backendRefs: [{ name: orders-too, port: 8080 }]
"#,
    )
    .await;
    let orders = running.workload("bookshop/orders").clone();
    let before = count(&running, "orders", "/orders/17").await;

    denied(&edge(&running).get("/orders/17").await, POLICY);
    denied(&edge(&running).with("host", "side.example").get("/orders/17").await, POLICY);
    // The pod's own address, without mesh TLS: nobody proved anything.
    let pod = Client::new(SocketAddr::new(orders.mesh, 8080));
    denied(&pod.get("/orders/17").await, POLICY);
    for host in ["orders-too.bookshop", "storefront.bookshop", "localhost", "anything.example"] {
        denied(&pod.clone().with("host", host).get("/orders/17").await, POLICY);
    }
    denied(&pod.clone().http2().get("/orders/17").await, POLICY);
    // The storefront under its own name, but with what it may not do.
    let answer = edge(&running).send(Method::DELETE, "/my/orders/17", "").await.expect(403).json();
    assert_eq!(answer["answer"]["policy"], POLICY, "{answer}");
    // The catalogue is no storefront, also through the second Service.
    let catalogue = running.workload("bookshop/catalogue").clone();
    for service in ["bookshop/orders", "bookshop/orders-too"] {
        let address = catalogue.services.get(service).unwrap_or_else(|| panic!("{service}: {catalogue:?}"));
        denied(&Client::new(SocketAddr::new(*address, 8080)).get("/orders/17").await, POLICY);
    }
    assert_eq!(count(&running, "orders", "/orders/17").await, before, "a refused request reached the application");

    // And the one way that is allowed is open.
    let answer = edge(&running).get("/my/orders/17").await.expect(200).json();
    assert_eq!(answer["answer"]["seen"]["selvage-principal"], STOREFRONT);
    assert_eq!(count(&running, "orders", "/orders/17").await, before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_gateway_limits_is_counted_once_at_the_edge() {
    let directory = Directory::copy_of("examples/bookshop");
    directory.replace("app/policies.yaml", "requests: 20\n    per: 1s", "requests: 6\n    per: 1h");
    let running = Running::start(&directory).await;
    // Each of these crosses the edge, two sidecars on the way to the storefront and the catalogue, and makes retries: it counts once.
    let client = edge(&running).with("x-client", "counted");
    for expected in [200, 200, 200, 200, 200, 200, 429, 429] {
        client.get("/call/catalogue/fail?first=1").await.expect(expected);
    }
    // Somebody else's count is another.
    edge(&running).with("x-client", "another").get("/books").await.expect(200);
    // The mesh is not the Gateway: the same header counts nothing there.
    let storefront = running.workload("bookshop/storefront");
    let catalogue = Client::new(SocketAddr::new(storefront.services["bookshop/catalogue"], 8080)).with("x-client", "counted");
    for _ in 0..10 {
        catalogue.get("/books").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_and_one_request_id_go_all_the_way() {
    let (_directory, running) = bookshop("").await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let answer = edge(&running)
        .with("traceparent", &format!("00-{trace}-b7ad6b7169203331-01"))
        .with("x-request-id", "forged")
        .get("/books/1")
        .await
        .expect(200);
    let json = answer.json();
    let (first, second) = (&json["seen"], &json["answer"]["seen"]);
    let ids: BTreeSet<&str> = [first, second].iter().filter_map(|seen| seen["x-request-id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "{json:#}");
    assert!(!ids.contains("forged"), "the outside does not choose our request ids: {json:#}");
    for seen in [first, second] {
        assert!(seen["traceparent"].as_str().is_some_and(|parent| parent.contains(trace)), "{json:#}");
    }
    // Without one from outside a trace begins at the edge, and is the same everywhere.
    let json = edge(&running).get("/books/1").await.expect(200).json();
    let trace_of =
        |seen: &Value| seen["traceparent"].as_str().and_then(|parent| parent.split('-').nth(1)).map(String::from).expect("a trace");
    assert_eq!(trace_of(&json["seen"]), trace_of(&json["answer"]["seen"]));
    assert_ne!(trace_of(&json["seen"]), trace);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_one_plus_retries_however_many_proxies_there_are() {
    // The Gateway's route to the catalogue retries three times; the catalogue's own mesh route would retry twice, were it asked.
    let (_directory, running) = bookshop(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: retried, namespace: bookshop }
spec:
  parentRefs: [{ name: public }]
  hostnames: [retried.example]
  rules:
  - retry: { attempts: 3, codes: [503], backoff: 5ms }
    backendRefs: [{ name: catalogue, port: 8080 }]
"#,
    )
    .await;
    let attempts = |answer: Value| answer["attempt"].as_u64();

    // Edge -> sidecar -> catalogue: 1 + 3.
    let client = edge(&running).with("host", "retried.example");
    let last = client.get("/fail?rate=1&case=edge").await.expect(503).json();
    assert_eq!(attempts(last), Some(4));
    // As soon as it works it is enough.
    let last = client.get("/fail?first=2&case=edge-works").await.expect(200).json();
    assert_eq!(attempts(last), Some(3));

    // Storefront's sidecar -> catalogue's sidecar -> catalogue: 1 + 2, and the edge in front of the storefront adds nothing.
    let last = edge(&running).get("/call/catalogue/fail?rate=1&case=mesh").await.expect(503).json();
    assert_eq!(attempts(last["answer"].clone()), Some(3), "{last:#}");

    // What may have happened is not done twice: POST is not idempotent, and the mesh route retries GET only.
    let last = edge(&running).with("host", "retried.example").send(Method::POST, "/fail?rate=1&case=post", "x").await.expect(503).json();
    assert_eq!(attempts(last), Some(1));

    // A client cannot ask for retries to stop or to multiply.
    let last = client.with("selvage-attempt", "1").get("/fail?rate=1&case=forged").await.expect(503).json();
    assert_eq!(attempts(last), Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_forge_an_identity_or_the_words_of_a_proxy() {
    let (_directory, running) = bookshop("").await;
    let forged = "spiffe://cluster.local/ns/bookshop/sa/forged";
    let names = [
        "selvage-principal",
        "selvage-user",
        "selvage-consumer",
        "selvage-attempt",
        "selvage-deadline",
        "selvage-anything",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    // From outside.
    let mut client = edge(&running);
    for name in names {
        client = client.with(name, forged);
    }
    let answer = client.get("/echo").await.expect(200);
    assert!(!answer.text().contains("sa/forged"), "{}", answer.text());
    assert_eq!(answer.json()["headers"]["selvage-principal"], GATEWAY);
    // To the pod's address, without mesh TLS: there is no principal at all.
    let pod = SocketAddr::new(running.workload("bookshop/storefront").mesh, 8080);
    let mut client = Client::new(pod);
    for name in names {
        client = client.with(name, forged);
    }
    let answer = client.get("/echo").await.expect(200);
    assert!(!answer.text().contains("sa/forged"), "{}", answer.text());
    assert_eq!(answer.json()["headers"]["selvage-principal"], Value::Null);
    // From an application, through its own sidecar.
    let mut client = edge(&running);
    for name in names {
        client = client.with("x-send", &format!("{name}: {forged}"));
    }
    let answer = client.get("/call/catalogue/echo").await.expect(200).json();
    let seen = &answer["answer"]["headers"];
    assert!(!seen.to_string().contains("sa/forged"), "{seen:#}");
    assert_eq!(seen["selvage-principal"], STOREFRONT);
    // Replies carry nothing of ours to the outside.
    let answer = edge(&running).get("/books/1").await.expect(200);
    let ours: Vec<_> = answer.headers.keys().filter(|name| name.as_str().starts_with("selvage-")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_may_only_come_nearer_and_ends_in_504() {
    let (_directory, running) = bookshop(
        r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: hasty, namespace: bookshop }
spec:
  parentRefs: [{ name: public }]
  hostnames: [hasty.example]
  rules:
  - timeouts: { request: 2s }
    backendRefs: [{ name: storefront, port: 8080 }]
"#,
    )
    .await;
    let client = edge(&running).with("host", "hasty.example");
    let begun = std::time::Instant::now();
    let answer = client.clone().with("selvage-deadline", "60000").get("/slow?ms=60000").await.expect(504);
    assert_eq!(answer.json()["reason"], "upstream_timeout");
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    client.get("/slow?ms=10").await.expect(200);
}
