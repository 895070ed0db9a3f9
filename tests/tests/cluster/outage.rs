//! What happens when parts are down: proxies serve, and restart from what they had last.

use selvage_tests::cluster::{Cluster, Load, SYSTEM, crash, eventually, json, kubectl, pods, synced};
use std::time::Duration;

/// The proxies of the bookshop's Gateway.
const EDGE: &str = "gateway.networking.k8s.io/gateway-name=public";

/// The controller scaled away, until it is dropped.
struct Away(u64);

impl Away {
    fn new() -> Self {
        let replicas = json("deployment", SYSTEM, "selvage-controller")["spec"]["replicas"].as_u64().expect("replicas");
        scale(0);
        eventually("the controller is gone", || {
            let left = kubectl(&[
                "get",
                "endpointslices",
                "-n",
                SYSTEM,
                "-l",
                "kubernetes.io/service-name=selvage-controller",
                "-o",
                "jsonpath={..addresses}",
            ]);
            left.trim().is_empty().then_some(())
        });
        Self(replicas)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        scale(self.0);
        kubectl(&["rollout", "status", "-n", SYSTEM, "deployment/selvage-controller", "--timeout=120s"]);
        synced();
    }
}

fn scale(replicas: u64) {
    kubectl(&["scale", "-n", SYSTEM, "deployment/selvage-controller", &format!("--replicas={replicas}")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn without_their_controller_proxies_serve_and_come_back_from_what_they_had() {
    let cluster = Cluster::ready();
    let load = Load::start(&cluster.edge(), "/books/2", 4);
    let away = Away::new();
    let tally = load.end().await;
    tally.expect_no_failure(50);
    // The sidecars of the catalogue, then the edge: all killed at once, and back with the controller still away.
    crash(&pods("bookshop", "app=catalogue"), "selvage-proxy");
    crash(&pods("bookshop", EDGE), "selvage-gateway");
    let answer = cluster.edge().get("/books/2").await.expect(200).json();
    assert_eq!(answer["answer"]["seen"]["selvage-principal"], super::identity("storefront"), "its certificate came back too");
    let refused = cluster.edge().get("/orders/17").await.expect(403).json();
    assert_eq!(refused["policy"], super::ORDERS_CALLERS, "a guard is no less in force after a restart");
    drop(away);
    cluster.edge().get("/books/2").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn endpoints_are_replaced_under_load_without_a_failed_request() {
    let cluster = Cluster::ready();
    let load = Load::start(&cluster.edge(), "/books/2", 4);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for deployment in ["catalogue", "storefront"] {
        kubectl(&["rollout", "restart", "-n", "bookshop", &format!("deployment/{deployment}")]);
        kubectl(&["rollout", "status", "-n", "bookshop", &format!("deployment/{deployment}"), "--timeout=120s"]);
        eventually("the old pods are gone", || (pods("bookshop", &format!("app={deployment}")).len() == 2).then_some(()));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tally = load.end().await;
    eprintln!("measured: endpoints replaced: {tally}");
    tally.expect_no_failure(200);
}
