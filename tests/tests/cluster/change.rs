//! Changes: how soon they hold everywhere, and that nobody notices them who is not meant to.

use http::Method;
use selvage_tests::Client;
use selvage_tests::cluster::{Applied, Cluster, Load, SYSTEM, apply, crash, pods, synced};
use std::time::{Duration, Instant};

/// Longer than a change may ever take to hold.
const PATIENCE: Duration = Duration::from_secs(30);

/// A policy on the catalogue that refuses one path.
fn refusing(path: &str) -> String {
    format!(
        "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: changing, namespace: bookshop }}\nspec:\n  \
         targetRefs: [{{ kind: Service, name: catalogue }}]\n  rules:\n  - {{ name: r, action: Deny, to: [{{ paths: [\"{path}\"] }}] }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn an_applied_policy_is_enforced_soon() {
    Cluster::ready();
    let _changing = Applied::new(&refusing("/gone/first"));
    let targets: Vec<Client> = pods("bookshop", "app=catalogue").iter().map(|pod| Client::new(pod.at(8080))).collect();
    let (mut whole, mut after) = (Vec::new(), Vec::new());
    for round in 0..50 {
        let path = format!("/gone/{round}");
        let begun = Instant::now();
        apply(&refusing(&path));
        let applied = Instant::now();
        // In force everywhere: every pod of the target refuses it by itself.
        for target in &targets {
            let mut connection = target.connect().await.expect("a connection");
            while connection.send(Method::GET, &path, "").await.expect("an answer").status != 403 {
                assert!(begun.elapsed() < PATIENCE, "round {round}: not enforced");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        whole.push(begun.elapsed());
        after.push(applied.elapsed());
    }
    for (what, times) in [("from the start of kubectl apply", &mut whole), ("from its end", &mut after)] {
        times.sort();
        eprintln!("measured: enforced by both pods, of 50, {what}: p50 {:.0?}, p99 {:.0?}, most {:.0?}", times[24], times[49], times[49]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn two_hundred_changes_and_a_killed_controller_fail_no_request() {
    let cluster = Cluster::ready();
    // Ten objects of every kind that a proxy on this way has to compile, changed twenty times.
    let objects = |round: u32| -> String {
        (0..10)
            .map(|number| match number % 4 {
                0 => format!(
                    "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: change-{number}, namespace: bookshop }}\nspec:\n  \
                     targetRefs: [{{ kind: Service, name: catalogue }}]\n  rules:\n  - {{ name: r, action: Deny, to: [{{ paths: [\"/never/{round}\"] }}] }}\n---\n"
                ),
                1 => format!(
                    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: change-{number}, namespace: bookshop }}\nspec:\n  \
                     parentRefs: [{{ name: public }}]\n  hostnames: [change-{round}.example]\n  rules:\n  - backendRefs: [{{ name: catalogue, port: 8080 }}]\n---\n"
                ),
                2 => format!(
                    "apiVersion: selvage.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{ name: change-{number}, namespace: bookshop }}\nspec:\n  \
                     targetRefs: [{{ kind: Service, name: storefront }}]\n  limits:\n  - {{ name: l, requests: {}, per: 1s }}\n---\n",
                    100_000 + round
                ),
                _ => format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{ name: change-{number}, namespace: bookshop }}\nspec:\n  \
                     selector: {{ app: catalogue }}\n  ports: [{{ name: http, port: {}, targetPort: http }}]\n---\n",
                    9000 + round
                ),
            })
            .collect()
    };
    let _changes = Applied::new(&objects(0));
    let load = Load::start(&cluster.edge(), "/books/2", 4);
    let begun = Instant::now();
    for round in 1..=20 {
        apply(&objects(round));
        if round == 10 {
            crash(&pods(SYSTEM, "app.kubernetes.io/name=selvage"), "controller");
        }
    }
    // The last change is in force, and so the controller is back.
    let last = Client::new(cluster.gateway(8080)).with("host", "change-20.example").with("x-client", "changes");
    while last.get("/books/2").await.status != 200 {
        assert!(begun.elapsed() < PATIENCE * 4, "the last change does not arrive");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let tally = load.end().await;
    eprintln!("measured: 200 object changes and a killed controller in {:.1?}: {tally}", begun.elapsed());
    tally.expect_no_failure(500);
    synced();
}
