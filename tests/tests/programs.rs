//! `gateway` and `mesh-agent` as programs: from a resource file alone, without a controller.

use selvage_tests::client::crypto;
use selvage_tests::program::{Program, listening, program};
use selvage_tests::{Client, Directory};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Addresses of this process's own: no other test uses them, and two runs beside each other differ.
fn own(last: u8) -> IpAddr {
    let id = std::process::id();
    Ipv4Addr::new(127, 200 + (id >> 8) as u8 % 50, id as u8, last).into()
}

fn configuration(listen: SocketAddr, application: SocketAddr, to: &str) -> String {
    format!(
        r#"apiVersion: selvage.dev/v1alpha1
kind: ProxyConfig
resources:
- key: Mesh/default
  class: core
  spec: {{ trustDomain: cluster.local, roots: [] }}
- key: Listener/shop/public#http
  class: core
  spec: {{ bind: {{ bound: "{listen}" }}, port: {port}, protocol: Http, clients: Outside, forward: routes }}
- key: Backend/shop/app#80
  class: core
  spec: {{ port: 80, protocol: Http, chain: [] }}
- key: Endpoints/shop/app#80
  class: core
  spec: {{ backend: "Backend/shop/app#80", endpoints: [{{ address: "{application}" }}] }}
- key: Route/shop/HTTPRoute.all
  class: core
  spec:
    object: {{ kind: HTTPRoute, namespace: shop, name: all }}
    parents: ["Listener/shop/public#http"]
    rules:
    - filters: [{{ requestHeaders: {{ set: [["x-version", "{to}"]] }} }}]
      backends: [{{ backend: "Backend/shop/app#80", weight: 1 }}]
"#,
        port = listen.port()
    )
}

/// Asks until the application sees this version, or time is up.
async fn sees(client: &Client, version: &str) {
    let begun = Instant::now();
    loop {
        let answer = client.get("/echo").await.expect(200).json();
        if answer["headers"]["x-version"] == version {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the change does not take effect: {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_programs_run_from_a_file_follow_it_and_refuse_a_bad_change() {
    crypto();
    let application = SocketAddr::new(own(10), 8080);
    let _bookshop = Program::start("bookshop", &["catalogue", "--listen", &application.to_string()]);
    listening(application).await;
    for (last, name) in [(1, "gateway"), (2, "mesh-agent")] {
        let directory = Directory::new();
        let (listen, admin) = (SocketAddr::new(own(last), 8080), SocketAddr::new(own(last), 15390));
        let file = directory.write("proxy.yaml", &configuration(listen, application, "one"));
        let path = file.to_str().expect("a path");
        let proxy =
            Program::start(name, &["run", "--config", path, "--admin", &admin.to_string(), "--threads", "2", "--access-log", "off"]);
        listening(admin).await;
        listening(listen).await;
        let (client, look) = (Client::new(listen), Client::new(admin));
        look.get("/readyz").await.expect(200);
        sees(&client, "one").await;
        // Another is live soon; a bad one is not, and what worked stays.
        directory.write("proxy.yaml", &configuration(listen, application, "two"));
        sees(&client, "two").await;
        directory.write("proxy.yaml", &configuration(listen, application, "three").replace("weight: 1", "weight: many"));
        proxy.until_said("is refused").await;
        assert_eq!(client.get("/echo").await.expect(200).json()["headers"]["x-version"], "two");
        directory.write("proxy.yaml", &configuration(listen, application, "four"));
        sees(&client, "four").await;

        assert!(look.get("/config").await.expect(200).text().contains("Route/shop/HTTPRoute.all"));
        let metrics = look.get("/metrics").await.expect(200).text();
        assert!(metrics.contains("selvage_config_generation"), "{metrics}");
        look.clone().with("host", "attacker.example").get("/config").await.expect(403);

        // SIGTERM: what is under way is finished.
        let slow = tokio::spawn(async move { client.get("/slow?ms=2000").await });
        let begun = Instant::now();
        while !look.get("/metrics").await.expect(200).text().contains("selvage_requests_in_flight 1\n") {
            assert!(begun.elapsed() < PATIENCE, "no request is under way");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy.signal("TERM");
        assert_eq!(proxy.ended().await, Some(0));
        slow.await.expect("it does not panic").expect(200);
        assert!(tokio::net::TcpStream::connect(listen).await.is_err(), "{name} still listens");
    }
}

#[test]
fn check_says_by_its_exit_code_and_by_name_whether_a_file_can_be_used() {
    let directory = Directory::new();
    let address = SocketAddr::new(own(1), 8080);
    let good = configuration(address, address, "x");
    for (text, code, named) in [
        (good.clone(), 0, ""),
        (good.replace("weight: 1", "weight: many"), 1, "HTTPRoute.all"),
        (good.replace("class: core", "class: heart"), 1, "resources[0]"),
        ("kind: Other\n".to_string(), 1, "proxy.yaml"),
    ] {
        let file = directory.write("proxy.yaml", &text);
        for name in ["gateway", "mesh-agent"] {
            let output = Command::new(program(name)).args(["check", "--config"]).arg(&file).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{name}: {said}");
            assert!(said.contains(named), "{name} does not name {named}: {said}");
        }
    }
    let missing = Command::new(program("gateway")).args(["check", "--config", "no-such-file.yaml"]).output().expect("it runs");
    assert_eq!(missing.status.code(), Some(1));
    let wrong = Command::new(program("gateway")).arg("fly").output().expect("it runs");
    assert_eq!(wrong.status.code(), Some(2));
}
