use super::*;
use crate::settings::Settings;
use crate::world::{Parsed, Unknown, parse};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, core::v1::ServiceAccount, policy::v1::PodDisruptionBudget};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use std::path::Path;

/// Set: golden files are written instead of compared.
const WRITE: &str = "SELVAGE_WRITE";

fn settings() -> Settings {
    let text = json!({
        "image": "selvage:1", "controller": "selvage-controller.selvage-system.svc:15410", "trustDomain": "cluster.local", "sidecars": {},
        "gateways": { "replicas": 2, "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } },
    });
    Settings::parse(&text.to_string()).expect("settings")
}

fn gateway(value: Value) -> crate::world::Object<GatewaySpec> {
    match parse(value, Unknown::Refuse) {
        Ok((_, Parsed::Gateway(gateway))) => *gateway,
        other => panic!("{other:?}"),
    }
}

fn named(name: &str, spec: Value) -> crate::world::Object<GatewaySpec> {
    let mut gateway_json = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": name, "namespace": "shop", "uid": "11111111-2222-3333-4444-555555555555" },
        "spec": { "gatewayClassName": "selvage", "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }] },
    });
    for (field, value) in spec.as_object().expect("an object") {
        gateway_json["spec"][field] = value.clone();
    }
    gateway(gateway_json)
}

fn objects(gateway: &crate::world::Object<GatewaySpec>) -> Vec<Value> {
    let (settings, ports) = (settings(), ports(&gateway.spec, []));
    let address = requested_address(&gateway.spec).expect("an address, or none");
    Plan { gateway, ports: &ports, address, settings: &settings, trust_domain: &settings.trust_domain }.objects()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn a_gateway_becomes_what_the_golden_file_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/provision/golden");
    let text = std::fs::read_to_string(folder.join("public.yaml")).expect("the Gateway");
    let made = objects(&gateway(serde_saphyr::from_str(&text).expect("YAML")));
    let path = folder.join("public.objects.yaml");
    if std::env::var_os(WRITE).is_some() {
        let documents = made.iter().map(|object| format!("---\n{}", serde_saphyr::to_string(object).expect("YAML")));
        std::fs::write(&path, documents.collect::<String>()).expect("the file can be written");
        return;
    }
    let golden: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(&path).expect("the golden file")).expect("YAML");
    for (made, golden) in made.iter().zip(&golden) {
        assert_eq!(made, golden, "run with {WRITE}=1 and read the difference");
    }
    assert_eq!(made.len(), golden.len());
}

/// A misspelt field would be refused by the API server, or dropped.
#[test]
fn everything_is_known_to_kubernetes() {
    fn round<T: Serialize + DeserializeOwned>(object: &Value) {
        let typed: T = serde_json::from_value(object.clone()).expect("its kind");
        assert_eq!(serde_json::to_value(typed).expect("JSON"), *object);
    }
    let asked = json!({ "addresses": [{ "value": "192.0.2.7" }], "infrastructure": { "annotations": { "a": "b" } } });
    let made = objects(&named("public", asked));
    round::<ServiceAccount>(of_kind(&made, "ServiceAccount"));
    round::<Service>(of_kind(&made, "Service"));
    round::<Deployment>(of_kind(&made, "Deployment"));
    round::<PodDisruptionBudget>(of_kind(&made, "PodDisruptionBudget"));
    assert_eq!(made.len(), 4);
}

#[test]
fn what_a_gateway_asks_for_is_on_everything_and_never_outweighs_ours() {
    let asked = json!({ "infrastructure": {
        "labels": { "team": "web", "gateway.networking.k8s.io/gateway-name": "other", "selvage.dev/inject": "enabled" },
        "annotations": { "example.com/note": "kept" },
    } });
    let made = objects(&named("public", asked));
    for object in &made {
        assert_eq!(object.pointer("/metadata/labels/team"), Some(&json!("web")), "{object}");
        assert_eq!(object["metadata"]["labels"][GATEWAY_LABEL], "public", "{object}");
        assert_eq!(object["metadata"]["labels"][CLASS_LABEL], "selvage");
        assert_eq!(object["metadata"]["annotations"]["example.com/note"], "kept");
        assert_eq!(object["metadata"]["name"], "public-selvage");
    }
    assert_eq!(of_kind(&made, "Service")["metadata"]["annotations"], json!({ "example.com/note": "kept" }));
    let template = &of_kind(&made, "Deployment")["spec"]["template"]["metadata"];
    assert_eq!((&template["labels"]["team"], &template["labels"]["selvage.dev/inject"]), (&json!("web"), &json!("disabled")));
    assert_eq!(template["annotations"], json!({ "example.com/note": "kept" }));
}

#[test]
fn the_longest_name_fits_everywhere() {
    let name = "g".repeat(253);
    for object in objects(&named(&name, json!({}))) {
        let text = |value: &Value| value.as_str().map(str::len).unwrap_or_default();
        assert!((1..=63).contains(&text(&object["metadata"]["name"])), "{object}");
        assert!((1..=63).contains(&text(&object["metadata"]["labels"][GATEWAY_LABEL])), "{object}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["name"], name.as_str());
    }
}

#[test]
fn ports_are_those_of_listeners_and_listener_sets_once_each() {
    let listeners = json!({ "listeners": [
        { "name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com" },
        { "name": "b", "port": 80, "protocol": "HTTP", "hostname": "b.example.com" },
        { "name": "dns", "port": 5300, "protocol": "UDP" }, { "name": "dns-tcp", "port": 5300, "protocol": "TCP" },
    ] });
    let gateway = named("public", listeners);
    let set: ListenerSetSpec = serde_json::from_value(json!({
        "parentRef": { "name": "public" }, "listeners": [{ "name": "more", "port": 8443, "protocol": "TCP" }],
    }))
    .expect("a ListenerSet");
    let port = |number, transport| Port { number, transport };
    let expected = [port(80, Transport::Tcp), port(5300, Transport::Tcp), port(5300, Transport::Udp), port(8443, Transport::Tcp)];
    assert_eq!(ports(&gateway.spec, [&set]).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(expected.map(Port::bound), [10080, 5300, 5300, 8443]);
}

#[test]
fn without_a_port_there_is_no_service() {
    let (settings, gateway, none) = (settings(), named("public", json!({})), BTreeSet::new());
    let plan = Plan { gateway: &gateway, ports: &none, address: None, settings: &settings, trust_domain: &settings.trust_domain };
    assert!(plan.objects().iter().all(|object| object["kind"] != "Service"));
}

#[test]
fn an_address_is_asked_of_the_load_balancer_and_of_nobody_else() {
    let made = objects(&named("public", json!({ "addresses": [{ "type": "IPAddress", "value": "192.0.2.7" }] })));
    let service = of_kind(&made, "Service");
    assert_eq!(service["spec"]["loadBalancerIP"], "192.0.2.7");
    assert!(service["spec"].get("externalIPs").is_none());
    for (addresses, field) in [
        (json!([{ "type": "Hostname", "value": "a.example.com" }]), "spec.addresses[0].type"),
        (json!([{ "type": "example.com/named", "value": "mine" }]), "spec.addresses[0].type"),
        (json!([{ "type": "IPAddress", "value": "192.0.2.7" }, { "type": "IPAddress", "value": "192.0.2.8" }]), "spec.addresses[1]"),
    ] {
        let spec = named("public", json!({})).spec;
        let spec = GatewaySpec { addresses: serde_json::from_value(addresses).expect("addresses"), ..spec };
        assert_eq!(requested_address(&spec).expect_err("refused").field, field);
    }
    let any = json!([{ "type": "IPAddress" }]);
    let spec = GatewaySpec { addresses: serde_json::from_value(any).expect("addresses"), ..named("public", json!({})).spec };
    assert_eq!(requested_address(&spec), Ok(None));
}

#[test]
fn status_shows_what_a_load_balancer_gave_and_the_clusters_address_only_without_one() {
    let shown =
        |service: Value| status_addresses(&service).into_iter().map(|one| format!("{} {}", one.kind, one.value)).collect::<Vec<_>>();
    let cases = [
        (json!({ "spec": {} }), vec![]),
        (json!({ "spec": { "clusterIPs": ["None"] } }), vec![]),
        (json!({ "spec": { "clusterIPs": ["10.0.0.9", "fd00::9"] } }), vec!["IPAddress 10.0.0.9", "IPAddress fd00::9"]),
        // The load balancer is on its way: from outside nothing is reached yet.
        (json!({ "spec": { "type": "LoadBalancer", "clusterIPs": ["10.0.0.9"] } }), vec![]),
        (
            json!({ "spec": { "clusterIPs": ["10.0.0.9"] }, "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }, { "hostname": "lb.example.com" }] } } }),
            vec!["IPAddress 192.0.2.1", "Hostname lb.example.com"],
        ),
    ];
    for (service, expected) in cases {
        assert_eq!(shown(service.clone()), expected, "{service}");
    }
}

#[test]
fn somebody_elses_object_is_left_alone() {
    let gateway = named("public", json!({}));
    let made = objects(&gateway);
    assert_eq!(taken(of_kind(&made, "Service"), &gateway.meta), None);
    let theirs = json!({ "kind": "Service", "metadata": { "name": "public-selvage", "namespace": "shop" } });
    assert_eq!(
        taken(&theirs, &gateway.meta).as_deref(),
        Some("Service shop/public-selvage is there already and is not this Gateway's: rename one of them")
    );
    let mut earlier = of_kind(&made, "Service").clone();
    earlier["metadata"]["ownerReferences"][0]["uid"] = json!("of a Gateway that is gone");
    assert!(taken(&earlier, &gateway.meta).is_some());
}

#[test]
fn pods_of_another_class_or_implementation_are_not_selected() {
    let made = objects(&named("public", json!({})));
    let selected = json!({ GATEWAY_LABEL: "public", CLASS_LABEL: "selvage" });
    assert_eq!(of_kind(&made, "Service")["spec"]["selector"], selected);
    assert_eq!(of_kind(&made, "Deployment")["spec"]["selector"]["matchLabels"], selected);
    assert_eq!(of_kind(&made, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], selected);
}

#[test]
fn what_a_gateway_had_under_another_class_is_left_over() {
    let (before, now) = (named("public", json!({})), named("public", json!({ "gatewayClassName": "internal" })));
    let kinds: Vec<(String, String)> = objects(&before)
        .into_iter()
        .map(|object| {
            assert!(left_over(&object, &now) && !left_over(&object, &before), "{object}");
            let mut theirs = object.clone();
            theirs["metadata"]["ownerReferences"][0]["uid"] = json!("another Gateway's");
            assert!(!left_over(&theirs, &now));
            let mut unmanaged = object.clone();
            unmanaged["metadata"]["labels"][MANAGED_LABEL] = json!("Helm");
            assert!(!left_over(&unmanaged, &now));
            (object["apiVersion"].as_str().expect("a version").into(), object["kind"].as_str().expect("a kind").into())
        })
        .collect();
    assert_eq!(kinds, KINDS.map(|(version, kind)| (version.to_string(), kind.to_string())));
}

#[test]
fn proxies_of_a_gateway_are_as_confined_as_sidecars() {
    let made = objects(&named("public", json!({})));
    let pod = &of_kind(&made, "Deployment")["spec"]["template"]["spec"];
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(*context, crate::containers::unprivileged());
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(of_kind(&made, "ServiceAccount")["automountServiceAccountToken"], false);
    assert_eq!(pod["serviceAccountName"], "public-selvage");
}

#[test]
fn a_listener_more_restarts_no_proxy() {
    let template = |gateway| of_kind(&objects(&gateway), "Deployment")["spec"]["template"].clone();
    let two =
        json!({ "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }, { "name": "more", "port": 81, "protocol": "HTTP" }] });
    assert_eq!(template(named("public", two)), template(named("public", json!({}))));
}
