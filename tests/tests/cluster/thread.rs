//! One policy, one verdict: through the edge, from a sidecar, at a pod's own address, and on a laptop.

use super::{ORDERS_CALLERS, assert_denied, identity};
use http::Method;
use selvage_tests::cluster::{Applied, Cluster, eventually, pods};
use selvage_tests::{Answer, Client, Directory, Running};
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
    let client = cluster.edge();
    let together = (0..80).map(|_| {
        let client = client.clone();
        async move { client.get("/healthz").await }
    });
    let answers = futures::future::join_all(together).await;
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 429)));
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 20);
    let limited = answers.into_iter().find(|answer| answer.status == 429).expect("eighty at once are more than twenty a second");
    assert_eq!(limited.json()["reason"], "rate_limited");
    assert_eq!(limited.json()["policy"], "RateLimitPolicy/bookshop/per-client");
    // Another client has its own.
    cluster.edge().get("/healthz").await.expect(200);
}
