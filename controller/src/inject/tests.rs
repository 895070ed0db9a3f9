use super::*;
use k8s_openapi::api::core::v1::Pod;
use std::path::Path;

/// Set: golden files are written instead of compared.
const WRITE: &str = "SELVAGE_WRITE";

fn settings() -> Settings {
    let text = json!({
        "image": "selvage:1", "controller": "selvage-controller.selvage-system.svc:15410", "trustDomain": "cluster.local",
        "sidecars": { "resources": { "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } } }, "gateways": {},
    });
    Settings::parse(&text.to_string()).expect("settings")
}

fn namespace(name: &str, label: Option<&str>) -> Namespace {
    Namespace { name: name.into(), labels: label.map(|word| (INJECT.to_string(), word.to_string())).into_iter().collect() }
}

fn decide(pod: &Value, namespace: &Namespace) -> Result<Outcome, Vec<Fault>> {
    let settings = settings();
    inject(pod, namespace, &settings, &settings.trust_domain)
}

/// The Pod with its sidecar.
fn injected(pod: &Value) -> Value {
    let mut after = pod.clone();
    match decide(pod, &namespace("shop", Some("enabled"))) {
        Ok(Outcome::Injected(patch)) => patch.iter().for_each(|operation| apply(&mut after, operation)),
        other => panic!("{other:?}"),
    }
    after
}

/// RFC 6902 section 4.1, for members of objects.
fn apply(pod: &mut Value, operation: &Value) {
    assert_eq!(operation["op"], "add");
    let (parent, member) = operation["path"].as_str().and_then(|path| path.rsplit_once('/')).expect("a path");
    let parent =
        pod.pointer_mut(parent).and_then(Value::as_object_mut).expect("the parent is there: else the API server refuses the patch");
    parent.insert(member.into(), operation["value"].clone());
}

fn read(name: &str) -> (std::path::PathBuf, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/golden").join(name);
    let value = std::fs::read_to_string(&path).map(|text| serde_saphyr::from_str(&text).expect("YAML")).unwrap_or(Value::Null);
    (path, value)
}

fn pod(spec: Value) -> Value {
    let mut pod =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "orders" }, "spec": { "containers": [{ "name": "app" }] } });
    for (field, value) in spec.as_object().expect("an object") {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn labelled(word: &str) -> Value {
    let mut pod = pod(json!({}));
    pod["metadata"]["labels"] = json!({ INJECT: word });
    pod
}

fn container<'a>(pod: &'a Value, list: &str, name: &str) -> &'a Value {
    let containers = pod["spec"][list].as_array().expect("a list");
    containers.iter().find(|container| container["name"] == name).unwrap_or_else(|| panic!("no {name} in {containers:?}"))
}

fn env<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = container["env"].as_array()?;
    variables.iter().find(|variable| variable["name"] == name).and_then(|variable| variable["value"].as_str())
}

#[test]
fn pods_become_what_the_golden_files_say() {
    for name in ["plain", "everything"] {
        let after = injected(&read(&format!("{name}.yaml")).1);
        let (path, golden) = read(&format!("{name}.injected.yaml"));
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&path, serde_saphyr::to_string(&after).expect("YAML")).expect("the file can be written");
        } else {
            assert_eq!(after, golden, "{name}: run with {WRITE}=1 and read the difference");
        }
    }
}

/// What the API server does not know it drops silently: a misspelt field would be no field.
#[test]
fn everything_that_is_put_in_is_known_to_kubernetes() {
    let after = injected(&read("plain.yaml").1);
    let typed: Pod = serde_json::from_value(after.clone()).expect("a Pod");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), after);
}

#[test]
fn labels_decide_and_the_pods_own_counts_more() {
    use Untouched::{Disabled, NotAsked, SystemNamespace};
    let cases = [
        (None, None, Some(NotAsked)),
        (None, Some("enabled"), None),
        (None, Some("disabled"), Some(Disabled)),
        (Some("enabled"), None, None),
        (Some("enabled"), Some("disabled"), None),
        (Some("disabled"), Some("enabled"), Some(Disabled)),
    ];
    for (on_pod, on_namespace, untouched) in cases {
        let outcome = decide(&on_pod.map_or_else(|| pod(json!({})), labelled), &namespace("shop", on_namespace)).expect("admitted");
        let found = match outcome {
            Outcome::Injected(_) => None,
            Outcome::Untouched(why) => Some(why),
        };
        assert_eq!(found, untouched, "Pod {on_pod:?}, Namespace {on_namespace:?}");
    }
    for system in ["kube-system", "kube-public", "selvage-system"] {
        let outcome = decide(&labelled("enabled"), &namespace(system, Some("enabled"))).expect("admitted");
        assert_eq!(outcome, Outcome::Untouched(SystemNamespace), "{system}");
    }
}

#[test]
fn a_word_that_means_nothing_is_refused_where_it_stands() {
    let faults = decide(&labelled("true"), &namespace("shop", Some("enabled"))).expect_err("refused");
    assert_eq!(
        faults[0].to_string(),
        "Pod/shop/orders: metadata.labels[\"selvage.dev/inject\"]: `true` is not allowed: write enabled or disabled"
    );
    let faults = decide(&pod(json!({})), &namespace("shop", Some("on"))).expect_err("refused");
    assert_eq!(faults[0].object, "Namespace/shop");
    assert!(matches!(decide(&labelled("enabled"), &namespace("shop", Some("on"))), Ok(Outcome::Injected(_))), "the Pod says it all");
}

#[test]
fn pods_that_cannot_be_captured_stay_as_they_are() {
    let mut of_a_file = pod(json!({}));
    of_a_file["metadata"]["annotations"] = json!({ "kubernetes.io/config.mirror": "x" });
    for (pod, why) in [
        (pod(json!({ "hostNetwork": true })), Untouched::HostNetwork),
        (pod(json!({ "os": { "name": "windows" } })), Untouched::Windows),
        (of_a_file, Untouched::Static),
    ] {
        assert_eq!(decide(&pod, &namespace("shop", Some("enabled"))), Ok(Outcome::Untouched(why)));
        assert!(why.is_surprising());
    }
}

#[test]
fn what_is_in_the_way_is_refused_by_its_field() {
    let cases = [
        (
            json!({ "containers": [{ "name": "app", "securityContext": { "runAsUser": 2173 } }] }),
            "spec.containers[0].securityContext.runAsUser",
        ),
        (
            json!({ "containers": [{ "name": "app", "securityContext": { "runAsGroup": 2173 } }] }),
            "spec.containers[0].securityContext.runAsGroup",
        ),
        (json!({ "securityContext": { "runAsUser": 2173 } }), "spec.securityContext.runAsUser"),
        (
            json!({ "initContainers": [{ "name": "a", "securityContext": { "runAsUser": 2173 } }] }),
            "spec.initContainers[0].securityContext.runAsUser",
        ),
        (json!({ "containers": [{ "name": "selvage-proxy" }] }), "spec.containers[0].name"),
        (json!({ "initContainers": [{ "name": "selvage-proxy" }] }), "spec.initContainers[0].name"),
        (json!({ "initContainers": [{ "name": "selvage-init" }] }), "spec.initContainers[0].name"),
        (json!({ "volumes": [{ "name": "selvage-state" }] }), "spec.volumes[0].name"),
        (
            json!({ "containers": [{ "name": "app", "volumeMounts": [{ "name": "selvage-state", "mountPath": "/keys" }] }] }),
            "spec.containers[0].volumeMounts[0].name",
        ),
        (json!({ "containers": [{ "name": "app", "ports": [{ "containerPort": 15306 }] }] }), "spec.containers[0].ports[0].containerPort"),
        (
            json!({ "containers": [{ "name": "app", "livenessProbe": { "httpGet": { "port": "web" } } }] }),
            "spec.containers[0].livenessProbe.httpGet.port",
        ),
        (
            json!({ "containers": [{ "name": "app", "readinessProbe": { "grpc": { "port": 0 } } }] }),
            "spec.containers[0].readinessProbe.grpc.port",
        ),
        (
            json!({ "containers": [{ "name": "app", "readinessProbe": { "httpGet": { "port": 15315, "path": "/probe/app/readyz" } } }] }),
            "spec.containers[0].readinessProbe.httpGet.port",
        ),
        (json!({ "containers": "none" }), "spec.containers"),
    ];
    for (spec, field) in cases {
        let faults = decide(&pod(spec.clone()), &namespace("shop", Some("enabled"))).expect_err(field);
        assert!(faults.iter().any(|fault| fault.field == field && fault.object == "Pod/shop/orders"), "{spec}: {faults:?}");
    }
    // A container's own user outweighs the Pod's.
    let own =
        pod(json!({ "securityContext": { "runAsUser": 2173 }, "containers": [{ "name": "app", "securityContext": { "runAsUser": 1 } }] }));
    assert!(decide(&own, &namespace("shop", Some("enabled"))).is_ok());
}

#[test]
fn exclusions_that_cannot_be_read_are_refused() {
    let cases = [
        ("selvage.dev/exclude-inbound-ports", "80,http"),
        ("selvage.dev/exclude-inbound-ports", "0"),
        ("selvage.dev/exclude-outbound-ports", "65536"),
        ("selvage.dev/exclude-outbound-ports", " , "),
        ("selvage.dev/exclude-outbound-cidrs", "10.0.0.0/33"),
        ("selvage.dev/exclude-outbound-cidrs", "example.com"),
    ];
    for (annotation, value) in cases {
        let mut pod = pod(json!({}));
        pod["metadata"]["annotations"] = json!({ annotation: value });
        let faults = decide(&pod, &namespace("shop", Some("enabled"))).expect_err(value);
        assert_eq!(faults[0].field, format!("metadata.annotations[\"{annotation}\"]"), "{value}: {faults:?}");
        assert_eq!(faults.len(), 1);
    }
}

#[test]
fn injecting_twice_is_injecting_once() {
    for name in ["plain.yaml", "everything.yaml"] {
        let once = injected(&read(name).1);
        assert_eq!(decide(&once, &namespace("shop", Some("enabled"))), Ok(Outcome::Injected(Vec::new())), "{name}");
    }
}

#[test]
fn a_container_that_came_after_ours_is_seen_to_as_well() {
    let mut later = injected(&read("everything.yaml").1);
    let added = json!({ "name": "late", "readinessProbe": { "tcpSocket": { "port": 7000 } } });
    later["spec"]["containers"].as_array_mut().expect("a list").push(added);
    let early = json!({ "name": "early" });
    later["spec"]["initContainers"].as_array_mut().expect("a list").insert(0, early);
    let after = injected(&later);
    assert_eq!(
        container(&after, "containers", "late")["readinessProbe"]["httpGet"],
        json!({ "path": "/probe/late/readyz", "port": 15315 })
    );
    let probes: Value =
        serde_json::from_str(env(container(&after, "initContainers", SIDECAR), probes::VARIABLE).expect("probes")).expect("JSON");
    assert_eq!(probes["/probe/late/readyz"], json!({ "tcpSocket": { "port": 7000 } }));
    assert_eq!(probes["/probe/ledger/livez"]["httpGet"]["port"], 8080);
    let order: Vec<&str> =
        after["spec"]["initContainers"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(order, [INIT, SIDECAR, "early", "migrate", "shipper"]);
}

#[test]
fn a_dollar_in_a_probe_is_one_after_the_kubelet_has_read_it() {
    let probed = pod(json!({ "containers": [{ "name": "app", "livenessProbe": { "httpGet": { "path": "/$(HOME)$$", "port": 80 } } }] }));
    let once = injected(&probed);
    let value = env(container(&once, "initContainers", SIDECAR), probes::VARIABLE).expect("probes").to_string();
    assert!(value.contains("/$$(HOME)$$$$"), "{value}");
    assert_eq!(injected(&once), once);
}

#[test]
fn a_pod_that_claims_to_have_a_sidecar_gets_a_real_one() {
    let mut claims = pod(json!({ "initContainers": [{ "name": "selvage-proxy", "image": "mine", "restartPolicy": "Always" }] }));
    claims["metadata"]["annotations"] = json!({ STATUS: "{}" });
    let after = injected(&claims);
    assert_eq!(container(&after, "initContainers", SIDECAR)["image"], "selvage:1");
    assert_eq!(after["spec"]["initContainers"].as_array().map(Vec::len), Some(2));
}

#[test]
fn only_the_sidecar_sees_its_token_and_keys_and_it_does_not_see_the_applications() {
    let after = injected(&read("everything.yaml").1);
    let mounted = |container: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        container["volumeMounts"].as_array().into_iter().flatten().map(|mount| (text(&mount["name"]), text(&mount["mountPath"]))).collect()
    };
    for list in ["initContainers", "containers"] {
        for container in after["spec"][list].as_array().expect("a list") {
            let (name, mounts) = (container["name"].as_str().expect("a name"), mounted(container));
            let ours = mounts.iter().filter(|(volume, _)| volume.starts_with("selvage-")).count();
            let api_token_kept_out = mounts.iter().any(|(_, path)| path == "/var/run/secrets/kubernetes.io/serviceaccount");
            match name {
                SIDECAR => assert!(ours == 4 && api_token_kept_out, "{mounts:?}"),
                INIT => assert!(ours == 1 && api_token_kept_out, "{mounts:?}"),
                _ => assert_eq!(ours, 0, "{name}: {mounts:?}"),
            }
        }
    }
}

#[test]
fn what_is_no_pod_is_refused_and_nothing_breaks() {
    for garbage in
        [json!(null), json!([]), json!("pod"), json!({}), json!({ "metadata": "x", "spec": {} }), json!({ "metadata": {}, "spec": [] })]
    {
        assert!(decide(&garbage, &namespace("shop", Some("enabled"))).is_err(), "{garbage}");
    }
    let odd = json!({ "metadata": { "annotations": null, "labels": null }, "spec": { "containers": null, "initContainers": null, "volumes": null } });
    assert!(matches!(decide(&odd, &namespace("shop", Some("enabled"))), Ok(Outcome::Injected(_)) | Err(_)));
}
