//! What the API server lets in, and what a bad object does to good ones.

use selvage_tests::Client;
use selvage_tests::cluster::{Applied, Cluster, apply, delete, eventually, json, try_apply};
use serde_json::Value;

/// The conditions of a route's first parent that is ours.
fn route_condition(name: &str, kind: &str) -> Option<Value> {
    let route = json("httproute", "bookshop", name);
    let parents = route["status"]["parents"].as_array()?.clone();
    let ours = parents.into_iter().find(|parent| parent["controllerName"] == "selvage.dev/controller")?;
    let conditions = ours["conditions"].as_array()?.clone();
    let generation = &route["metadata"]["generation"];
    conditions.into_iter().find(|condition| condition["type"] == kind && &condition["observedGeneration"] == generation)
}

fn route(name: &str, host: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: bookshop }}\nspec:\n  \
         parentRefs: [{{ name: public }}]\n  hostnames: [{host}]\n  rules:\n{rules}---\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn a_bad_policy_is_refused_with_its_field_and_the_good_one_stays() {
    let cluster = Cluster::ready();
    let good = std::fs::read_to_string(selvage_tests::program::root().join("examples/bookshop/app/policies.yaml")).expect("the policies");
    for (old, new, wanted) in [
        ("action: Allow", "action: Perhaps", "action"),
        ("paths: [\"/orders/*\"]", "paths: [\"/a/../b\"]", "paths"),
        ("methods: [GET]", "methods: [GET], hots: [a]", "hots"),
        ("key: request.headers[\"x-client\"]", "key: request.headers[", "key"),
        ("requests: 20", "requests: 0", "requests"),
        ("targetRefs: [{ kind: Service, name: orders }]\n  rules", "targetRefs: [{ kind: Lorry, name: orders }]\n  rules", "Lorry"),
    ] {
        assert!(good.contains(old), "{old}");
        let refused = try_apply(&good.replace(old, new)).expect_err(&format!("`{new}` is admitted"));
        assert!(refused.contains(wanted), "the message does not name {wanted}: {refused}");
        assert!(!refused.contains("failed calling webhook"), "the webhook does not answer: {refused}");
    }
    let policy = json("authorizationpolicy", "bookshop", "orders-callers");
    assert_eq!(policy["spec"]["rules"][0]["action"], "Allow", "{policy}");
    cluster.edge().get("/orders/17").await.expect(403);
    cluster.edge().get("/my/orders/17").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn bad_objects_get_a_status_and_good_ones_work_on() {
    let cluster = Cluster::ready();
    let to = |service: &str| format!("  - backendRefs: [{{ name: {service}, port: 8080 }}]\n");
    let regex = "  - matches: [{ path: { type: RegularExpression, value: \"/(\" } }]\n    backendRefs: [{ name: catalogue, port: 8080 }]\n";
    let bad = [
        route("nowhere", "nowhere.example", &to("no-such-service")),
        route("no-regex", "no-regex.example", regex),
        // A kind of this world that nobody can make anything of.
        route("of-lorries", "lorries.example", "  - backendRefs: [{ group: lorries.example, kind: Lorry, name: one, port: 1 }]\n"),
    ];
    let _bad = Applied::new(&bad.join(""));
    let condition = |name: &str, kind: &str, status: &str| {
        eventually(&format!("{name} has {kind} {status}"), || route_condition(name, kind).filter(|condition| condition["status"] == status))
    };
    assert_eq!(condition("nowhere", "ResolvedRefs", "False")["reason"], "BackendNotFound");
    assert_eq!(condition("of-lorries", "ResolvedRefs", "False")["reason"], "InvalidKind");
    let why = condition("no-regex", "Accepted", "False");
    assert!(why["message"].as_str().is_some_and(|message| message.contains("path")), "{why}");

    let as_host = |host: &str| Client::new(cluster.gateway(8080)).with("host", host).with("x-client", host);
    assert_eq!(as_host("nowhere.example").get("/").await.expect(500).json()["reason"], "invalid_backend");
    assert_eq!(as_host("lorries.example").get("/").await.expect(500).json()["reason"], "invalid_backend");
    // What was there before works, and so does what comes after.
    cluster.edge().get("/books/2").await.expect(200);
    let _good = Applied::new(&route("good", "good.example", &to("catalogue")));
    condition("good", "Accepted", "True");
    condition("good", "ResolvedRefs", "True");
    arrives(&as_host("good.example"), "/books/2", 200).await;
}

/// Asks until the answer has this status.
async fn arrives(client: &Client, target: &str, status: u16) {
    for _ in 0..100 {
        if client.get(target).await.status == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    client.get(target).await.expect(status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn a_reference_to_another_namespace_needs_a_grant() {
    let cluster = Cluster::ready();
    let _route = Applied::new(&route("abroad", "abroad.example", "  - backendRefs: [{ name: library, namespace: outside, port: 8080 }]\n"));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: library, namespace: outside }\nspec:\n  \
                 from: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bookshop }]\n  to: [{ group: \"\", kind: Service, name: library }]\n";
    let resolved = |status: &str| {
        eventually(&format!("ResolvedRefs is {status}"), || {
            route_condition("abroad", "ResolvedRefs").filter(|condition| condition["status"] == status)
        })
    };
    let client = Client::new(cluster.gateway(8080)).with("host", "abroad.example").with("x-client", "abroad");
    assert_eq!(resolved("False")["reason"], "RefNotPermitted");
    arrives(&client, "/books/2", 500).await;
    assert_eq!(client.get("/books/2").await.expect(500).json()["reason"], "invalid_backend");
    apply(grant);
    resolved("True");
    arrives(&client, "/books/2", 200).await;
    // Taken back, it is closed again.
    delete(grant);
    resolved("False");
    arrives(&client, "/books/2", 500).await;
}
