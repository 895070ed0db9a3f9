//! What passes between pods: mutual TLS without configuration, plain peers by the mode, every protocol, every way to name a destination.

use super::identity;
use http::Version;
use selvage_tests::Client;
use selvage_tests::cluster::{Applied, Cluster, Pod, eventually, kubectl, pod, pods, put_back};
use selvage_tests::grpc::Catalogue;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// The whole mesh in strict mode, until it is dropped.
pub struct Strict;

impl Strict {
    pub fn on() -> Self {
        set_mode("Strict");
        let strict = Self;
        // A plain caller is the proof that it has arrived everywhere.
        for pod in pods("bookshop", "app=catalogue") {
            let target = pod.at(8080).to_string();
            eventually("strict mode arrives", || {
                (Cluster::ready().call("outside/stranger", &target, "/books")["status"] != 200).then_some(())
            });
        }
        strict
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        put_back(|| {
            set_mode("Permissive");
            for pod in pods("bookshop", "app=catalogue") {
                let target = pod.at(8080).to_string();
                eventually("permissive mode is back", || {
                    (Cluster::ready().call("outside/stranger", &target, "/books")["status"] == 200).then_some(())
                });
            }
        });
    }
}

fn set_mode(mode: &str) {
    kubectl(&["patch", "meshconfig", "default", "--type=merge", "-p", &format!("{{\"spec\":{{\"mtls\":\"{mode}\"}}}}")]);
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn every_hop_of_the_mesh_proves_who_calls() {
    let cluster = Cluster::ready();
    let catalogue = &pods("bookshop", "app=catalogue")[0];
    // By name, by address of the Service, by pod address, by headless name: the target's sidecar saw the guest's certificate.
    let service = selvage_tests::cluster::json("service", "bookshop", "catalogue");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    for to in [
        "catalogue:8080",
        "catalogue.bookshop.svc.cluster.local:8080",
        &format!("{address}:8080"),
        &catalogue.at(8080).to_string(),
        "catalogue-pods:8080",
    ] {
        let said = cluster.call("bookshop/guest", to, "/books/2");
        assert_eq!(said["status"], 200, "{to}: {said}");
        assert_eq!(said["body"]["book"]["title"], "Middlemarch", "{to}: {said}");
        assert_eq!(said["body"]["seen"]["selvage-principal"], identity("guest"), "{to}: {said}");
    }
    // Nobody gives himself another name.
    let said = cluster.caller(
        "bookshop/guest",
        &["call", "catalogue:8080", "/books/2", "--header", &format!("selvage-principal: {}", identity("storefront"))],
    );
    assert_eq!(said["body"]["seen"]["selvage-principal"], identity("guest"), "{said}");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn plain_peers_are_served_in_permissive_mode_and_refused_in_strict() {
    let cluster = Cluster::ready();
    let service = "catalogue.bookshop:8080";
    let said = cluster.call("outside/stranger", service, "/books/2");
    assert_eq!(said["status"], 200, "{said}");
    assert!(said["body"]["seen"]["selvage-principal"].is_null(), "nobody proved anything: {said}");
    let forged = cluster
        .caller("outside/stranger", &["call", service, "/books/2", "--header", "selvage-principal: spiffe://cluster.local/ns/x/sa/y"]);
    assert!(forged["body"]["seen"]["selvage-principal"].is_null(), "{forged}");

    {
        let _strict = Strict::on();
        let said = cluster.call("outside/stranger", service, "/books/2");
        assert_eq!(said["body"]["reason"], "mesh_required", "{said}");
        let bell = pod("bookshop", "bell").at(7000).to_string();
        let said = cluster.caller("outside/stranger", &["say", &bell, "hello"]);
        assert!(said["error"].is_string(), "plain TCP is let in: {said}");
        // The mesh itself goes on, the edge included.
        let said = cluster.call("bookshop/guest", "catalogue:8080", "/books/2");
        assert_eq!(said["status"], 200, "{said}");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async { cluster.edge().get("/books/2").await.expect(200) });
        // Out of the mesh there is no mesh TLS to be had; nothing about that changes.
        let said = cluster.call("bookshop/guest", "library.outside:8080", "/books/2");
        assert_eq!(said["status"], 200, "{said}");
    }
    let said = cluster.call("outside/stranger", service, "/books/2");
    assert_eq!(said["status"], 200, "{said}");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn destinations_outside_the_mesh_pass_through() {
    let cluster = Cluster::ready();
    let library = pod("outside", "library");
    for to in ["library.outside:8080", &library.at(8080).to_string()] {
        let said = cluster.call("bookshop/guest", to, "/books/2");
        assert_eq!(said["status"], 200, "{to}: {said}");
        assert!(said["body"]["seen"]["selvage-principal"].is_null(), "{to}: {said}");
    }
    // The edge reaches through Services only what routes name; a port where nobody listens is refused, not hung.
    let said = cluster.call("bookshop/guest", &library.at(8099).to_string(), "/");
    assert!(said["error"].is_string() || said["status"].as_u64().is_some_and(|status| status >= 500), "{said}");
}

/// Longer than a pod that has failed once is left alone.
const BALANCED: Duration = Duration::from_secs(180);

/// The node, which is no part of the mesh and no pod.
const NODE: &str = "10.77.0.1";

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn what_the_cluster_knows_nothing_of_is_reached_as_without_a_mesh() {
    let cluster = Cluster::ready();
    // Says what it hears in capitals: ends with the test's process.
    let listener = std::net::TcpListener::bind((NODE, 0)).expect("these tests run on the node");
    let to = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || shout(stream));
        }
    });
    for from in ["bookshop/guest", "outside/stranger"] {
        let said = cluster.caller(from, &["say", &to, "anybody out there"]);
        assert_eq!(said["text"], "ANYBODY OUT THERE", "{from}: {said}");
    }
}

fn shout(mut stream: std::net::TcpStream) {
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        chunk.make_ascii_uppercase();
        if stream.write_all(&chunk[..count]).is_err() {
            return;
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_port_that_nobody_declared_is_reached() {
    let cluster = Cluster::ready();
    let _whisper = Applied::new(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: whisper, namespace: bookshop }\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - { name: caller, image: \"selvage-caller:test\", command: [caller, echo, \"0.0.0.0:7001\"] }\n",
    );
    kubectl(&["wait", "-n", "bookshop", "--for=condition=Ready", "--timeout=60s", "pod/whisper"]);
    let to = pod("bookshop", "whisper").at(7001).to_string();
    for from in ["bookshop/guest", "outside/stranger"] {
        // Its container may listen a moment after it has started.
        eventually("the whisper is heard", || {
            let said = cluster.caller(from, &["say", &to, "psst\n"]);
            (said["text"] == "PSST\n").then_some(())
        });
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn http2_and_grpc_leave_a_pod_as_they_are() {
    let cluster = Cluster::ready();
    let pod = pods("bookshop", "app=catalogue")[0].at(8080).to_string();
    for to in ["catalogue.bookshop:8080", "catalogue-pods.bookshop:8080", &pod] {
        let said = cluster.caller("bookshop/guest", &["call", to, "/books/2", "--http2"]);
        assert_eq!(said["status"], 200, "{to}: {said}");
        assert_eq!(said["body"]["seen"]["selvage-principal"], identity("guest"), "{to}: {said}");
        let said = cluster.caller("bookshop/guest", &["book", to, "3"]);
        assert_eq!(said["title"], "Moby-Dick", "{to}: {said}");
        assert_eq!(said["metadata"]["seen-selvage-principal"], identity("guest"), "{to}: {said}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn every_pod_of_a_service_answers_by_its_address_and_its_headless_name() {
    let cluster = Cluster::ready();
    let service = selvage_tests::cluster::json("service", "bookshop", "catalogue");
    let address = service["spec"]["clusterIP"].as_str().expect("an address");
    let all = pods("bookshop", "app=catalogue");
    assert_eq!(all.len(), 2);
    let count = |pod: &Pod| {
        let said = cluster.call("bookshop/guest", &pod.at(8080).to_string(), "/counters");
        said["body"]["counters"]["/books/4"].as_u64().unwrap_or_default()
    };
    let before: Vec<u64> = all.iter().map(count).collect();
    let begun = Instant::now();
    // Of two that have nothing to do the quicker one is asked, until the other has not been asked for some time: counting asks both, so it is rare.
    while !all.iter().zip(&before).all(|(pod, before)| count(pod) > *before) {
        assert!(begun.elapsed() < BALANCED, "only one pod answers");
        for _ in 0..50 {
            let said = cluster.call("bookshop/guest", &format!("{address}:8080"), "/books/4");
            assert_eq!(said["status"], 200, "{said}");
        }
    }
    // Which of its addresses a headless name is called at is the caller's own choice.
    cluster.call("bookshop/guest", "catalogue-pods.bookshop:8080", "/books/4")["status"]
        .as_u64()
        .filter(|status| *status == 200)
        .expect("200");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn opaque_tcp_passes_two_sidecars() {
    let cluster = Cluster::ready();
    let bell = pod("bookshop", "bell").at(7000).to_string();
    for from in ["bookshop/guest", "outside/stranger"] {
        for to in ["bell.bookshop:7000", &bell] {
            let said = cluster.caller(from, &["say", to, "ding dong"]);
            assert_eq!(said["text"], "DING DONG", "{from} to {to}: {said}");
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_pod_reaches_itself_as_others_do() {
    let cluster = Cluster::ready();
    let own = pod("bookshop", "bell").at(7000).to_string();
    for to in ["bell:7000", &own] {
        let said = cluster.caller("bookshop/bell", &["say", to, "anybody home"]);
        assert_eq!(said["text"], "ANYBODY HOME", "{to}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the test cluster: make e2e"]
async fn every_protocol_enters_at_the_edge() {
    let cluster = Cluster::ready();
    let two = cluster.edge().http2().get("/books/1").await.expect(200);
    assert_eq!(two.version, Version::HTTP_2);
    let https = Client::new(cluster.gateway(8443)).with("x-client", "cluster-tls");
    let answer = https.clone().tls(&cluster.tls, "bookshop.example").get("/books/1").await.expect(200).json();
    assert_eq!(answer["seen"]["x-forwarded-proto"], "https");
    let answer = https.http2().tls(&cluster.tls, "localhost").get("/books/1").await.expect(200);
    assert_eq!(answer.version, Version::HTTP_2);

    let catalogue = Catalogue::connect(cluster.gateway(8080), "grpc.bookshop.example").await;
    let (book, metadata) = catalogue.get_with(3, &[("x-client", "cluster-grpc")]).await.expect("a book");
    assert_eq!(book["title"], "Moby-Dick");
    assert_eq!(metadata.get("seen-selvage-principal").expect("the principal"), &*identity("public-selvage"));
    assert_eq!(catalogue.list().await.expect("books").len(), 4);
    assert_eq!(catalogue.get(99).await.expect_err("no such book").code(), tonic::Code::NotFound);
}
