//! What happens when parts are down: proxies serve, and restart from what they had last.

use selvage_tests::Client;
use selvage_tests::cluster::{
    Cluster, Load, SYSTEM, apply, crash, delete, eventually, json, kubectl, pods, put_back, synced, try_apply, try_kubectl,
};
use std::time::{Duration, Instant};

/// The proxies of the bookshop's Gateway.
const EDGE: &str = "gateway.networking.k8s.io/gateway-name=public";

/// The controller scaled away, until it is dropped.
struct Away(u64);

impl Away {
    fn new() -> Self {
        let replicas = json("deployment", SYSTEM, "selvage-controller")["spec"]["replicas"].as_u64().expect("replicas");
        scale(0);
        // Also those that end, which serve a little longer.
        eventually("the controller is gone", || {
            let left = kubectl(&["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=selvage", "-o", "name"]);
            left.trim().is_empty().then_some(())
        });
        Self(replicas)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let replicas = self.0;
        put_back(|| {
            scale(replicas);
            kubectl(&["rollout", "status", "-n", SYSTEM, "deployment/selvage-controller", "--timeout=120s"]);
            synced();
        });
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
    // What would have to be judged is refused, not let through: a pod without its sidecar, a policy that nobody has read.
    for refused in [POD, POLICY] {
        let why = try_apply(refused).expect_err("it is admitted with the controller away");
        assert!(why.contains("failed calling webhook"), "{why}");
    }
    drop(away);
    cluster.edge().get("/books/2").await.expect(200);
    for admitted in [POD, POLICY] {
        apply(admitted);
        delete(admitted);
    }
}

/// A pod that asks for a sidecar.
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: { name: meanwhile, namespace: bookshop }\nspec:\n  terminationGracePeriodSeconds: 1\n  \
    containers: [{ name: caller, image: \"selvage-caller:test\", command: [caller, wait] }]\n";
/// A policy that changes nothing for anybody.
const POLICY: &str = "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: meanwhile, namespace: bookshop }\nspec:\n  \
    targetRefs: [{ kind: Service, name: catalogue }]\n  rules: [{ name: r, action: Deny, to: [{ paths: [/never] }] }]\n";

/// Who holds the lease: the pod, and which start of it.
fn holder() -> String {
    json("lease", SYSTEM, "selvage-controller")["spec"]["holderIdentity"].as_str().unwrap_or_default().to_string()
}

/// A lease lasts 15 seconds, and is looked at every 2; the rest is for a busy machine.
const TAKEOVER: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn another_takes_over_from_a_holder_of_the_lease_that_is_killed() {
    let cluster = Cluster::ready();
    synced();
    let before = holder();
    let (pod, _) = before.rsplit_once('_').expect("a pod's name and a number");
    let killed = pods(SYSTEM, "app.kubernetes.io/name=selvage").into_iter().find(|one| one.name == pod).expect("it is a pod");
    let load = Load::start(&cluster.edge(), "/books/2", 4);
    let begun = Instant::now();
    let watch = std::thread::spawn(move || {
        eventually("another holds the lease", || Some(holder()).filter(|now| !now.is_empty() && *now != before));
        begun.elapsed()
    });
    crash(&[killed], "controller");
    let taken_over = watch.join().expect("the lease is taken over");
    synced();
    let tally = load.end().await;
    eprintln!("measured: taken over after {taken_over:.1?}, every proxy synced after {:.1?}: {tally}", begun.elapsed());
    assert!(taken_over < TAKEOVER, "{taken_over:?}");
    tally.expect_no_failure(100);
    // It serves: what is written now arrives.
    let path = "/taken-over";
    let policy = POLICY.replace("/never", path);
    let _policy = selvage_tests::cluster::Applied::new(&policy);
    for pod in pods("bookshop", "app=catalogue") {
        let target = Client::new(pod.at(8080));
        let asked = Instant::now();
        while target.get(path).await.status != 403 {
            assert!(asked.elapsed() < selvage_tests::cluster::PATIENCE, "nothing new arrives");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_rollout_of_the_controller_refuses_no_pod_and_no_policy() {
    Cluster::ready();
    let rolled = std::thread::spawn(|| {
        kubectl(&["rollout", "restart", "-n", SYSTEM, "deployment/selvage-controller"]);
        kubectl(&["rollout", "status", "-n", SYSTEM, "deployment/selvage-controller", "--timeout=180s"]);
        // Those that end go on for a while.
        eventually("the old pods are gone", || {
            let all = kubectl(&["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=selvage", "-o", "name"]);
            (all.lines().count() == 2).then_some(())
        });
    });
    let scratch = tempfile::tempdir().expect("a folder");
    let both = scratch.path().join("both.yaml");
    std::fs::write(&both, format!("{POD}---\n{POLICY}")).expect("it is written");
    let (mut asked, mut refused) = (0, Vec::new());
    while !rolled.is_finished() {
        asked += 1;
        if let Err(why) = try_kubectl(&["create", "--dry-run=server", "-f", &both.to_string_lossy()]) {
            refused.push(why);
        }
    }
    rolled.join().expect("the controller is rolled out");
    synced();
    eprintln!("measured: {asked} pods and policies during a rollout of the controller, {} refused", refused.len());
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(asked >= 10, "only {asked} were tried");
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
