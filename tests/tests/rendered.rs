//! What `selvage render` writes is enough: the whole bookshop from files, one proxy a process, no controller anywhere.

use selvage_tests::client::crypto;
use selvage_tests::program::{Program, listening, program};
use selvage_tests::{Client, Directory};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The block of addresses of this test: the last that `selvage up` would take.
const OCTET: u8 = 126;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bookshop_runs_from_rendered_files_alone() {
    crypto();
    let directory = Directory::copy_of("examples/bookshop");
    directory.write(".selvage/addresses.json", &format!(r#"{{"octet": {OCTET}}}"#));
    let mut processes = Vec::new();
    for (name, role) in [("public", "gateway"), ("storefront", "mesh-agent"), ("catalogue", "mesh-agent"), ("orders", "mesh-agent")] {
        let out = directory.path().join(format!("{name}.yaml"));
        let rendered =
            Command::new(program("selvage")).arg("render").arg(directory.path()).args(["--for", name, "--out"]).arg(&out).output();
        let rendered = rendered.expect("selvage runs");
        assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
        let secrets = directory.path().join(format!("{name}.secrets.yaml"));
        assert_eq!(std::fs::metadata(&secrets).expect("a secrets file").permissions().mode() & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&out).expect("a file").contains("PRIVATE KEY"), "{name}");
        processes.push(Program::start(role, &["run", "--config", out.to_str().expect("a path"), "--access-log", "off"]));
    }
    // Pods, Services and Gateways are numbered in the order of their names.
    let address = |row: u8, number: u8| IpAddr::from([127, OCTET, row, number]);
    let (catalogue, orders, storefront) = (1, 2, 3);
    let services = |pod: u8| {
        let host = |service: u8| address(16 + pod, service).to_string();
        [
            ("CATALOGUE_SERVICE_HOST", host(catalogue)),
            ("CATALOGUE_SERVICE_PORT", "8080".to_string()),
            ("ORDERS_SERVICE_HOST", host(orders)),
            ("ORDERS_SERVICE_PORT", "8080".to_string()),
        ]
    };
    for (name, pod) in [("catalogue", catalogue), ("orders", orders), ("storefront", storefront)] {
        let listen = SocketAddr::new(address(3, pod), 8080);
        processes.push(Program::start_with("bookshop", &[name, "--listen", &listen.to_string()], &services(pod)));
        listening(listen).await;
        listening(SocketAddr::new(address(2, pod), 8080)).await;
    }
    let gateway = SocketAddr::new(address(1, 1), 8080);
    listening(gateway).await;
    let client = Client::new(gateway).with("x-client", "rendered");
    let answer = client.get("/books/2").await.expect(200).json();
    assert_eq!(answer["answer"]["seen"]["selvage-principal"], "spiffe://cluster.local/ns/bookshop/sa/storefront");
    client.get("/my/orders/17").await.expect(200);
    assert_eq!(client.get("/orders/17").await.expect(403).json()["policy"], "AuthorizationPolicy/bookshop/orders-callers");
}
