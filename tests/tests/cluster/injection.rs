//! Sidecars: who gets one, and that probes mean what they meant.

use selvage_tests::cluster::{Applied, Cluster, PATIENCE, Pod, eventually, kubectl, pod, pods};
use serde_json::json;

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn pods_of_a_labelled_namespace_get_a_native_sidecar() {
    Cluster::ready();
    for app in ["storefront", "catalogue", "orders"] {
        let pods = pods("bookshop", &format!("app={app}"));
        assert_eq!(pods.len(), 2, "{app}");
        for pod in pods {
            let sidecar = pod.init_container("selvage-proxy").unwrap_or_else(|| panic!("{} has no sidecar", pod.name));
            assert_eq!(sidecar["restartPolicy"], "Always");
            assert!(sidecar["startupProbe"].is_object(), "the application could start before its sidecar: {sidecar}");
            let capabilities = &pod.init_container("selvage-init").expect("capture is installed")["securityContext"]["capabilities"]["add"];
            assert_eq!(capabilities, &json!(["NET_ADMIN", "NET_RAW"]));
            assert!(sidecar["securityContext"]["capabilities"]["add"].is_null(), "the sidecar itself needs no capability: {sidecar}");
            assert_eq!(sidecar["securityContext"]["readOnlyRootFilesystem"], true, "{sidecar}");
            let containers = pod.object["spec"]["containers"].as_array().expect("containers");
            assert_eq!(containers.len(), 1, "the application keeps its containers");
        }
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn proxies_of_a_gateway_and_pods_of_others_get_none() {
    Cluster::ready();
    let edge = pods("bookshop", "gateway.networking.k8s.io/gateway-name=public");
    assert!(!edge.is_empty(), "the Gateway has no proxies");
    for pod in edge.iter().chain(&pods("outside", "app=library")).chain(&pods("selvage-system", "")).chain(&pods("kube-system", "")) {
        assert!(pod.init_container("selvage-proxy").is_none(), "{}/{} has a sidecar", pod.namespace, pod.name);
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_label_of_a_pod_wins_over_its_namespaces() {
    Cluster::ready();
    let manifest = |namespace: &str, name: &str, value: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace}, labels: {{ selvage.dev/inject: {value} }} }}\n\
             spec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{ name: caller, image: \"selvage-caller:test\", command: [caller, wait] }}\n"
        )
    };
    let _opted = Applied::new(&[manifest("bookshop", "without", "disabled"), manifest("outside", "with", "enabled")].join("---\n"));
    assert!(pod("bookshop", "without").init_container("selvage-proxy").is_none());
    assert!(pod("outside", "with").init_container("selvage-proxy").is_some());
    // It works there: the roots of the mesh are in every namespace.
    kubectl(&["wait", "-n", "outside", "--for=condition=Ready", "--timeout=60s", "pod/with"]);
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn probes_keep_working_in_strict_mode_and_still_tell_healthy_from_not() {
    Cluster::ready();
    let _strict = super::wire_protocols::Strict::on();
    let pod_with = |name: &str, path: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: bookshop }}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
             - name: app\n    image: selvage-bookshop\n    imagePullPolicy: IfNotPresent\n    command: [bookshop, catalogue, --listen, \"0.0.0.0:8080\"]\n    \
             ports: [{{ name: http, containerPort: 8080 }}]\n    \
             startupProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}\n    \
             livenessProbe: {{ httpGet: {{ path: /healthz, port: http }}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1 }}\n    \
             readinessProbe: {{ httpGet: {{ path: {path}, port: http }}, periodSeconds: 1, timeoutSeconds: 10 }}\n"
        )
    };
    let _probed = Applied::new(&[pod_with("well", "/healthz"), pod_with("unwell", "/nowhere")].join("---\n"));
    let well = eventually("the probed pod is ready", || Some(pod("bookshop", "well")).filter(|pod| pod.is_ready()));
    let probe = &well.object["spec"]["containers"][0]["readinessProbe"]["httpGet"];
    assert_eq!(probe["path"], "/probe/app/readyz", "the kubelet asks the sidecar, not the captured port: {probe}");
    assert_eq!(probe["port"], 15315);
    // Its liveness probe fails at once if it fails at all.
    std::thread::sleep(PATIENCE / 12);
    assert_eq!(pod("bookshop", "well").restarts("app"), 0);
    let started = |pod: &Pod| pod.container_status("app").is_some_and(|status| status["started"] == true);
    let unwell = eventually("the other has started", || Some(pod("bookshop", "unwell")).filter(started));
    assert!(!unwell.is_ready(), "a readiness probe that fails does not show");
    assert_eq!(unwell.restarts("app"), 0);
}
