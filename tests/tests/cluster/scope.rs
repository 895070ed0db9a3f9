//! What a proxy may read is decided by the token that it proves itself with: one pod, one view.

use selvage_tests::cluster::{Applied, Cluster, SYSTEM, eventually, json, kubectl, pod, pods, try_kubectl};
use serde_json::Value;
use std::io::Write;
use std::process::Command;

/// The arguments of `caller stream`, with this token of the pod's and more.
fn stream<'a>(controller: &'a str, token: [&'a str; 2], more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["stream", "--name", "controller.selvage-system.sa.cluster.local", "--controller", controller];
    [&fixed[..], &token, &["--roots", "/trusted/roots.pem"], more].concat()
}

/// The pod's own token.
const OWN: [&str; 2] = ["--token", "/mine/token"];

/// The wire of every replica: one serves, the others send proxies on.
fn controllers() -> Vec<String> {
    let all = pods(SYSTEM, "app.kubernetes.io/name=selvage");
    assert!(!all.is_empty(), "there is no controller");
    all.iter().map(|pod| pod.at(15410).to_string()).collect()
}

/// What the replica that serves says to `pod`.
fn served(cluster: &Cluster, pod: &str, more: &[&str]) -> Value {
    eventually("one replica serves it", || {
        let mut given = None;
        for controller in controllers() {
            let said = cluster.caller(pod, &stream(&controller, OWN, more));
            match said["error"].as_str() {
                None => given = Some(said),
                Some(error) => assert!(!error.contains("refused"), "{said}"),
            }
        }
        given
    })
}

fn keys(said: &Value) -> Vec<String> {
    let list = said["given"].as_array().unwrap_or_else(|| panic!("{said}"));
    list.iter().map(|key| key.as_str().expect("a key").to_string()).collect()
}

#[test]
#[ignore = "needs the test cluster: make e2e"]
fn a_pods_token_opens_that_pods_view_and_no_other() {
    let cluster = Cluster::ready();
    // Also what it asks for by name: a route of the Gateway, and a certificate of somebody else.
    let (route, storefront, own) = ("Route/bookshop/HTTPRoute.shop", super::identity("storefront"), super::identity("guest"));
    let more = ["--want", route, "--want", "Listener/bookshop/public#http", "--sign", &storefront, "--sign", &own];
    let said = served(cluster, "bookshop/guest", &more);
    for wanted in said["wanted"].as_object().expect("answers").values() {
        assert_eq!(wanted, "NotFound", "{said}");
    }
    assert_eq!((&said["signed"][&storefront], &said["signed"][&own]), (&"Refused".into(), &"granted".into()), "{said}");
    let given = keys(&said);
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
    let audience = "--audience=selvage.dev/controller";
    let bound_to = |name: &str| {
        let pod = pod("bookshop", name);
        let uid = pod.object["metadata"]["uid"].as_str().expect("a uid").to_string();
        let account = pod.object["spec"]["serviceAccountName"].as_str().expect("an account").to_string();
        let bound = ["--bound-object-kind=Pod", "--bound-object-name", name, "--bound-object-uid", &uid];
        kubectl(&[&["create", "token", "-n", "bookshop", &account, audience], &bound[..]].concat()).trim().to_string()
    };
    let unbound = kubectl(&["create", "token", "-n", "bookshop", "guest", audience]).trim().to_string();
    let (stolen, own) = (bound_to("bell"), bound_to("guest"));
    for controller in controllers() {
        for (what, token) in [
            ("a token for the API server", ["--token", "/mine/for-the-api"]),
            ("no token at all", ["--token-text", "nonsense"]),
            ("a token that is bound to no pod", ["--token-text", &unbound]),
            ("a token of another pod", ["--token-text", &stolen]),
        ] {
            let said = cluster.caller("bookshop/guest", &stream(&controller, token, &[]));
            assert!(said["error"].as_str().is_some_and(|error| error.contains("refused")), "{what}: {said}");
        }
        // A good one, shown by somebody who is no pod: here, the node.
        let said = from_the_node(&controller, &own);
        assert!(said["error"].as_str().is_some_and(|error| error.contains("sent us away")), "{said}");
    }
}

/// What a controller says to this token, shown by this process.
fn from_the_node(controller: &str, token: &str) -> Value {
    let roots = json("configmap", SYSTEM, "selvage-roots")["data"]["roots.pem"].as_str().expect("the roots").to_string();
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(roots.as_bytes()).expect("it is written");
    let (path, name) = (file.path().to_str().expect("the path is UTF-8"), "controller.selvage-system.sa.cluster.local");
    let arguments = ["stream", "--name", name, "--controller", controller, "--token-text", token, "--roots", path];
    let output = Command::new(env!("CARGO_BIN_EXE_caller")).args(arguments).output().expect("caller runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
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
    for controller in controllers() {
        let said = cluster.caller("outside/curious", &stream(&controller, OWN, &[]));
        let error = said["error"].as_str().unwrap_or_else(|| panic!("it is let in: {said}"));
        assert!(error.contains("refused") || error.contains("sent us away"), "{said}");
    }

    // Neither an application's account nor a proxy's may read the CA or anybody's keys from the API server.
    for account in ["bookshop:guest", "bookshop:public-selvage", "bookshop:storefront"] {
        let user = format!("--as=system:serviceaccount:{account}");
        for (secret, namespace) in [("secret/selvage-ca", SYSTEM), ("secret/public-tls", "bookshop")] {
            let may = try_kubectl(&["auth", "can-i", "get", secret, "-n", namespace, &user]);
            assert!(may.is_err(), "{account} may get {secret}");
        }
    }
}
