//! Small Worlds, and what they come to: what golden files (`controller/tests/golden`) do not say better.

mod cluster;
mod malformed;

use super::*;
use crate::admission::admit;
use selvage_config::resource::listener::{Clients, Forward, MeshMode};
use selvage_config::{EndpointsSpec, ListenerSpec};
use selvage_policy::list::Class;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// One Gateway, and two workloads behind Services.
fn shop(more: &[Value]) -> World {
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"serviceAccountName": name, "containers": [{"name": "app", "command": [name], "ports": [{"name": "http", "containerPort": 8080}]}]}})
    };
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})
    };
    let mut world = World { addresses: Some(Default::default()), ..World::default() };
    let base = [
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "selvage"}, "spec": {"controllerName": CONTROLLER}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public", "namespace": "shop"},
            "spec": {"gatewayClassName": "selvage", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
        pod("web"),
        pod("orders"),
        service("web"),
        service("orders"),
    ];
    base.iter().chain(more).cloned().for_each(|object| world.insert_json(object));
    assert!(world.malformed.is_empty(), "{:?}", world.malformed);
    world.settle().expect("there is room");
    world
}

fn route(name: &str, namespace: &str, spec: Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn policy(kind: &str, name: &str, namespace: &str, spec: Value) -> Value {
    json!({"apiVersion": "selvage.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

fn translated(world: &World) -> Translation {
    translate(world, &Inputs { roots: &["root".into()], version_key: &VersionKey::derive(b"test") })
}

/// A certificate of our own making and its key, PEM.
fn pair() -> (String, String) {
    let pair = rcgen::generate_simple_self_signed(vec!["shop.example.com".to_string()]).expect("a certificate");
    (pair.cert.pem(), pair.signing_key.serialize_pem())
}

fn spec<T: DeserializeOwned>(translation: &Translation, key: &Key) -> T {
    let resource = translation
        .resources
        .get(key)
        .unwrap_or_else(|| panic!("{key} is not among {:?}", translation.resources.keys().collect::<Vec<_>>()));
    serde_json::from_value(resource.spec.clone()).expect("our own form")
}

fn view<'a>(translation: &'a Translation, proxy: &str) -> &'a View {
    &translation.views[&proxy.parse::<Key>().expect("a key")]
}

#[test]
fn a_gateways_listener_is_bound_above_the_privileged_ports_and_keeps_its_number() {
    let translation = translated(&shop(&[]));
    let listener: ListenerSpec = spec(&translation, &keys::listener("shop", "public", "http"));
    assert_eq!(serde_json::to_value(listener.bind).expect("JSON"), json!({"bound": "127.64.1.1:10080"}));
    assert_eq!((listener.port, listener.clients, listener.mesh), (80, Clients::Outside, None));
    assert_eq!(listener.identity.expect("an identity").to_string(), "spiffe://cluster.local/ns/shop/sa/public-selvage");
    assert!(!listener.posture, "posture is the target's own");
}

#[test]
fn a_workload_is_guarded_by_every_service_that_maps_to_its_port() {
    let second = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-too", "namespace": "shop"},
        "spec": {"selector": {"app": "orders"}, "ports": [{"name": "web", "port": 81, "targetPort": 8080}]}});
    let translation = translated(&shop(&[second]));
    let listener: ListenerSpec = spec(&translation, &keys::inbound("shop", "orders", 8080));
    let chain: Vec<String> = listener.chain.iter().map(ToString::to_string).collect();
    for wanted in [
        "Mesh default",
        "Namespace shop",
        "Service shop/orders",
        "Service shop/orders#http",
        "Service shop/orders-too",
        "Service shop/orders-too#web",
        "Workload shop/orders",
    ] {
        assert!(chain.contains(&wanted.to_string()), "{wanted} is not in {chain:?}");
    }
    assert!(!chain.contains(&"Service shop/web".to_string()), "{chain:?}");
    assert!(listener.posture);
    assert_eq!((listener.mesh, listener.clients), (Some(MeshMode::Permissive), Clients::Fellows));
    let Forward::Local(to) = listener.forward else { panic!("{:?}", listener.forward) };
    assert!(to.ip().to_string().starts_with("127.64.3."), "{to}");
}

#[test]
fn two_ports_of_a_service_that_fall_on_one_socket_are_not_both_bound() {
    let both = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "low", "port": 80}, {"name": "high", "port": 10080}]}});
    let translation = translated(&shop(&[both]));
    let outbound = |port| translation.resources.contains_key(&keys::outbound("shop", "orders", "shop", "both", port));
    assert!(outbound(80) && !outbound(10080));
    let said: Vec<_> = translation.remarks.iter().filter(|remark| remark.starts_with("Service/shop/both: ")).collect();
    assert!(said.len() == 1 && said[0].contains("port 10080 falls on port 80"), "{said:?}");
}

#[test]
fn endpoints_say_who_has_a_sidecar() {
    let mut bare = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": "shop", "labels": {"app": "orders", "selvage.dev/inject": "disabled"}},
        "spec": {"containers": [{"name": "app", "command": ["x"], "ports": [{"name": "http", "containerPort": 8080}]}]}});
    bare["spec"]["serviceAccountName"] = json!("bare");
    let translation = translated(&shop(&[bare]));
    let endpoints: EndpointsSpec = spec(&translation, &keys::endpoints("shop", "orders", 80));
    let by: BTreeMap<String, Option<String>> = endpoints
        .endpoints
        .iter()
        .map(|one| (one.workload.as_ref().expect("a Pod").name.clone(), one.identity.as_ref().map(ToString::to_string)))
        .collect();
    assert_eq!(by["orders"].as_deref(), Some("spiffe://cluster.local/ns/shop/sa/orders"));
    assert_eq!(by["bare"], None);
    assert!(!translation.views.contains_key(&"Pod/shop/bare".parse().expect("a key")), "nobody stands beside it");
}

#[test]
fn policies_go_to_the_proxies_that_enforce_them_and_to_no_others() {
    let allow = json!([{"name": "one", "action": "Allow", "from": [{"gateway": "public"}]}]);
    let world = shop(&[
        route("all", "shop", json!({"parentRefs": [{"name": "public"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]})),
        policy("AuthorizationPolicy", "on-orders", "shop", json!({"targetRefs": [{"kind": "Service", "name": "orders"}], "rules": allow})),
        policy(
            "RateLimitPolicy",
            "on-gateway",
            "shop",
            json!({"targetRefs": [{"kind": "Gateway", "name": "public"}], "limits": [{"name": "l", "requests": 1, "per": "1s"}]}),
        ),
    ]);
    assert_eq!(admit(&world), []);
    let translation = translated(&world);
    let (orders, gateway): (Key, Key) =
        ("AuthorizationPolicy/shop/on-orders".parse().expect("a key"), "RateLimitPolicy/shop/on-gateway".parse().expect("a key"));
    assert_eq!(translation.resources[&orders].class, Class::Guard);
    assert_eq!(translation.resources[&orders].refs["gateway:shop/public"], "spiffe://cluster.local/ns/shop/sa/public-selvage");
    assert!(view(&translation, "Pod/shop/orders").contains(&orders));
    assert!(!view(&translation, "Gateway/shop/public").contains(&orders), "the edge has no path to orders");
    assert!(view(&translation, "Gateway/shop/public").contains(&gateway));
    assert!(!view(&translation, "Pod/shop/orders").contains(&gateway));
}

#[test]
fn a_guard_whose_section_is_not_there_is_told_as_one_that_no_proxy_can_use() {
    let world = shop(&[policy(
        "RateLimitPolicy",
        "renamed",
        "shop",
        json!({"targetRefs": [{"kind": "Gateway", "name": "public", "sectionName": "https"}, {"kind": "Service", "name": "web"}],
            "limits": [{"name": "l", "requests": 1, "per": "1s"}], "hideDetails": true}),
    )]);
    let translation = translated(&world);
    let resource = |name: &str| &translation.resources[&Key::new("RateLimitPolicy", "shop", name)];
    let refusing = resource("renamed#unattached");
    let why = refusing.spec().expect_err("every proxy refuses").to_string();
    assert!(why.contains("Gateway shop/public has no listener https"), "{why}");
    assert_eq!((refusing.class, refusing.attachments.len()), (Class::Guard, 1));
    assert_eq!(refusing.spec["hideDetails"], true, "a refusal tells no more than the guard would");
    assert!(view(&translation, "Gateway/shop/public").contains(&refusing.key));
    assert!(resource("renamed").spec().is_ok(), "elsewhere it holds");
}

#[test]
fn admission_names_the_field_that_does_not_compile() {
    for (spec, field) in [
        (
            json!({"targetRefs": [{"kind": "Service", "name": "web"}], "rules": [{"name": "one", "action": "Allow", "when": "request.method =="}]}),
            "spec.rules[0].when",
        ),
        (
            json!({"targetRefs": [{"kind": "Service", "name": "web"}], "rules": [{"name": "one", "action": "Allow", "from": [{"gateway": "nobody"}]}]}),
            "gateway",
        ),
    ] {
        let faults = admit(&shop(&[policy("AuthorizationPolicy", "bad", "shop", spec)]));
        assert!(faults.iter().any(|fault| fault.object.contains("bad") && fault.field.contains(field)), "{field}: {faults:?}");
    }
}

#[test]
fn admission_refuses_routes_that_contradict_themselves() {
    let (web, redirect) = (json!({"name": "web", "port": 80}), json!({"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}}));
    for (rules, field) in [
        (json!([{"filters": [redirect], "backendRefs": [web]}]), "spec.rules[0].backendRefs"),
        (json!([{"name": "one", "backendRefs": [web]}, {"name": "one", "backendRefs": [web]}]), "spec.rules[1].name"),
        (json!([{"backendRefs": [web, {"name": "web"}]}]), "spec.rules[0].backendRefs[1].port"),
        (json!([{"filters": [redirect]}, {"name": "one", "backendRefs": [web]}, {"backendRefs": [web]}]), ""),
    ] {
        let faults = admit(&shop(&[route("r", "shop", json!({"parentRefs": [{"name": "public"}], "rules": rules}))]));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, if field.is_empty() { vec![] } else { vec![field] }, "{rules}");
    }
}

#[test]
fn the_same_world_comes_to_the_same_resources() {
    let world = shop(&[]);
    let versions =
        |translation: Translation| translation.resources.into_iter().map(|(key, one)| (key, one.version.clone())).collect::<Vec<_>>();
    assert_eq!(versions(translated(&world)), versions(translated(&world.clone())));
}

#[test]
fn a_status_has_at_most_sixteen_ancestors_and_the_bad_ones_go_first() {
    let service = |n: usize| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}"), "namespace": "shop", "labels": {"of": "many"}},
            "spec": {"ports": [{"port": 80}]}})
    };
    let mut objects: Vec<Value> = (0..20).map(service).collect();
    let spec = json!({"targetSelectors": [{"kind": "Service", "matchLabels": {"of": "many"}}, {"kind": "Service", "matchLabels": {"of": "none"}}],
        "rules": [{"name": "one", "action": "Allow"}]});
    objects.push(policy("AuthorizationPolicy", "wide", "shop", spec));
    let translation = translated(&shop(&objects));
    let key: Key = "AuthorizationPolicy/shop/wide".parse().expect("a key");
    let parents = &translation.statuses[&key].parents;
    assert_eq!(parents.len(), 16);
    assert_eq!(parents[0].reference.to_string(), "Namespace/shop", "nothing carries the second selector's label");
    assert!(parents[15].conditions[0].message.contains("5 more targets"), "{:?}", parents[15]);
    assert_eq!(translation.resources[&key].attachments.len(), 20, "what is not shown is enforced all the same");
}
