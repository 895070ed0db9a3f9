//! What Helm takes away and what it leaves. By its name the last of all: the others need the release that goes here, and comes back.

use selvage_tests::cluster::{Cluster, Load, SYSTEM, eventually, helm, install_chart, json, kubectl, put_back, synced, try_kubectl};
use serde_json::Value;
use std::time::Duration;

const CRD: &str = "authorizationpolicies.selvage.dev";
/// What `kubectl explain` shows of its spec.
const DESCRIPTION: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/description";

fn description() -> String {
    let definition = json("customresourcedefinition", "", CRD);
    definition.pointer(DESCRIPTION).and_then(Value::as_str).expect("a description").to_string()
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_definition_that_somebody_broke_comes_back_with_an_upgrade() {
    Cluster::ready();
    let before = description();
    let patch = format!("[{{\"op\": \"replace\", \"path\": \"{DESCRIPTION}\", \"value\": \"broken by hand\"}}]");
    kubectl(&["patch", "crd", CRD, "--type=json", "-p", &patch]);
    assert_ne!(description(), before);
    install_chart();
    assert_eq!(description(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn an_uninstall_leaves_what_was_written_and_proxies_that_serve() {
    struct Reinstalled;
    impl Drop for Reinstalled {
        fn drop(&mut self) {
            put_back(|| {
                install_chart();
                synced();
            });
        }
    }
    let cluster = Cluster::ready();
    let (policy, authority) =
        (json("authorizationpolicy", "bookshop", "orders-callers"), json("secret", SYSTEM, "selvage-ca")["data"].clone());
    let load = Load::start(&cluster.edge(), "/books/2", 4);
    {
        let _reinstalled = Reinstalled;
        helm(&["uninstall", "selvage", "-n", SYSTEM, "--wait", "--timeout", "120s"]);
        eventually("the controller is gone", || {
            let left = kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"]);
            left.trim().is_empty().then_some(())
        });
        assert!(
            try_kubectl(&["get", "validatingwebhookconfiguration", "selvage-validation"]).is_err(),
            "a webhook is left that nobody answers"
        );
        kubectl(&["get", "crd", CRD]);
        kubectl(&["get", "gatewayclass", "selvage"]);
        let kept = json("authorizationpolicy", "bookshop", "orders-callers");
        assert_eq!((&kept["metadata"]["uid"], &kept["spec"]), (&policy["metadata"]["uid"], &policy["spec"]));
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.edge().get("/books/2").await.expect(200);
        let refused = cluster.edge().get("/orders/17").await.expect(403).json();
        assert_eq!(refused["policy"], super::ORDERS_CALLERS, "a guard goes on without its controller");
    }
    assert_eq!(json("secret", SYSTEM, "selvage-ca")["data"], authority, "every workload would be a stranger");
    let tally = load.end().await;
    eprintln!("measured: uninstalled and installed again: {tally}");
    tally.expect_no_failure(100);
}
