//! One policy, one verdict: through the edge, from a sidecar, at a pod's own address, and on a laptop.

use super::{ORDERS_CALLERS, assert_denied, identity};
use http::Method;
use selvage_tests::cluster::{Applied, Cluster, PATIENCE, Pod, eventually, pods};
use selvage_tests::{Answer, Client, Directory, Running, limit};
use serde_json::Value;

/// How often the applications behind `orders` saw a path, over all their pods. Nobody may read their counters; for a moment, the guest may.
fn seen_by_orders(cluster: &Cluster, path: &str) -> u64 {
    let addresses: Vec<String> = pods("bookshop", "app=orders").iter().map(|pod| pod.at(8080).to_string()).collect();
    let counters = |address: &str| cluster.call("bookshop/guest", address, "/counters");
    let open = Applied::new(
        "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: counters, namespace: bookshop }\nspec:\n  \
         targetRefs: [{ kind: Service, name: orders }]\n  rules:\n  \
         - { name: counters, action: Allow, from: [{ serviceAccount: guest }], to: [{ paths: [/counters] }] }\n",
    );
    let count = |address: &String| {
        let said = eventually("the counters may be read", || Some(counters(address)).filter(|said| said["status"] == 200));
        said["body"]["counters"][path].as_u64().unwrap_or_default()
    };
    let sum = addresses.iter().map(count).sum();
    drop(open);
    for address in &addresses {
        eventually("the counters are closed again", || (counters(address)["status"] == 403).then_some(()));
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn a_request_goes_from_the_edge_over_the_storefront_to_the_catalogue() {
    let cluster = Cluster::ready();
    let answer = cluster.edge().get("/books/2").await.expect(200).json();
    assert_eq!(answer["service"], "storefront");
    assert_eq!(answer["answer"]["book"]["title"], "Middlemarch");
    assert_eq!(answer["seen"]["selvage-principal"], identity("public-selvage"), "the edge has an identity in the mesh");
    assert_eq!(answer["answer"]["seen"]["selvage-principal"], identity("storefront"));
    // One trace and one request id over four proxies.
    let trace = answer["seen"]["traceparent"].as_str().expect("a trace").split('-').nth(1).expect("its id").to_string();
    let further = answer["answer"]["seen"]["traceparent"].as_str().expect("a trace").split('-').nth(1).expect("its id").to_string();
    assert_eq!(trace, further, "{answer}");
    assert_eq!(answer["seen"]["x-request-id"], answer["answer"]["seen"]["x-request-id"], "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn a_services_policy_holds_on_every_way_to_it() {
    let cluster = Cluster::ready();
    let before = seen_by_orders(cluster, "/orders/17");
    let at_the_edge = cluster.edge().get("/orders/17").await.expect(403);
    let problem = at_the_edge.json();
    assert_eq!((&problem["reason"], &problem["policy"]), (&"authorization_denied".into(), &ORDERS_CALLERS.into()));

    // The same body from a sidecar, by whatever name or address; and from a caller without any, who proved nothing.
    let pod = pods("bookshop", "app=orders")[0].at(8080).to_string();
    for from in ["bookshop/guest", "outside/stranger"] {
        for to in ["orders.bookshop:8080", "orders-too.bookshop:8080", "orders-pods.bookshop:8080", &pod] {
            let said = cluster.call(from, to, "/orders/17");
            assert_denied(&said, ORDERS_CALLERS);
            assert_eq!(same(&said["body"]), same(&problem), "{from} to {to}");
        }
        for host in ["storefront.bookshop", "orders-too.bookshop:8080", "localhost", "anything.example"] {
            assert_denied(&cluster.caller(from, &["call", &pod, "/orders/17", "--host", host]), ORDERS_CALLERS);
            assert_denied(&cluster.caller(from, &["call", "orders.bookshop:8080", "/orders/17", "--host", host]), ORDERS_CALLERS);
        }
        assert_denied(&cluster.caller(from, &["call", &pod, "/orders/17", "--http2"]), ORDERS_CALLERS);
        assert_denied(&cluster.caller(from, &["call", &pod, "//orders/x/../17"]), ORDERS_CALLERS);
    }
    // The storefront under its own name, but with what it may not do.
    let answer = cluster.edge().send(Method::DELETE, "/my/orders/17", "").await.expect(403).json();
    assert_eq!(answer["answer"]["policy"], ORDERS_CALLERS, "{answer}");
    assert_eq!(seen_by_orders(cluster, "/orders/17"), before, "a refused request reached the application");

    // And the one way that is allowed is open.
    let answer = cluster.edge().get("/my/orders/17").await.expect(200).json();
    assert_eq!(answer["answer"]["seen"]["selvage-principal"], identity("storefront"));
    assert_eq!(seen_by_orders(cluster, "/orders/17"), before + 1);
}

/// A problem document without what is different in every answer.
fn same(problem: &Value) -> Value {
    let mut problem = problem.clone();
    if let Some(fields) = problem.as_object_mut() {
        fields.retain(|name, _| !["instance", "requestId"].contains(&name.as_str()));
    }
    problem
}

/// What of an answer has to be the same in both worlds.
fn verdict(answer: &Answer) -> (u16, String, Value) {
    let body = if answer.header("content-type").contains("json") { answer.json() } else { answer.text().into() };
    let body = match answer.header("content-type") {
        "application/problem+json" => same(&body),
        // An application's answer: what it answered, not which headers it saw.
        _ => body
            .get("answer")
            .and_then(|inside| inside.get("book").or(inside.get("order")).or(inside.get("reason")))
            .cloned()
            .unwrap_or_default(),
    };
    (answer.status, answer.header("content-type").to_string(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn the_laptop_and_the_cluster_give_the_same_verdicts() {
    let cluster = Cluster::ready();
    let directory = Directory::copy_of("examples/bookshop");
    let laptop = Running::start(&directory).await;
    for (method, target) in [
        (Method::GET, "/books/2"),
        (Method::GET, "/books/99"),
        (Method::GET, "/orders/17"),
        (Method::DELETE, "/orders/17"),
        (Method::GET, "/my/orders/17"),
        (Method::DELETE, "/my/orders/17"),
        (Method::GET, "/orders%2f17"),
        (Method::GET, "/call/catalogue/fail?first=1&who=parity"),
        (Method::GET, "/call/orders/healthz"),
    ] {
        let local = laptop.client("bookshop/public", 8080).with("x-client", "parity").with("host", "shop.example");
        let remote = Client::new(cluster.gateway(8080)).with("x-client", "parity").with("host", "shop.example");
        let (local, remote) = (local.send(method.clone(), target, "").await, remote.send(method.clone(), target, "").await);
        assert_eq!(verdict(&remote), verdict(&local), "{method} {target}: in the cluster, and on the laptop");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn the_gateways_limit_holds() {
    let cluster = Cluster::ready();
    let edges = pods("bookshop", "gateway.networking.k8s.io/gateway-name=public").len() as u64;
    let limited = limit::meet(&cluster.edge(), edges, 20).await.json();
    assert_eq!(limited["reason"], "rate_limited");
    assert_eq!(limited["policy"], "RateLimitPolicy/bookshop/per-client");
    // Another client has its own.
    cluster.edge().get("/healthz").await.expect(200);
}

/// A value that nobody may be taken for.
const FORGED: &str = "spiffe://cluster.local/ns/bookshop/sa/forged";
/// What only a proxy says of a caller.
const WORDS_OF_PROXIES: [&str; 7] =
    ["selvage-principal", "selvage-user", "selvage-attempt", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn nobody_can_forge_an_identity_or_the_words_of_a_proxy() {
    let cluster = Cluster::ready();
    // From outside.
    let mut client = cluster.edge();
    for name in WORDS_OF_PROXIES {
        client = client.with(name, FORGED);
    }
    let answer = client.get("/echo").await.expect(200);
    assert!(!answer.text().contains("sa/forged"), "{}", answer.text());
    assert_eq!(answer.json()["headers"]["selvage-principal"], identity("public-selvage"));
    // From a pod behind a sidecar, from one without any, and from an application of the bookshop, told to by the one in front of it.
    let lines: Vec<String> = WORDS_OF_PROXIES.iter().map(|name| format!("{name}: {FORGED}")).collect();
    let forging: Vec<&str> = lines.iter().flat_map(|line| ["--header", line]).collect();
    for (from, principal) in [("bookshop/guest", Value::from(identity("guest"))), ("outside/stranger", Value::Null)] {
        let said = cluster.caller(from, &[&["call", "catalogue.bookshop:8080", "/echo"], &forging[..]].concat());
        assert_eq!(said["status"], 200, "{from}: {said}");
        assert!(!said["body"].to_string().contains("sa/forged"), "{from}: {said}");
        assert_eq!(said["body"]["headers"]["selvage-principal"], principal, "{from}: {said}");
    }
    let mut client = cluster.edge();
    for line in &lines {
        client = client.with("x-send", line);
    }
    let answer = client.get("/call/catalogue/echo").await.expect(200).json();
    let seen = &answer["answer"]["headers"];
    assert!(!seen.to_string().contains("sa/forged"), "{seen:#}");
    assert_eq!(seen["selvage-principal"], identity("storefront"));
}

/// How often the catalogue's applications were asked for this path and query of `/fail`, over all their pods.
fn attempts(cluster: &Cluster, whole: &str) -> u64 {
    let count = |pod: &Pod| {
        let said = cluster.call("bookshop/guest", &pod.at(8080).to_string(), "/counters");
        assert_eq!(said["status"], 200, "{said}");
        said["body"]["counters"][format!("attempts {whole}")].as_u64().unwrap_or_default()
    };
    pods("bookshop", "app=catalogue").iter().map(count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn one_proxy_owns_the_retries_of_a_request() {
    let cluster = Cluster::ready();
    let _route = Applied::new(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: retried, namespace: bookshop }\nspec:\n  \
         parentRefs: [{ name: public }]\n  hostnames: [retried.example]\n  rules:\n  \
         - retry: { attempts: 3, codes: [503], backoff: 5ms }\n    backendRefs: [{ name: catalogue, port: 8080 }]\n",
    );
    // Paths that nobody has asked for before, also not in an earlier run in the same cluster.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    let path = |case: &str| format!("/fail?rate=1&case={case}-{run}");
    let client = Client::new(cluster.gateway(8080)).with("host", "retried.example").with("x-client", "retried");
    let arrived = std::time::Instant::now();
    while client.get("/books/2").await.status != 200 {
        assert!(arrived.elapsed() < PATIENCE, "the route does not arrive");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    // The edge's own: 1 + 3, and the catalogue's route in the mesh, which retries twice, adds nothing.
    client.get(&path("edge")).await.expect(503);
    assert_eq!(attempts(cluster, &path("edge")), 4);
    // The storefront's sidecar: 1 + 2, and the edge in front of it adds nothing.
    cluster.edge().get(&format!("/call/catalogue{}", path("mesh"))).await.expect(503);
    assert_eq!(attempts(cluster, &path("mesh")), 3);
    // A pod that calls by itself.
    let said = cluster.call("bookshop/guest", "catalogue:8080", &path("pod"));
    assert_eq!(said["status"], 503, "{said}");
    assert_eq!(attempts(cluster, &path("pod")), 3);
    // What may have happened is not done twice.
    client.send(Method::POST, &path("post"), "x").await.expect(503);
    assert_eq!(attempts(cluster, &path("post")), 1);
}
