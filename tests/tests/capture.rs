//! Captured connections, in network namespaces of their own: one proxy that is edge and sidecar at once.
//!
//! ```text
//! namespace `outside`  10.77.0.3 ── veth ── 10.77.0.2, 10.77.0.5  namespace `pod`
//!   callers, a remote application            proxy (UID 2173), application and callers (other UIDs)
//!                                            nft: inbound ──► 15306, outbound of others than 2173 ──► 15301
//! ```
//!
//! Needs root, `ip` and `nft`: it says so where they are missing.

use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Clients, DestinationMatch, Forward};
use selvage_config::{BackendSpec, keys};
use selvage_policy::{Target, TargetKind};
use selvage_tests::standalone::{Authority, Resources, edge_listener, identity, inbound_listener, outbound_listener, service_chain};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};

/// The proxy's user and group, as in the cluster.
const PROXY: u32 = 2173;
/// The application's.
const APPLICATION: u32 = 3000;
const INBOUND: u16 = 15306;
const OUTBOUND: u16 = 15301;
const EDGE: u16 = 18080;

/// Runs a command that must succeed.
fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}`: {error}: this suite needs iproute2 and nftables"));
    assert!(output.status.success(), "`{command}`: {}: this suite needs root", String::from_utf8_lossy(&output.stderr));
}

/// Two connected network namespaces. They go with the test.
struct Network {
    pod: String,
    outside: String,
}

impl Network {
    fn new() -> Self {
        let id = std::process::id();
        let network = Self { pod: format!("selvage-pod-{id}"), outside: format!("selvage-out-{id}") };
        let Self { pod, outside } = &network;
        for namespace in [pod, outside] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        run(&format!("ip -n {pod} link add eth0 type veth peer name eth0 netns {outside}"));
        for (namespace, address) in [(pod, "10.77.0.2/24"), (pod, "10.77.0.5/24"), (outside, "10.77.0.3/24")] {
            run(&format!("ip -n {namespace} addr add {address} dev eth0"));
        }
        for namespace in [pod, outside] {
            run(&format!("ip -n {namespace} link set eth0 up"));
        }
        run(&format!("ip -n {pod} route add default via 10.77.0.3"));
        network.capture();
        network
    }

    /// What `mesh-agent init` sets up in a pod.
    fn capture(&self) {
        let rules = format!(
            "table ip selvage {{
               chain inbound {{
                 type nat hook prerouting priority dstnat; policy accept;
                 tcp dport {{ {INBOUND}, {OUTBOUND}, {EDGE} }} return
                 meta l4proto tcp redirect to :{INBOUND}
               }}
               chain outbound {{
                 type nat hook output priority -100; policy accept;
                 meta skuid {PROXY} return
                 meta skgid {PROXY} return
                 oifname \"lo\" return
                 meta l4proto tcp redirect to :{OUTBOUND}
               }}
             }}"
        );
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.pod, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("this suite needs iproute2 and nftables");
        nft.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("the rules are taken");
        assert!(nft.wait().expect("nft ends").success(), "nft refused the rules: this suite needs root and nftables");
    }

    /// A process of ours in `namespace`, under `user`.
    fn command(&self, namespace: &str, user: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([format!("--net=/run/netns/{namespace}"), format!("--setgid={user}"), format!("--setuid={user}")])
            .arg("--")
            .arg(env!("CARGO_BIN_EXE_standalone"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::piped());
        command
    }

    /// One that runs until it is dropped.
    fn start(&self, namespace: &str, user: u32, arguments: &[&str], input: &str) -> Part {
        let mut child = self.command(namespace, user, arguments).spawn().expect("nsenter starts: this suite needs util-linux");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "{input}").expect("the part reads its input");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("the part speaks");
        assert_eq!(line.trim(), "ready", "{arguments:?}");
        Part { child, _stdin: stdin }
    }

    /// A request: status and body.
    fn call(&self, namespace: &str, to: &str, host: &str, target: &str) -> (u16, String) {
        let output = self.command(namespace, APPLICATION, &["call", to, host, target]).output().expect("nsenter runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        let (status, body) = text.split_once(' ').unwrap_or((&text, ""));
        (
            status.parse().unwrap_or_else(|_| panic!("{to} {host} {target}: {text:?} {}", String::from_utf8_lossy(&output.stderr))),
            body.into(),
        )
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.outside] {
            // What is not there need not go.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// A running process.
struct Part {
    child: Child,
    _stdin: std::process::ChildStdin,
}

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Edge, captured inbound for port 8080 and captured outbound, in one proxy.
fn resources(authority: &Authority) -> Resources {
    let public = keys::listener("shop", "public", "http");
    let edge = edge_listener(at(&format!("10.77.0.2:{EDGE}")), 80);
    let mut inbound = inbound_listener(at("10.77.0.2:8080"), at("10.77.0.2:8080"));
    inbound.bind = Bind::Captured(INBOUND);
    inbound.destination = Some(DestinationMatch { addresses: Vec::new(), port: Some(8080) });
    let remote = BackendSpec {
        addresses: vec!["10.96.0.10".parse::<IpAddr>().expect("an address")],
        port: 80,
        protocol: AppProtocol::Http,
        chain: service_chain("remote"),
    };
    let mut outbound = outbound_listener(at("10.77.0.2:1"), &keys::backend("shop", "remote", 80));
    (outbound.bind, outbound.forward, outbound.clients) = (Bind::Captured(OUTBOUND), Forward::Destination, Clients::Application);
    let deny = |path: &str| json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": [path] }] }] });
    Resources::new(authority)
        .leaf(authority, &identity("shop", "orders"))
        .listener(&public, &edge)
        .listener(&keys::inbound("shop", "orders-0", 8080), &inbound)
        .listener(&keys::outbound("shop", "orders-0", "any", "any", 1), &outbound)
        .backend_of("remote", &remote, &[(at("10.77.0.3:9090"), None)])
        .route("orders", &public, "/", &keys::backend("shop", "remote", 80))
        .policy("AuthorizationPolicy", "inside", &deny("/admin/*"), &[Target::new(TargetKind::Service, "shop", "orders")])
        .policy("AuthorizationPolicy", "remote", &deny("/secret/*"), &[Target::new(TargetKind::Service, "shop", "remote")])
}

#[test]
fn one_proxy_is_edge_and_sidecar_at_once() {
    selvage_tests::client::crypto();
    let network = Network::new();
    let (pod, outside) = (network.pod.clone(), network.outside.clone());
    let given: Vec<_> = resources(&Authority::new()).list().values().map(|resource| (**resource).clone()).collect();
    let _application = network.start(&pod, APPLICATION, &["application", "0.0.0.0:8080"], "");
    let _remote = network.start(&outside, APPLICATION, &["application", "10.77.0.3:9090"], "");
    let proxy = network.start(&pod, PROXY, &["proxy"], &serde_json::to_string(&given).expect("Resources have a JSON form"));
    let through = |namespace: &str, to: &str, host: &str, target: &str| {
        let (status, body) = network.call(namespace, to, host, target);
        assert_eq!((status, body.as_str()), (200, format!("GET {target} {host}").as_str()), "{to} {host} {target}");
    };
    let refused = |namespace: &str, to: &str, host: &str, target: &str, policy: &str| {
        let (status, body) = network.call(namespace, to, host, target);
        assert_eq!(status, 403, "{to} {host} {target}: {body}");
        assert!(body.contains(&format!("AuthorizationPolicy/shop/{policy}")), "{to} {host} {target}: {body}");
    };
    let closed = |namespace: &str, to: &str| {
        let (status, problem) = network.call(namespace, to, "orders.shop", "/");
        assert_eq!(status, 0, "{to}: {problem}");
        assert_ne!(problem, "no answer", "{to}: a loop, or a connection that hangs");
    };

    // The edge.
    through(&outside, &format!("10.77.0.2:{EDGE}"), "shop.example", "/edge");
    refused(&outside, &format!("10.77.0.2:{EDGE}"), "shop.example", "/secret/x", "remote");

    // Inbound, by either address of the pod: the guard on the pair holds whatever address or Host is used.
    for address in ["10.77.0.2:8080", "10.77.0.5:8080"] {
        for host in ["orders.shop", "10.77.0.2:8080", "other.example", "remote.shop"] {
            through(&outside, address, host, "/inbound");
            refused(&outside, address, host, "/admin/x", "inside");
            refused(&outside, address, host, "/x/..//admin/", "inside");
        }
    }
    // A port that no listener takes is nobody's.
    closed(&outside, "10.77.0.2:7777");

    // Outbound to a Service: its routes and guards, though the address exists nowhere.
    through(&pod, "10.96.0.10:80", "remote.shop", "/outbound");
    through(&pod, "10.96.0.10:80", "anything.example", "/outbound");
    refused(&pod, "10.96.0.10:80", "remote.shop", "/secret/x", "remote");
    // Outbound to an unknown destination: untouched, whatever Host it names.
    through(&pod, "10.77.0.3:9090", "remote.shop", "/unknown");
    through(&pod, "10.77.0.3:9090", "other.example", "/secret/unknown");

    // A destination that is the proxy itself is refused, and does not go round in circles.
    for port in [INBOUND, OUTBOUND] {
        closed(&outside, &format!("10.77.0.2:{port}"));
        closed(&pod, &format!("10.77.0.2:{port}"));
        closed(&pod, &format!("127.0.0.1:{port}"));
    }
    // And after all that everything is served as before.
    through(&outside, "10.77.0.2:8080", "orders.shop", "/after");
    through(&pod, "10.96.0.10:80", "remote.shop", "/after");
    // It was all captured: without the proxy nothing passes, known or unknown.
    drop(proxy);
    closed(&outside, "10.77.0.2:8080");
    closed(&pod, "10.96.0.10:80");
    closed(&pod, "10.77.0.3:9090");
}
