//! The chart, by Helm itself, and what the API server keeps of it.

use selvage_tests::cluster::{Cluster, SYSTEM, helm, json, kubectl, try_apply, try_kubectl};
use selvage_tests::program::root;
use serde_json::Value;
use std::process::Command;

fn chart() -> String {
    root().join("charts/selvage").to_string_lossy().into_owned()
}

/// What Helm says where it must refuse.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new("helm").args(arguments).output().expect("helm is there: tests/cluster/with");
    assert!(!output.status.success(), "helm {arguments:?} succeeds");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn bundles() -> Vec<String> {
    let of = |kind: &str, name: &str| {
        let webhooks = json(kind, "", name)["webhooks"].as_array().cloned().unwrap_or_default();
        webhooks.iter().map(|webhook| webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_string()).collect::<Vec<_>>()
    };
    [of("mutatingwebhookconfiguration", "selvage-injection"), of("validatingwebhookconfiguration", "selvage-validation")].concat()
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_chart_is_in_order_and_takes_no_value_that_it_does_not_know() {
    let chart = chart();
    helm(&["lint", &chart, "--strict", "-n", SYSTEM]);
    let unknown = refused(&["template", "selvage", &chart, "-n", SYSTEM, "--set", "controler.replicas=3"]);
    assert!(unknown.contains("controler"), "{unknown}");
    let none = refused(&["template", "selvage", &chart, "-n", SYSTEM, "--set", "controller.replicas=0"]);
    assert!(none.contains("replicas"), "{none}");
    let elsewhere = refused(&["template", "selvage", &chart, "-n", "elsewhere"]);
    assert!(elsewhere.contains("--namespace selvage-system"), "{elsewhere}");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn an_upgrade_keeps_what_the_controller_keeps_and_restarts_nothing() {
    Cluster::ready();
    let pods = || kubectl(&["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=selvage", "-o", "name"]);
    let (before, running) = (bundles(), pods());
    assert!(before.len() == 3 && before.iter().all(|bundle| !bundle.is_empty()), "webhooks are not trusted: {before:?}");
    helm(&["upgrade", "selvage", &chart(), "-n", SYSTEM, "--reuse-values", "--wait", "--timeout", "120s"]);
    assert_eq!(bundles(), before);
    assert_eq!(pods(), running, "an upgrade that changes nothing restarts the controller");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_controller_may_do_what_it_does_and_no_more() {
    Cluster::ready();
    let account = format!("system:serviceaccount:{SYSTEM}:selvage-controller");
    let may = |question: &str| {
        let words: Vec<&str> = ["auth", "can-i", "--as", &account].into_iter().chain(question.split(' ')).collect();
        try_kubectl(&words).is_ok()
    };
    for needed in [
        "list secrets -n bookshop",
        "delete deployments.apps -n bookshop",
        "patch configmaps/selvage-roots -n bookshop",
        "create deployments.apps -n bookshop",
    ] {
        assert!(may(needed), "{needed}");
    }
    for not in [
        "create pods -n bookshop",
        "delete pods -n bookshop",
        "get secrets -n bookshop",
        "delete namespaces",
        "delete meshconfigs",
        "update secrets -n bookshop",
        "patch configmaps/other -n bookshop",
        "patch mutatingwebhookconfigurations/other",
        "create clusterrolebindings",
        "impersonate users",
    ] {
        assert!(!may(not), "{not}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn the_trust_domain_cannot_be_changed() {
    Cluster::ready();
    let config: Value = json("meshconfig", "", "default");
    assert_eq!(config["metadata"]["name"], "default", "the controller makes it: {config}");
    let refused = try_apply(
        "apiVersion: selvage.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: default }\nspec: { trustDomain: other.example }\n",
    )
    .expect_err("it is admitted");
    assert!(refused.contains("trustDomain"), "{refused}");
}
