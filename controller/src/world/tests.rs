use super::directory::{Reading, read};
use super::*;
use std::path::Path;

/// A directory with these files, read.
fn reading(files: &[(&str, &str)]) -> Reading {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir_all(dir.path().join("app")).expect("a directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }
    read(dir.path(), Addresses::default())
}

fn messages(reading: &Reading) -> Vec<String> {
    reading.faults.iter().map(ToString::to_string).collect()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: a, namespace: shop, labels: { app: a } }
spec:
  serviceAccountName: a
  containers: [{ name: a, ports: [{ name: http, containerPort: 8080 }] }]
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: a, namespace: shop }
spec: { selector: { app: a }, ports: [{ name: http, port: 80, targetPort: http }] }
";

#[test]
fn endpoints_of_local_pods_follow_from_selectors() {
    let reading = reading(&[("app/a.yaml", SERVICE), ("local/a.yaml", POD)]);
    assert_eq!(messages(&reading), Vec::<String>::new());
    let slice = &reading.world.slices[&Name::new("shop", "a")].spec;
    assert_eq!(slice.endpoints[0].addresses, ["127.64.2.1"]);
    assert_eq!(slice.ports.as_ref().expect("ports")[0].port, Some(8080));
    let uninjected = POD.replace("labels: {", "labels: { selvage.dev/inject: disabled,");
    let reading = self::reading(&[("app/a.yaml", SERVICE), ("local/a.yaml", &uninjected)]);
    assert_eq!(reading.world.slices[&Name::new("shop", "a")].spec.endpoints[0].addresses, ["127.64.3.1"]);
}

#[test]
fn slices_of_one_service_never_have_the_name_of_another() {
    let other = POD.replace("{ name: a, namespace", "{ name: b, namespace").replace("containerPort: 8080", "containerPort: 9090");
    let neighbour = SERVICE.replace("name: a, namespace", "name: a-2, namespace");
    let reading = reading(&[("app/a.yaml", SERVICE), ("app/n.yaml", &neighbour), ("local/a.yaml", POD), ("local/b.yaml", &other)]);
    assert_eq!(messages(&reading), Vec::<String>::new());
    let of = |service: &str| -> Vec<String> {
        let own = |slice: &&std::sync::Arc<Object<k8s_openapi::api::discovery::v1::EndpointSlice>>| {
            slice.meta.labels.get(endpoints::SERVICE_NAME).is_some_and(|name| name == service)
        };
        reading.world.slices.values().filter(own).map(|slice| slice.meta.name.clone()).collect()
    };
    assert_eq!((of("a"), of("a-2")), (vec!["a".into(), "a.2".into()], vec!["a-2".into(), "a-2.2".into()]));
}

#[test]
fn namespaces_that_are_only_mentioned_exist() {
    let reading = reading(&[("app/a.yaml", SERVICE)]);
    assert_eq!(reading.world.namespace_labels("shop")["kubernetes.io/metadata.name"], "shop");
}

#[test]
fn the_cluster_directory_and_unknown_kinds_are_not_read() {
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\nspec: nonsense\n";
    let reading = reading(&[("cluster/a.yaml", "not: [yaml"), ("app/d.yaml", deployment), ("app/.hidden.yaml", "also: [not")]);
    assert_eq!(messages(&reading), Vec::<String>::new());
}

#[test]
fn faults_name_file_object_field_and_remedy() {
    let gateway = |spec: &str| {
        format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: g, namespace: shop }}\nspec: {spec}\n")
    };
    let policy = |spec: &str| {
        format!("apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{ name: p, namespace: shop }}\nspec: {spec}\n")
    };
    for (text, expected) in [
        ("a: [b".to_string(), vec!["app/x.yaml: not readable"]),
        ("kind: Gateway".into(), vec!["app/x.yaml: Gateway/default/?: apiVersion: is required"]),
        (gateway("{ gatewayClassName: s, listeners: [] }"), vec!["spec.listeners: has 0 items; at least 1"]),
        (
            gateway("{ gatewayClassName: s, listenres: [] }"),
            vec!["spec.listeners: is required", "spec.listenres: is not a field: known are"],
        ),
        (
            gateway("{ gatewayClassName: s, listeners: [{ name: a, port: 70000, protocol: HTTP }] }"),
            vec!["app/x.yaml: Gateway/shop/g: spec.listeners[0].port: 70000 is out of range: use 1 to 65535"],
        ),
        (
            gateway("{ gatewayClassName: s, listeners: [{ name: a, port: \"80\", protocol: HTTP }] }"),
            vec!["spec.listeners[0].port: is a text"],
        ),
        (
            policy("{ targetRefs: [{ kind: Service, name: a }], rules: [{ name: r, action: Alow }] }"),
            vec!["AuthorizationPolicy/shop/p: spec.rules[0].action: `Alow` is not allowed: use one of Allow, Deny"],
        ),
        (policy("{ rules: [{ name: r, action: Allow }] }"), vec!["spec.targetRefs: is required (or targetSelectors)"]),
        (policy("{ targetRefs: [{ kind: Service, name: a }], rules: [] }"), vec!["spec.rules: has 0 items; at least 1"]),
        (
            policy("{ targetRefs: [{ kind: Service, name: a }], rules: [{ name: r, action: Allow, form: [] }] }"),
            vec!["spec.rules[0].form: is not a field: known are"],
        ),
        (POD.into(), vec!["Pods belong into `local/`"]),
        (format!("{SERVICE}---{SERVICE}"), vec!["metadata.name: is there twice, in app/x.yaml too"]),
        (SERVICE.replace("name: a,", "name: A_b,"), vec!["metadata.name: is not a name"]),
        (SERVICE.replace("port: 80,", "port: 0,"), vec!["spec.ports[0].port: 0 is out of range"]),
        ("apiVersion: selvage.dev/v2\nkind: MeshConfig\nmetadata: { name: default }\nspec: {}".into(), vec!["write selvage.dev/v1alpha1"]),
        ("apiVersion: selvage.dev/v1alpha1\nkind: MashConfig\nmetadata: { name: default }".into(), vec!["`MashConfig` is not a kind"]),
    ] {
        let messages = messages(&reading(&[("app/x.yaml", &text)]));
        for expected in &expected {
            assert!(messages.iter().any(|message| message.contains(expected)), "{text}\n  expected {expected}\n  got {messages:#?}");
        }
        assert_eq!(messages.len(), expected.len(), "{text}\n {messages:#?}");
    }
}

#[test]
fn only_loopback_endpoints_may_stand_in_files() {
    let slice = |address: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: s, namespace: shop }}\naddressType: IPv4\nendpoints: [{{ addresses: [\"{address}\"] }}]\nports: [{{ port: 80 }}]\n"
        )
    };
    assert_eq!(messages(&reading(&[("local/s.yaml", &slice("127.0.0.1"))])), Vec::<String>::new());
    for outside in ["10.0.0.1", "169.254.169.254", "name.example"] {
        let messages = messages(&reading(&[("local/s.yaml", &slice(outside))]));
        assert!(messages[0].contains("is not a loopback address"), "{messages:?}");
    }
}

#[test]
fn a_secret_never_stands_in_a_message() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: { name: s, namespace: shop }\ntype: kubernetes.io/tls\ndata: { tls.key: \"hunter2 is no base64\" }\n";
    let messages = messages(&reading(&[("app/s.yaml", secret)]));
    assert_eq!(messages.len(), 1);
    assert!(!messages[0].contains("hunter2"), "{messages:?}");
}

#[test]
fn gateway_api_defaults_are_those_of_the_api_server() {
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r }\nspec: { parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }\n";
    let reading = reading(&[("app/r.yaml", route)]);
    let route = &reading.world.routes[&Key::new("HTTPRoute", "default", "r")].spec;
    assert_eq!(route.parents[0].kind.as_deref(), Some("Gateway"));
    assert_eq!(route.rules[0].backends[0].weight, Some(1));
    assert!(matches!(&route.rules[0].matches, route::Matches::Http(matches) if matches.len() == 1));
}

#[test]
fn a_malformed_guard_stays_in_the_world_and_everything_else_is_kept_apart() {
    let guard = "apiVersion: selvage.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: shop }\nspec: { targetRefs: [{ kind: Service, name: a }], rules: 1 }\n";
    let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: g, namespace: shop }\nspec: 1\n";
    let reading = reading(&[("app/x.yaml", &format!("{guard}---\n{gateway}"))]);
    assert!(reading.world.policies[&Key::new("AuthorizationPolicy", "shop", "p")].spec.spec.is_err());
    assert!(reading.world.malformed.contains_key(&Key::new("Gateway", "shop", "g")));
    assert!(reading.world.gateways.is_empty());
}

#[test]
fn addresses_never_move_and_those_of_the_gone_are_used_last() {
    let world = |names: &[&str]| {
        let mut world = World::default();
        for name in names {
            let meta = Meta { namespace: "shop".into(), name: (*name).into(), ..Meta::default() };
            world.insert(Parsed::Pod(Box::new(Object { meta, spec: Pod::default() })));
        }
        world
    };
    let mut addresses = Addresses::default();
    addresses.allocate(&world(&["b"])).expect("room");
    addresses.allocate(&world(&["a", "b"])).expect("room");
    assert_eq!(addresses.sidecar(&Name::new("shop", "b")).map(|a| a.octets()), Some([127, 64, 2, 1]));
    assert_eq!(addresses.process(&Name::new("shop", "a")).map(|a| a.octets()), Some([127, 64, 3, 2]));
    let many: Vec<String> = (0..u32::from(addresses::MOST_WORKLOADS)).map(|n| format!("w{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    addresses.allocate(&world(&many)).expect("the two that are gone make room");
    assert!(addresses.allocate(&world(&[&many[..], &["one-more"]].concat())).is_err());
}

#[test]
fn the_table_of_addresses_survives_its_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("addresses.json");
    assert_eq!(Addresses::load(&path).expect("absent is empty"), Addresses::default());
    let reading = reading(&[("app/a.yaml", SERVICE), ("local/a.yaml", POD)]);
    let addresses = reading.world.addresses.expect("a laptop");
    addresses.save(&path).expect("written");
    assert_eq!(Addresses::load(&path).expect("read"), addresses);
    std::fs::write(&path, "{").expect("written");
    assert!(Addresses::load(&path).expect_err("damaged").to_string().contains("remove it"));
}

#[test]
fn a_directory_without_app_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let reading = read(Path::new(dir.path()), Addresses::default());
    assert!(reading.faults[0].to_string().contains("manifests go into its `app` directory"));
}
