//! What is installed: the image, how everything is confined, and what Helm tells.

use selvage_tests::cluster::{Cluster, Pod, SYSTEM, helm, json, kubectl, pods, try_kubectl};
use serde_json::Value;

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_image_has_the_four_programs_and_nothing_to_look_round_with() {
    Cluster::ready();
    let run = |program: &str, argument: &str| {
        try_kubectl(&["exec", "-n", SYSTEM, "deployment/selvage-controller", "-c", "controller", "--", program, argument])
    };
    for (program, argument) in [("selvage", "version"), ("controller", "--version"), ("gateway", "--version"), ("mesh-agent", "--version")]
    {
        let said = run(&format!("/selvage/{program}"), argument).unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(said.contains(env!("CARGO_PKG_VERSION")), "{program}: {said}");
    }
    for absent in ["/bin/sh", "/bin/bash", "/bin/ls", "/bin/busybox"] {
        assert!(run(absent, "--help").is_err(), "{absent} is in the image");
    }
}

/// What a container may, its pod's word included.
fn confined(pod: &Pod, container: &Value) -> (bool, bool) {
    let (of_pod, own) = (&pod.object["spec"]["securityContext"], &container["securityContext"]);
    let is = |name: &str| own.get(name).or_else(|| of_pod.get(name)) == Some(&Value::Bool(true));
    (is("runAsNonRoot"), own["readOnlyRootFilesystem"] == true)
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn everything_of_ours_runs_as_nobody_on_a_file_system_that_it_cannot_write() {
    Cluster::ready();
    let everything = [(SYSTEM, ""), ("bookshop", "")].map(|(namespace, labels)| pods(namespace, labels));
    let mut seen = Vec::new();
    for pod in everything.iter().flatten() {
        let containers = ["initContainers", "containers"].into_iter().filter_map(|list| pod.object["spec"][list].as_array()).flatten();
        for container in containers {
            let name = container["name"].as_str().expect("a name");
            // An application of the bookshop is its own.
            if pod.namespace != SYSTEM && !name.starts_with("selvage-") {
                continue;
            }
            let (as_nobody, read_only) = confined(pod, container);
            // It installs the rules of capture, as root, and ends.
            assert!(as_nobody || name == "selvage-init", "{}/{name} may run as root", pod.name);
            assert!(read_only, "{}/{name} can write where it runs", pod.name);
            seen.push(name.to_string());
        }
    }
    for name in ["controller", "selvage-gateway", "selvage-proxy", "selvage-init"] {
        assert!(seen.iter().any(|one| one == name), "{name} is nowhere: {seen:?}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_drained_node_takes_one_replica_at_a_time() {
    Cluster::ready();
    for (namespace, name) in [(SYSTEM, "selvage-controller"), ("bookshop", "public-selvage")] {
        let budget = json("poddisruptionbudget", namespace, name);
        assert_eq!(budget["spec"]["maxUnavailable"], 1, "{budget:#}");
        assert_eq!(budget["status"]["expectedPods"], 2, "it selects other pods than it should: {budget:#}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn helm_says_how_to_go_on_and_owns_the_class() {
    Cluster::ready();
    let notes = helm(&["get", "notes", "selvage", "-n", SYSTEM]);
    for wanted in ["kubectl label namespace", "gatewayClassName: selvage", "kubectl edit meshconfig default", "helm uninstall"] {
        assert!(notes.contains(wanted), "{wanted}: {notes}");
    }
    let annotations = &json("gatewayclass", "", "selvage")["metadata"]["annotations"];
    assert_eq!(annotations["meta.helm.sh/release-name"], "selvage", "{annotations}");
    assert_eq!(annotations["meta.helm.sh/release-namespace"], SYSTEM, "{annotations}");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_mesh_config_that_holds_cannot_be_deleted() {
    Cluster::ready();
    let refused = try_kubectl(&["delete", "meshconfig", "default", "--wait=false"]).expect_err("it is deleted");
    assert!(refused.contains("edit it instead"), "{refused}");
    kubectl(&["get", "meshconfig", "default"]);
}
