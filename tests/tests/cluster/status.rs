//! What the platform says of itself: conditions that are true, `selvage status`, and what it all weighs.

use super::ORDERS_CALLERS;
use selvage_tests::Directory;
use selvage_tests::cluster::{Applied, Cluster, eventually, json, pods, working_sets};
use selvage_tests::program::program;
use serde_json::Value;
use std::process::Command;

/// A condition of a policy's first ancestor that is ours, for its present generation.
fn policy_condition(kind: &str, name: &str, condition: &str) -> Option<Value> {
    let policy = json(kind, "bookshop", name);
    let ancestors = policy["status"]["ancestors"].as_array()?.clone();
    let ours = ancestors.into_iter().find(|ancestor| ancestor["controllerName"] == "selvage.dev/controller")?;
    let generation = &policy["metadata"]["generation"];
    ours["conditions"].as_array()?.iter().find(|one| one["type"] == condition && &one["observedGeneration"] == generation).cloned()
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_policy_that_every_proxy_holds_is_enforced() {
    Cluster::ready();
    for (kind, name) in [("authorizationpolicy", "orders-callers"), ("ratelimitpolicy", "per-client"), ("trafficpolicy", "orders")] {
        for condition in ["Accepted", "ResolvedRefs", "Enforced"] {
            eventually(&format!("{kind} {name} is {condition}"), || {
                policy_condition(kind, name, condition).filter(|said| said["status"] == "True")
            });
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_guard_that_some_callers_can_go_round_says_so() {
    Cluster::ready();
    // The library has no sidecar: who has none either reaches it unasked.
    let _policy = Applied::new(
        "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: library, namespace: outside }\nspec:\n  \
         targetRefs: [{ kind: Service, name: library }]\n  rules:\n  - { name: r, action: Deny, to: [{ paths: [/secret] }] }\n",
    );
    let said = eventually("the policy has a status", || {
        let policy = json("authorizationpolicy", "outside", "library");
        let conditions = policy["status"]["ancestors"][0]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|one| one["type"] == "Enforced" && one["status"] != "Unknown")
    });
    assert_eq!((&said["status"], &said["reason"]), (&"False".into(), &"Bypassable".into()), "{said}");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_gateway_and_its_routes_say_how_they_are() {
    Cluster::ready();
    let class = json("gatewayclass", "", "selvage");
    assert_eq!(class["status"]["conditions"][0]["status"], "True", "{class:#}");
    let gateway = json("gateway", "bookshop", "public");
    for condition in ["Accepted", "Programmed"] {
        let conditions = gateway["status"]["conditions"].as_array().expect("conditions");
        assert!(conditions.iter().any(|one| one["type"] == condition && one["status"] == "True"), "{:#}", gateway["status"]);
    }
    for (listener, routes) in [("http", 2), ("https", 2)] {
        let listeners = gateway["status"]["listeners"].as_array().expect("listeners");
        let one = listeners.iter().find(|one| one["name"] == listener).unwrap_or_else(|| panic!("{listener}: {:#}", gateway["status"]));
        assert_eq!(one["attachedRoutes"], routes, "{one:#}");
    }
    // What was provisioned for it belongs to it, under the names that GEP-1762 gives.
    for kind in ["deployment", "service", "serviceaccount"] {
        let object = json(kind, "bookshop", "public-selvage");
        assert_eq!(object["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"], "public", "{kind}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["name"], "public", "{kind}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn selvage_status_lists_every_proxy() {
    Cluster::ready();
    let status = || {
        let output = Command::new(program("selvage")).arg("status").output().expect("selvage runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said
    };
    let sidecars = ["storefront", "catalogue", "orders", "guest"].map(|app| pods("bookshop", &format!("app={app}"))).into_iter().flatten();
    let edges = pods("bookshop", "gateway.networking.k8s.io/gateway-name=public").into_iter();
    for (pod, role) in sidecars.map(|pod| (pod, "sidecar")).chain(edges.map(|pod| (pod, "edge"))) {
        let line = eventually(&format!("{} is synced", pod.name), || {
            let said = status();
            let line = said.lines().find(|line| line.contains(&pod.name)).unwrap_or_else(|| panic!("{} is missing:\n{said}", pod.name));
            line.contains("synced").then(|| line.to_string())
        });
        for word in [role, env!("CARGO_PKG_VERSION"), "ends in"] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn weights_are_told_and_within_reason() {
    Cluster::ready();
    for (role, bytes) in working_sets() {
        eprintln!("measured: memory of the largest {role}: {:.1} MiB working set", bytes as f64 / f64::from(1 << 20));
        assert!((1 << 20..256 << 20).contains(&bytes), "{role}: {bytes} bytes");
    }
}

/// What `selvage explain` says of a request, from these manifests.
fn explained(bookshop: &Directory, request: &[&str]) -> Value {
    let output = Command::new(program("selvage")).arg("explain").arg(bookshop.path()).args(request).args(["-o", "json"]).output();
    let output = output.expect("selvage runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn explain_says_what_the_cluster_does() {
    let cluster = Cluster::ready();
    // The same manifests, read from the directory, and the caller that the bookshop itself does not have.
    let bookshop = Directory::copy_of("examples/bookshop");
    bookshop.write(
        "local/guest.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: { name: guest, namespace: bookshop, labels: { app: guest } }\nspec:\n  \
         serviceAccountName: guest\n  containers: [{ name: caller, image: any, command: [sleep, infinity] }]\n",
    );
    let said = explained(&bookshop, &["--gateway", "bookshop/public", "--url", "http://shop.example:8080/orders/17"]);
    let live = cluster.edge().with("host", "shop.example").get("/orders/17").await.expect(403).json();
    assert_eq!((&said["reason"], &said["policy"]), (&live["reason"], &live["policy"]), "{said:#}");
    assert_eq!(said["policy"], ORDERS_CALLERS, "{said:#}");

    let said = explained(&bookshop, &["--from", "bookshop/guest", "--url", "http://orders.bookshop:8080/orders/17"]);
    let live = cluster.call("bookshop/guest", "orders.bookshop:8080", "/orders/17");
    assert_eq!(live["status"], 403, "{live}");
    assert_eq!((&said["reason"], &said["policy"]), (&live["body"]["reason"], &live["body"]["policy"]), "{said:#}");
    assert_eq!(said["policy"], ORDERS_CALLERS, "{said:#}");
}
