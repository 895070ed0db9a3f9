//! Captured connections, in network namespaces of their own, captured by `mesh-agent init` as in a pod.
//!
//! ```text
//! pod:      proxy of `orders` (UID 2173), edge and sidecar at once; application and callers under other users
//! peer:     proxy of `stock`, a sidecar that takes mesh TLS only; its application
//! outside:  callers and applications without a proxy
//! ```
//!
//! Needs root, `ip`, `nft` and `nsenter`: it says so where they are missing.

#[path = "capture/init.rs"]
mod init;
#[path = "capture/network.rs"]
mod network;
#[path = "capture/resources.rs"]
mod resources;

use network::Network;
use resources::{of_orders, of_stock};
use selvage_config::resource::listener::MeshMode;
use selvage_tests::standalone::Authority;
use serde_json::json;

/// The proxy's user and group, as in the cluster.
const PROXY: u32 = 2173;
/// The application's.
const APPLICATION: u32 = 3000;
const INBOUND: u16 = 15306;
const OUTBOUND: u16 = 15301;
const EDGE: u16 = 18080;

#[test]
fn one_proxy_is_edge_and_sidecar_at_once() {
    selvage_tests::client::crypto();
    let network = Network::captured(&EDGE.to_string());
    let (pod, outside) = (network.pod.clone(), network.outside.clone());
    let _application = network.application(&pod, "0.0.0.0:8080");
    let _remote = network.application(&outside, "10.77.0.3:9090");
    let _unknown = network.application(&outside, "10.77.0.3:9099");
    let proxy = network.agent(&pod, "10.77.0.2", &of_orders(&Authority::new(), MeshMode::Permissive), "");

    // The edge.
    network.through(&outside, &format!("10.77.0.2:{EDGE}"), "shop.example", "/edge");
    network.refused(&outside, &format!("10.77.0.2:{EDGE}"), "shop.example", "/secret/x", "remote");

    // Inbound, by either address of the pod: the guard on the pair holds whatever address or Host is used.
    for address in ["10.77.0.2:8080", "10.77.0.5:8080"] {
        for host in ["orders.shop", "10.77.0.2:8080", "other.example", "remote.shop"] {
            network.through(&outside, address, host, "/inbound");
            network.refused(&outside, address, host, "/admin/x", "inside");
            network.refused(&outside, address, host, "/x/..//admin/", "inside");
        }
    }

    // Outbound to a Service: its routes and guards, though the address exists nowhere.
    network.through(&pod, "10.96.0.10:80", "remote.shop", "/outbound");
    network.through(&pod, "10.96.0.10:80", "anything.example", "/outbound");
    network.refused(&pod, "10.96.0.10:80", "remote.shop", "/secret/x", "remote");
    // Outbound to an unknown destination: untouched, whatever Host it names.
    network.through(&pod, "10.77.0.3:9099", "remote.shop", "/unknown");
    network.through(&pod, "10.77.0.3:9099", "other.example", "/secret/unknown");

    // A destination that is the proxy itself is refused, and does not go round in circles.
    network.closed(&outside, &format!("10.77.0.2:{INBOUND}"));
    network.denied(&outside, &format!("10.77.0.2:{OUTBOUND}"), "/", "invalid_backend");
    for port in [INBOUND, OUTBOUND] {
        network.closed(&pod, &format!("10.77.0.2:{port}"));
        network.closed(&pod, &format!("127.0.0.1:{port}"));
    }
    // And after all that everything is served as before.
    network.through(&outside, "10.77.0.2:8080", "orders.shop", "/after");
    network.through(&pod, "10.96.0.10:80", "remote.shop", "/after");
    // It was all captured: without the proxy nothing passes, known or unknown.
    drop(proxy);
    network.closed(&outside, "10.77.0.2:8080");
    network.closed(&pod, "10.96.0.10:80");
    network.closed(&pod, "10.77.0.3:9099");
}

#[test]
fn undeclared_ports_lead_to_the_application_under_its_guards_and_never_to_the_proxy_or_loopback() {
    selvage_tests::client::crypto();
    let network = Network::captured("");
    let (pod, outside) = (network.pod.clone(), network.outside.clone());
    let _undeclared = network.application(&pod, "10.77.0.2:7000");
    let _debug = network.application(&pod, "127.0.0.1:7001");
    let _agent = network.agent(&pod, "10.77.0.2", &of_orders(&Authority::new(), MeshMode::Permissive), "");
    // By the pod's other address too: the proxy hands it to the one it knows the application by.
    for address in ["10.77.0.2:7000", "10.77.0.5:7000"] {
        network.through(&outside, address, "orders.shop", "/undeclared");
        network.refused(&outside, address, "orders.shop", "/hidden/x", "workload");
        // That is on the Service, which has no such port.
        network.through(&outside, address, "orders.shop", "/admin/x");
    }
    // Not even what is on loopback on that port, nor what is not there at all.
    for address in ["10.77.0.2:7001", "10.77.0.2:7002"] {
        let (status, body) = network.call(&outside, address, "orders.shop", "/");
        assert!((502..=504).contains(&status), "{address}: {status} {body}");
    }
    // Ports of the proxy, whether something listens there (the edge, outbound capture) or not (admin).
    for port in [EDGE, OUTBOUND, 15390, 15399] {
        network.denied(&outside, &format!("10.77.0.2:{port}"), "/config", "invalid_backend");
    }
    network.closed(&outside, &format!("10.77.0.2:{INBOUND}"));
    // The pod itself is not in its own way.
    network.through(&pod, "127.0.0.1:7001", "localhost", "/own");
    network.through(&pod, "10.77.0.2:7000", "orders.shop", "/own");
}

#[test]
fn pods_speak_mesh_tls_whatever_address_they_are_called_by() {
    selvage_tests::client::crypto();
    let network = Network::captured("");
    let (pod, peer, outside) = (network.pod.clone(), network.peer.clone(), network.outside.clone());
    let _applications = ["8080", "8090", "7000"].map(|port| network.application(&peer, &format!("10.77.0.4:{port}")));
    let _db = network.start(&peer, APPLICATION, &["greeter", "10.77.0.4:5432"], "");
    let _own = [network.application(&pod, "10.77.0.2:8080"), network.start(&pod, APPLICATION, &["greeter", "10.77.0.2:6379"], "")];
    let _others = ["9090", "9091"].map(|port| network.application(&outside, &format!("10.77.0.3:{port}")));
    let authority = Authority::new();
    let _agents = [
        network.agent(&pod, "10.77.0.2", &of_orders(&authority, MeshMode::Strict), ""),
        network.agent(&peer, "10.77.0.4", &of_stock(&authority, MeshMode::Strict), ""),
    ];

    // The peer takes nothing else than mesh TLS, so what is answered was that.
    for port in ["8080", "8090", "7000"] {
        network.denied(&outside, &format!("10.77.0.4:{port}"), "/plain", "mesh_required");
    }
    network.through(&pod, "10.96.0.20:80", "stock.shop", "/routed/by-cluster-address");
    network.through(&pod, "10.77.0.4:8080", "stock.shop", "/by-pod-address");
    network.through(&pod, "10.77.0.4:8080", "anything.example", "/whatever-host");
    network.through(&pod, "10.77.0.4:8090", "stock-0.replicas.shop", "/headless");
    // The Service's routes hold for the Service's address alone.
    assert_eq!(network.call(&pod, "10.96.0.20:80", "stock.shop", "/by-cluster-address").0, 404);
    // The target's guards judge it as any other.
    for address in ["10.77.0.4:8080", "10.77.0.4:8090"] {
        network.refused(&pod, address, "stock.shop", "/admin/x", "stock");
    }
    // A port that is no endpoint is unknown to the caller, so it is called in plain, and the target refuses that.
    network.denied(&pod, "10.77.0.4:7000", "/", "mesh_required");

    // Opaque TCP, by both addresses; the server speaks first and is heard at once, because the Service says what it is.
    for address in ["10.96.0.21:5432", "10.77.0.4:5432"] {
        network.speaks_first(&pod, address, "hello end");
    }
    assert_eq!(network.talk(&outside, "10.77.0.4:5432", ""), "reset", "plain, to a strict opaque port");

    // A pod that calls its own Service comes in where everybody does.
    network.through(&pod, "10.96.0.30:80", "orders.shop", "/hairpin");
    network.refused(&pod, "10.96.0.30:80", "orders.shop", "/admin/x", "inside");
    assert_eq!(network.talk(&pod, "10.96.0.31:6379", ""), "hello end");

    // An endpoint without a sidecar: the guards of all its Services, here.
    for address in ["10.77.0.3:9090", "10.96.0.10:80"] {
        network.through(&pod, address, "remote.shop", "/by-any-address");
        network.refused(&pod, address, "remote.shop", "/secret/x", "remote");
        network.refused(&pod, address, "remote.shop", "/twin/x", "twin");
    }
    // One that is said to have a sidecar is never spoken to in plain, though it would answer.
    network.through(&outside, "10.77.0.3:9091", "bare.shop", "/would-answer");
    for address in ["10.77.0.3:9091", "10.96.0.12:80"] {
        network.denied(&pod, address, "/", "upstream_connect");
    }
}

#[test]
fn unknown_destinations_behave_as_without_a_proxy() {
    selvage_tests::client::crypto();
    let network = Network::captured("");
    let (pod, outside) = (network.pod.clone(), network.outside.clone());
    let _greeter = network.start(&outside, APPLICATION, &["greeter", "10.77.0.3:2525"], "");
    let _six = network.application(&outside, "[fd77::3]:9099");
    let _agent = network.agent(&pod, "10.77.0.2", &of_orders(&Authority::new(), MeshMode::Strict), "");
    // A server that speaks first is heard long before detection would give up on the client.
    network.speaks_first(&pod, "10.77.0.3:2525", "hello end");
    // Bytes that are no HTTP are passed on as they are.
    assert_eq!(network.talk(&pod, "10.77.0.3:2525", "EHLO me\r\n"), "hello EHLO me end");
    // Nobody there: broken off, not ended in order.
    assert_eq!(network.talk(&pod, "10.77.0.3:2526", "EHLO me\r\n"), "reset");
    // Who waits for it is told too.
    network.speaks_first(&pod, "10.77.0.3:2526", "reset");
    // IPv6 is captured and passed through as IPv4 is.
    network.through(&pod, "[fd77::3]:9099", "six.example", "/six");
}

#[test]
fn probes_reach_the_application_where_only_its_fellows_may_call_it() {
    selvage_tests::client::crypto();
    let network = Network::captured("");
    let (pod, outside) = (network.pod.clone(), network.outside.clone());
    let application = network.application(&pod, "10.77.0.2:8080");
    let probes = json!({
        "/probe/app/livez": { "httpGet": { "path": "/live", "port": 8080 } },
        "/probe/app/readyz": { "httpGet": { "path": "/status/500", "port": 8080 } },
        "/probe/app/startupz": { "tcpSocket": { "port": 8080 } },
    });
    let _agent = network.agent(&pod, "10.77.0.2", &of_orders(&Authority::new(), MeshMode::Strict), &probes.to_string());
    let health = |target: &str| network.call(&outside, "10.77.0.2:15315", "10.77.0.2", target).0;
    network.denied(&outside, "10.77.0.2:8080", "/live", "mesh_required");
    assert_eq!(health("/readyz"), 200);
    assert_eq!((health("/probe/app/livez"), health("/probe/app/readyz"), health("/probe/app/startupz")), (200, 503, 200));
    assert_eq!(health("/probe/other/livez"), 404);
    drop(application);
    assert_eq!((health("/probe/app/livez"), health("/probe/app/startupz"), health("/readyz")), (503, 503, 200));
}
