//! What a proxy may read is decided by the token that it proves itself with: one pod, one view.

use selvage_tests::cluster::{Applied, Cluster, SYSTEM, eventually, json, kubectl, pod, try_kubectl};
use serde_json::Value;
use std::process::Command;

/// The arguments of `caller stream`, with this token and these roots.
fn stream<'a>(controller: &'a str, token: &'a str, roots: &'a str) -> [&'a str; 9] {
    ["stream", "--controller", controller, "--name", "controller.selvage-system.sa.cluster.local", "--token", token, "--roots", roots]
}

/// The controller's wire at the address of its Service.
fn controller() -> String {
    let service = json("service", SYSTEM, "selvage-controller");
    format!("{}:15410", service["spec"]["clusterIP"].as_str().expect("an address"))
}

fn keys(said: &Value) -> Vec<String> {
    let list = said["given"].as_array().unwrap_or_else(|| panic!("{said}"));
    list.iter().map(|key| key.as_str().expect("a key").to_string()).collect()
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_pods_token_opens_that_pods_view_and_no_other() {
    let cluster = Cluster::ready();
    // A replica that does not serve, or does not know the Pod yet, sends it away, to come back.
    let given = keys(&eventually("the guest is given its view", || {
        let said = cluster.caller("bookshop/guest", &stream(&controller(), "/mine/token", "/trusted/roots.pem"));
        (!said["error"].as_str().is_some_and(|error| error.contains("sent us away"))).then_some(said)
    }));
    assert!(given.iter().any(|key| key.starts_with("Listener/bookshop/guest")), "its own listeners are missing: {given:?}");
    for key in &given {
        assert!(!key.starts_with("Certificate/"), "a private key: {key}");
        let listener_of_another = key.starts_with("Listener/") && !key.contains("guest");
        assert!(!listener_of_another, "the configuration of another proxy: {key}");
        // What only the Gateway enforces is the Gateway's.
        assert!(!key.contains("per-client"), "a guard that another proxy enforces: {key}");
    }
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn tokens_that_prove_no_pod_of_the_mesh_are_refused() {
    let cluster = Cluster::ready();
    let refused = |said: &Value, what: &str| {
        let error = said["error"].as_str().unwrap_or_else(|| panic!("{what}: let in: {said}"));
        assert!(error.contains("refused"), "{what}: {error}");
    };
    let at = controller();
    // A token of the pod, but not for us.
    let said = cluster.caller("bookshop/guest", &stream(&at, "/mine/for-the-api", "/trusted/roots.pem"));
    refused(&said, "a token for the API server");

    let scratch = tempfile::tempdir().expect("a folder");
    let path = |name: &str| scratch.path().join(name).to_str().expect("the path is UTF-8").to_string();
    let roots = json("configmap", SYSTEM, "selvage-roots")["data"]["roots.pem"].as_str().expect("the roots").to_string();
    std::fs::write(path("roots"), roots).expect("they are written");
    let here = |token: &str, what: &str| {
        std::fs::write(path("token"), token.trim()).expect("it is written");
        let output =
            Command::new(env!("CARGO_BIN_EXE_caller")).args(stream(&at, &path("token"), &path("roots"))).output().expect("caller runs");
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        refused(&said, what);
    };
    here("nonsense", "no token at all");
    let audience = "--audience=selvage.dev/controller";
    here(&kubectl(&["create", "token", "-n", "bookshop", "storefront", audience]), "a token that is bound to no pod");
    // A token of a pod of the mesh, shown by somebody at another address: here, the node.
    let guest = pod("bookshop", "guest");
    let uid = guest.object["metadata"]["uid"].as_str().expect("a uid");
    let bound = [
        "create",
        "token",
        "-n",
        "bookshop",
        "guest",
        audience,
        "--bound-object-kind=Pod",
        "--bound-object-name=guest",
        "--bound-object-uid",
        uid,
    ];
    here(&kubectl(&bound), "a stolen token");
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_pod_without_a_sidecar_gets_nothing_and_the_platforms_keys_are_out_of_reach() {
    let cluster = Cluster::ready();
    let _plain = Applied::new(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: curious, namespace: outside }\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: caller\n    image: selvage-caller:test\n    command: [caller, wait]\n    volumeMounts:\n    \
         - { name: mine, mountPath: /mine }\n    - { name: roots, mountPath: /trusted }\n  volumes:\n  \
         - name: mine\n    projected: { sources: [{ serviceAccountToken: { path: token, audience: selvage.dev/controller } }] }\n  \
         - name: roots\n    configMap: { name: selvage-roots }\n",
    );
    kubectl(&["wait", "-n", "outside", "--for=condition=Ready", "--timeout=60s", "pod/curious"]);
    let said = cluster.caller("outside/curious", &stream(&controller(), "/mine/token", "/trusted/roots.pem"));
    let given = said["given"].as_array().map(Vec::len).unwrap_or_default();
    assert!(said["error"].as_str().is_some_and(|error| error.contains("refused")) || given == 0, "{said}");

    // Neither an application's account nor a proxy's may read the CA or anybody's keys from the API server.
    for account in ["bookshop:guest", "bookshop:public-selvage", "bookshop:storefront"] {
        let user = format!("--as=system:serviceaccount:{account}");
        for (secret, namespace) in [("secret/selvage-ca", SYSTEM), ("secret/public-tls", "bookshop")] {
            let may = try_kubectl(&["auth", "can-i", "get", secret, "-n", namespace, &user]);
            assert!(may.is_err(), "{account} may get {secret}");
        }
    }
}
