//! Worlds as an API server knows them: Pods with addresses and injected sidecars, EndpointSlices that others made.

use super::*;
use selvage_config::ports;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Protocol};
use selvage_config::{BackendSpec, Endpoint};
use std::net::IpAddr;

/// A Pod with the phase `Running`.
struct Pod {
    name: &'static str,
    namespace: &'static str,
    account: &'static str,
    address: &'static str,
    labels: Value,
    ports: Value,
    sidecar: bool,
}

impl Pod {
    fn meshed(name: &'static str, namespace: &'static str, account: &'static str, address: &'static str) -> Self {
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        Self { name, namespace, account, address, labels: json!({"app": account}), ports, sidecar: true }
    }

    fn bare(name: &'static str, namespace: &'static str, account: &'static str, address: &'static str) -> Self {
        Self { sidecar: false, ..Self::meshed(name, namespace, account, address) }
    }

    fn json(&self) -> Value {
        let proxy = json!([
            {"name": "selvage-init", "image": "i"},
            {"name": "selvage-proxy", "image": "i", "restartPolicy": "Always", "ports": [{"containerPort": 15306}]},
        ]);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "namespace": self.namespace, "uid": uid(self.name), "labels": self.labels},
            "spec": {
                "serviceAccountName": self.account,
                "initContainers": if self.sidecar { proxy } else { json!([]) },
                "containers": [{"name": "app", "ports": self.ports}],
            },
            "status": {"phase": "Running", "podIP": self.address, "podIPs": [{"ip": self.address}]},
        })
    }
}

fn uid(pod: &str) -> String {
    format!("uid-of-{pod}")
}

fn service(name: &str, namespace: &str, cluster_ip: &str, selector: Value, ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "selector": selector, "ports": ports}})
}

fn slice(service: &str, namespace: &str, port: u16, endpoints: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-x1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
}

fn endpoint(address: &str, pod: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod, "uid": uid(pod)}})
}

fn gateway(name: &str, namespace: &str, secret: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": namespace},
    "spec": {"gatewayClassName": "selvage", "listeners": [
        {"name": "http", "port": 80, "protocol": "HTTP"},
        {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": secret}]}},
    ]}})
}

fn secret(name: &str, namespace: &str) -> Value {
    let pair = super::pair();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": namespace},
        "stringData": {"tls.crt": pair.0, "tls.key": pair.1}})
}

/// A port by which Services call the Pods of [`Pod::meshed`].
fn http() -> Value {
    json!([{"name": "http", "port": 80, "targetPort": "http"}])
}

/// Two namespaces: `shop` with a Gateway and a StatefulSet behind a headless and a plain Service, `stock` with a Gateway of its own.
fn world(more: &[Value]) -> World {
    let mut edge = Pod::bare("public-selvage-7d9", "shop", "public-selvage", "10.1.0.20");
    edge.labels = json!({"gateway.networking.k8s.io/gateway-name": "public"});
    let objects = [
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "selvage"}, "spec": {"controllerName": CONTROLLER}}),
        gateway("public", "shop", "shop-tls"),
        gateway("internal", "stock", "stock-tls"),
        secret("shop-tls", "shop"),
        secret("stock-tls", "stock"),
        edge.json(),
        Pod::meshed("orders-0", "shop", "orders", "10.1.0.1").json(),
        Pod::meshed("orders-1", "shop", "orders", "10.1.0.2").json(),
        Pod::bare("orders-old", "shop", "orders", "10.1.0.3").json(),
        Pod::meshed("depot-0", "stock", "depot", "10.1.1.1").json(),
        service("orders", "shop", "10.96.0.10", json!({"app": "orders"}), http()),
        service("orders-set", "shop", "None", json!({"app": "orders"}), http()),
        service("depot", "stock", "10.96.0.20", json!({"app": "depot"}), http()),
        slice(
            "orders",
            "shop",
            8080,
            json!([endpoint("10.1.0.1", "orders-0"), endpoint("10.1.0.2", "orders-1"), endpoint("10.1.0.3", "orders-old")]),
        ),
        slice("orders-set", "shop", 8080, json!([endpoint("10.1.0.1", "orders-0"), endpoint("10.1.0.2", "orders-1")])),
        slice("depot", "stock", 8080, json!([endpoint("10.1.1.1", "depot-0")])),
    ];
    let mut world = World::default();
    objects.iter().chain(more).cloned().for_each(|object| world.insert_json(object));
    assert!(world.malformed.is_empty(), "{:?}", world.malformed);
    world
}

fn chain(listener: &ListenerSpec) -> Vec<String> {
    listener.chain.iter().map(ToString::to_string).collect()
}

fn endpoints(translation: &Translation, slice: &str) -> Vec<Endpoint> {
    spec::<EndpointsSpec>(translation, &slice.parse().expect("a key")).endpoints
}

/// Address, workload and account of each.
fn shown(endpoints: &[Endpoint]) -> Vec<(String, String, String)> {
    let text = |text: Option<String>| text.unwrap_or_default();
    let one = |one: &Endpoint| {
        let account = one.identity.as_ref().map(|identity| identity.account().to_string());
        (one.address.to_string(), text(one.workload.as_ref().map(|key| key.name.clone())), text(account))
    };
    endpoints.iter().map(one).collect()
}

#[test]
fn nothing_is_made_up_in_a_cluster() {
    let before = world(&[]);
    let mut after = before.clone();
    after.settle().expect("nothing to run out of");
    assert_eq!(before, after);
}

#[test]
fn a_workload_accepts_captured_connections_at_its_own_ports_and_at_any_other() {
    let mut pod = Pod::meshed("many-0", "shop", "many", "10.1.0.9");
    pod.ports = json!([{"name": "http", "containerPort": 8080}, {"containerPort": 9000}, {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 15306}]);
    let numbers = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp-raw", "port": 7000, "targetPort": 7001},
        {"name": "grpc-api", "port": 9090}]);
    let translation = translated(&world(&[pod.json(), service("many", "shop", "10.96.0.30", json!({"app": "many"}), numbers)]));
    let own = |port: &str| json!({"local": format!("10.1.0.9:{port}")});
    let base = ["Mesh default", "Namespace shop"];
    let table = [
        ("in:8080", Some(8080), own("8080"), Protocol::Http, vec!["Service shop/many", "Service shop/many#http"]),
        ("in:9000", Some(9000), own("9000"), Protocol::Detect, vec![]),
        // Nobody declares it, but a Service leads there.
        ("in:7001", Some(7001), own("7001"), Protocol::Tcp, vec!["Service shop/many", "Service shop/many#tcp-raw"]),
        ("in:9090", Some(9090), own("9090"), Protocol::Http, vec!["Service shop/many", "Service shop/many#grpc-api"]),
        ("in:any", None, json!({"own": "10.1.0.9"}), Protocol::Detect, vec![]),
    ];
    for (part, port, forward, protocol, services) in &table {
        let listener: ListenerSpec = spec(&translation, &Key::new("Listener", "shop", format!("many-0#{part}")));
        assert_eq!(listener.bind, Bind::Captured(ports::INBOUND), "{part}");
        assert_eq!(listener.destination.as_ref().and_then(|one| one.port), *port, "{part}");
        assert!(listener.destination.as_ref().is_none_or(|one| one.addresses.is_empty()));
        assert_eq!(serde_json::to_value(&listener.forward).expect("JSON"), *forward, "{part}");
        assert_eq!(listener.protocol, *protocol, "{part}");
        assert_eq!(listener.application, (*part == "in:9090").then_some(AppProtocol::H2c), "{part}");
        let wanted: Vec<&str> = base.iter().chain(services).copied().chain(["Workload shop/many-0"]).collect();
        assert_eq!(chain(&listener), wanted, "{part}");
        assert!(listener.posture);
        assert_eq!((listener.mesh, listener.clients), (Some(MeshMode::Permissive), Clients::Fellows));
        let assertors: Vec<String> = listener.assertors.iter().map(ToString::to_string).collect();
        assert_eq!(assertors, ["spiffe://cluster.local/ns/shop/sa/public-selvage"], "and no Gateway of another namespace");
    }
    let inbound = translation.resources.keys().filter(|key| key.name.starts_with("many-0#in:")).count();
    assert_eq!(inbound, table.len(), "no port of the proxy's own, and none of UDP");

    let outbound: ListenerSpec = spec(&translation, &keys::outbound_any("shop", "many-0"));
    assert_eq!((outbound.bind, outbound.forward), (Bind::Captured(ports::OUTBOUND), Forward::Destination));
    assert_eq!((outbound.protocol, outbound.clients, outbound.mesh), (Protocol::Detect, Clients::Application, None));
    assert!(!translation.resources.keys().any(|key| key.name.starts_with("many-0#out:") && key.name != "many-0#out:any"));
}

#[test]
fn the_mode_of_the_mesh_is_that_of_every_inbound_listener() {
    for (written, mode) in [("Permissive", MeshMode::Permissive), ("Strict", MeshMode::Strict)] {
        let mesh =
            json!({"apiVersion": "selvage.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"}, "spec": {"mtls": written}});
        let translation = translated(&world(&[mesh]));
        for key in [keys::inbound("shop", "orders-0", 8080), keys::inbound_any("stock", "depot-0")] {
            assert_eq!(spec::<ListenerSpec>(&translation, &key).mesh, Some(mode), "{key}");
        }
        let outbound: ListenerSpec = spec(&translation, &keys::outbound_any("shop", "orders-0"));
        assert_eq!(outbound.mesh, None, "applications speak plainly to their own sidecar");
    }
}

#[test]
fn every_service_over_a_pod_guards_it_headless_ones_and_those_without_a_selector_too() {
    let by_hand = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.40"], "ports": [{"name": "http", "port": 80}]}});
    // Of another namespace: its guards are not for the workloads of `shop`.
    let stranger = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "stranger", "namespace": "stock"},
        "spec": {"clusterIPs": ["10.96.0.41"], "ports": [{"name": "http", "port": 80}]}});
    let translation = translated(&world(&[
        by_hand,
        stranger,
        slice("by-hand", "shop", 8080, json!([{"addresses": ["10.1.0.1"]}])),
        slice("stranger", "stock", 8080, json!([{"addresses": ["10.1.0.1"]}])),
    ]));
    let listener: ListenerSpec = spec(&translation, &keys::inbound("shop", "orders-0", 8080));
    let services: Vec<String> =
        chain(&listener).into_iter().filter(|target| target.starts_with("Service") && !target.contains('#')).collect();
    assert_eq!(services, ["Service shop/by-hand", "Service shop/orders", "Service shop/orders-set"]);
    let other: ListenerSpec = spec(&translation, &keys::inbound("shop", "orders-1", 8080));
    assert!(!chain(&other).contains(&"Service shop/by-hand".to_string()), "only the Pod that the slice names");
    // Whoever answers at an address is known by the address.
    let named = ("10.1.0.1:8080".to_string(), "orders-0".to_string(), "orders".to_string());
    assert_eq!(shown(&endpoints(&translation, "Endpoints/shop/by-hand-x1#80")), std::slice::from_ref(&named));
    assert_eq!(shown(&endpoints(&translation, "Endpoints/stock/stranger-x1#80")), [named]);
}

#[test]
fn endpoints_tell_pods_with_a_sidecar_from_those_without() {
    let translation = translated(&world(&[]));
    let plain: BackendSpec = spec(&translation, &keys::backend("shop", "orders", 80));
    assert_eq!(plain.addresses, ["10.96.0.10".parse::<IpAddr>().expect("an address")]);
    let headless: BackendSpec = spec(&translation, &keys::backend("shop", "orders-set", 80));
    assert!(headless.addresses.is_empty());
    let row = |address: &str, pod: &str, account: &str| (address.to_string(), pod.to_string(), account.to_string());
    let (first, second) = (row("10.1.0.1:8080", "orders-0", "orders"), row("10.1.0.2:8080", "orders-1", "orders"));
    assert_eq!(shown(&endpoints(&translation, "Endpoints/shop/orders-set-x1#80")), [first.clone(), second.clone()]);
    assert_eq!(shown(&endpoints(&translation, "Endpoints/shop/orders-x1#80")), [first, second, row("10.1.0.3:8080", "orders-old", "")]);
}

#[test]
fn what_a_slice_says_of_its_pods_must_be_so() {
    let with = |uid: &str| json!({"addresses": ["10.1.0.1"], "targetRef": {"kind": "Pod", "name": "orders-0", "uid": uid}});
    let mut ended = Pod::meshed("done", "shop", "orders", "10.1.0.7").json();
    ended["status"]["phase"] = json!("Succeeded");
    let mut on_host = Pod::meshed("agent", "shop", "agent", "10.0.0.1").json();
    on_host["spec"]["hostNetwork"] = json!(true);
    let world = world(&[
        ended,
        on_host,
        service("t", "shop", "10.96.0.50", json!({"app": "t"}), json!([{"name": "http", "port": 80}])),
        slice(
            "t",
            "shop",
            8080,
            json!([
                with(&uid("orders-0")),
                with("uid-of-the-one-before"),
                // An address that is not the Pod's: callers would believe to meet its identity there.
                {"addresses": ["10.1.0.2"], "targetRef": {"kind": "Pod", "name": "orders-0", "uid": uid("orders-0")}},
                // Not known yet: it may have a sidecar.
                {"addresses": ["10.1.0.8"], "targetRef": {"kind": "Pod", "name": "new", "uid": "u"}},
                endpoint("10.1.0.7", "done"),
                // A node's address says nothing about who answers.
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["192.0.2.9"]},
                {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.1.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ]),
        ),
    ]);
    let endpoints = endpoints(&translated(&world), "Endpoints/shop/t-x1#80");
    let row = |address: &str, pod: &str, account: &str| (address.to_string(), pod.to_string(), account.to_string());
    let wanted = [
        row("10.1.0.1:8080", "orders-0", "orders"),
        row("10.0.0.1:8080", "", ""),
        row("192.0.2.9:8080", "", ""),
        row("10.1.0.3:8080", "orders-old", ""),
    ];
    assert_eq!(shown(&endpoints), wanted);
    let draining: Vec<bool> = endpoints.iter().map(|one| one.draining).collect();
    assert_eq!(draining, [false, false, false, true]);
}

#[test]
fn an_edge_listens_at_every_address_of_its_pods() {
    let translation = translated(&world(&[]));
    let listener: ListenerSpec = spec(&translation, &keys::listener("shop", "public", "https"));
    assert_eq!(serde_json::to_value(listener.bind).expect("JSON"), json!({"bound": "0.0.0.0:10443"}));
    assert_eq!(listener.port, 443);
}

#[test]
fn a_node_is_what_its_pod_proves() {
    let mut impostor = Pod::bare("impostor", "shop", "orders", "10.1.0.30");
    impostor.labels = json!({"gateway.networking.k8s.io/gateway-name": "public"});
    let mut elsewhere = Pod::bare("elsewhere", "stock", "public-selvage", "10.1.0.31");
    elsewhere.labels = impostor.labels.clone();
    let mut ended = Pod::bare("public-selvage-old", "shop", "public-selvage", "10.1.0.32");
    ended.labels = impostor.labels.clone();
    let mut ended = ended.json();
    ended["status"]["phase"] = json!("Failed");
    let mut unborn = Pod::meshed("unborn", "shop", "orders", "").json();
    unborn["status"] = json!({"phase": "Pending"});
    let mut not_native = Pod::meshed("not-native", "shop", "orders", "10.1.0.33").json();
    not_native["spec"]["initContainers"][1]["restartPolicy"] = Value::Null;
    let translation = translated(&world(&[impostor.json(), elsewhere.json(), ended, unborn, not_native]));
    let nodes: Vec<(String, String)> = translation.nodes.iter().map(|(uid, view)| (uid.clone(), view.to_string())).collect();
    let node = |pod: &str, view: &str| (uid(pod), view.to_string());
    assert_eq!(
        nodes,
        [
            node("depot-0", "Pod/stock/depot-0"),
            node("orders-0", "Pod/shop/orders-0"),
            node("orders-1", "Pod/shop/orders-1"),
            node("public-selvage-7d9", "Gateway/shop/public"),
        ]
    );
    assert_eq!(translation.names[&uid("public-selvage-7d9")], "shop/public-selvage-7d9");
    for view in translation.nodes.values() {
        assert!(translation.views.contains_key(view) && translation.identities.contains_key(view), "{view}");
    }
}

#[test]
fn proxies_of_a_gateway_with_the_longest_name_serve_it() {
    let name: &'static str = Box::leak("g".repeat(253).into_boxed_str());
    let account: &'static str = Box::leak(crate::provision::workload_name(name, "selvage").into_boxed_str());
    let mut edge = Pod::bare("edge", "shop", account, "10.1.0.40");
    edge.labels = json!({crate::provision::GATEWAY_LABEL: crate::provision::label_value(name)});
    let translation = translated(&world(&[gateway(name, "shop", "shop-tls"), edge.json()]));
    let view = translation.nodes.get(&uid("edge")).expect("it is a node");
    assert_eq!(view.name, name);
    assert_eq!(translation.identities[view].account(), account);
}

#[test]
fn a_proxy_sees_what_its_paths_need_and_nothing_of_others() {
    let mesh_route = |name: &str, namespace: &str, to: (&str, &str)| {
        let parent = json!([{"group": "", "kind": "Service", "name": to.1, "namespace": to.0}]);
        route(
            name,
            namespace,
            json!({"parentRefs": parent, "rules": [{"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": "x", "value": "y"}]}}]}]}),
        )
    };
    let on = |kind: &str, name: &str| json!({"targetRefs": [{"kind": kind, "name": name}], "rules": [{"name": "one", "action": "Allow"}]});
    let translation = translated(&world(&[
        route("public", "shop", json!({"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]})),
        mesh_route("producer", "stock", ("stock", "depot")),
        mesh_route("consumer", "shop", ("stock", "depot")),
        policy("AuthorizationPolicy", "on-orders", "shop", on("Service", "orders")),
        policy("AuthorizationPolicy", "on-pod", "shop", on("Pod", "orders-0")),
        policy("AuthorizationPolicy", "on-gateway", "shop", on("Gateway", "public")),
        policy("AuthorizationPolicy", "on-stock", "stock", on("Namespace", "stock")),
        // Over a Pod without a sidecar that the edge reaches by another Service, and over none that it reaches.
        service("twin", "shop", "10.96.0.30", Value::Null, http()),
        slice("twin", "shop", 8080, json!([endpoint("10.1.0.3", "orders-old")])),
        policy("AuthorizationPolicy", "on-twin", "shop", on("Service", "twin")),
        service("far", "stock", "10.96.0.31", Value::Null, http()),
        slice("far", "stock", 8080, json!([{"addresses": ["10.1.0.3"]}])),
    ]));
    let has = |proxy: &str, key: &str| view(&translation, proxy).contains(&key.parse().expect("a key"));
    let (first, second, depot, edge, other) =
        ("Pod/shop/orders-0", "Pod/shop/orders-1", "Pod/stock/depot-0", "Gateway/shop/public", "Gateway/stock/internal");
    let table: &[(&str, &[&str])] = &[
        ("Mesh/default", &[first, second, depot, edge, other]),
        ("Listener/shop/orders-0#in:8080", &[first]),
        ("Listener/shop/orders-0#in:any", &[first]),
        ("Listener/shop/orders-0#out:any", &[first]),
        ("Listener/stock/depot-0#in:8080", &[depot]),
        ("Listener/shop/public#https", &[edge]),
        ("Certificate/shop/shop-tls", &[edge]),
        ("Certificate/stock/stock-tls", &[other]),
        ("Backend/shop/orders#80", &[first, second, depot, edge]),
        ("Endpoints/shop/orders-x1#80", &[first, second, depot, edge]),
        ("Backend/shop/twin#80", &[first, second, depot, edge]),
        ("Endpoints/shop/twin-x1#80", &[first, second, depot, edge]),
        ("AuthorizationPolicy/shop/on-twin", &[first, second, depot, edge]),
        ("Backend/shop/orders-set#80", &[first, second, depot]),
        ("Backend/stock/far#80", &[first, second, depot]),
        ("Backend/stock/depot#80", &[first, second, depot]),
        ("Route/shop/HTTPRoute.public", &[edge]),
        ("Route/stock/HTTPRoute.producer", &[first, second, depot]),
        ("Route/shop/HTTPRoute.consumer", &[first, second]),
        ("AuthorizationPolicy/shop/on-orders", &[first, second, depot, edge]),
        ("AuthorizationPolicy/shop/on-pod", &[first]),
        ("AuthorizationPolicy/shop/on-gateway", &[edge]),
        ("AuthorizationPolicy/stock/on-stock", &[first, second, depot]),
    ];
    for (key, readers) in table {
        assert!(translation.resources.contains_key(&key.parse().expect("a key")), "{key}");
        for proxy in [first, second, depot, edge, other] {
            assert_eq!(has(proxy, key), readers.contains(&proxy), "{proxy} and {key}");
        }
    }
    let (one, another) = (view(&translation, first), view(&translation, depot));
    assert!(Arc::ptr_eq(one.shared(), another.shared()), "what all sidecars are told is one set");
    assert!(one.shared().iter().all(|key| key.kind != "Certificate" && key.kind != "Listener"));
    let keys: Vec<&Key> = one.iter().collect();
    assert_eq!(keys.len(), keys.iter().collect::<std::collections::BTreeSet<_>>().len(), "no key is in both parts");
}

#[test]
fn where_a_guard_is_enforced_and_what_goes_round_it_is_known() {
    let on = |kind: &str, name: &str| json!({"targetRefs": [{"kind": kind, "name": name}], "rules": [{"name": "one", "action": "Allow"}]});
    let mut excluding = Pod::meshed("orders-1", "shop", "orders", "10.1.0.2").json();
    excluding["spec"]["initContainers"][0]["env"] = json!([{"name": "SELVAGE_EXCLUDE_INBOUND_PORTS", "value": "9000,9001"}]);
    // Edited after its birth: its rules of capture are as they were.
    let mut edited = Pod::meshed("depot-0", "stock", "depot", "10.1.1.1").json();
    edited["metadata"]["annotations"] = json!({"selvage.dev/exclude-inbound-ports": "9000"});
    // Behind no Service, in front of no sidecar; and the edge's own Service, which is no way round anything.
    let alone = Pod { labels: json!({}), ..Pod::bare("alone", "stock", "alone", "10.1.1.9") };
    let edge_service = service("public-selvage", "shop", "10.96.0.60", json!({"app": "edge"}), http());
    let world = world(&[
        route("public", "shop", json!({"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}]})),
        excluding,
        edited,
        alone.json(),
        edge_service,
        slice("public-selvage", "shop", 8080, json!([endpoint("10.1.0.20", "public-selvage-7d9")])),
        policy("AuthorizationPolicy", "a", "shop", on("Service", "orders")),
        policy("AuthorizationPolicy", "b", "shop", on("Service", "orders-set")),
        policy("AuthorizationPolicy", "c", "shop", on("Namespace", "shop")),
        policy("AuthorizationPolicy", "d", "shop", on("Gateway", "public")),
        policy("AuthorizationPolicy", "e", "shop", on("HTTPRoute", "public")),
        policy("AuthorizationPolicy", "f", "shop", on("Pod", "orders-old")),
        policy("AuthorizationPolicy", "g", "stock", on("Namespace", "stock")),
    ]);
    let reach = translated(&world).reach;
    let (sidecars, edge) = (["Pod/shop/orders-0", "Pod/shop/orders-1"], ["Gateway/shop/public"]);
    let (none, old, excluded): ([&str; 0], _, _) = ([], ["shop/orders-old"], ["shop/orders-1:9000", "shop/orders-1:9001"]);
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
    let table: &[Row<'_>] = &[
        // 9000 is no port of a Service.
        ("Service shop/orders", &sidecars, &old, &none),
        ("Service shop/orders-set", &sidecars, &none, &none),
        ("Namespace shop", &sidecars, &old, &excluded),
        ("Gateway shop/public", &edge, &none, &none),
        ("HTTPRoute shop/public", &edge, &none, &none),
        ("Workload shop/orders-old", &none, &old, &none),
        ("Namespace stock", &["Pod/stock/depot-0"], &["stock/alone"], &none),
    ];
    assert_eq!(reach.len(), table.len());
    for (target, at, around, excluded) in table {
        let (_, found) = reach.iter().find(|(one, _)| one.to_string() == *target).unwrap_or_else(|| panic!("{target}"));
        let texts = |keys: &std::collections::BTreeSet<Key>| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&found.at), *at, "{target}");
        assert_eq!(found.around.iter().map(String::as_str).collect::<Vec<_>>(), *around, "{target}");
        assert_eq!(found.excluded.iter().map(String::as_str).collect::<Vec<_>>(), *excluded, "{target}");
    }
}
