use super::*;
use crate::ca::{Authority, Kept};
use crate::publish::ServerCertificate;
use crate::serve::{PATIENCE, serve};
use crate::world::{Unknown, parse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use selvage_policy::TrustDomain;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

fn settings() -> Settings {
    let text =
        json!({ "image": "selvage:1", "controller": "controller:15410", "trustDomain": "cluster.local", "sidecars": {}, "gateways": {} });
    Settings::parse(&text.to_string()).expect("settings")
}

fn world(objects: &[Value]) -> World {
    let mut world = World::default();
    for object in objects {
        let (_, parsed) = parse(object.clone(), Unknown::Refuse).expect("an object of the test");
        world.insert(parsed);
    }
    world
}

fn mesh(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "selvage.dev/v1alpha1", "kind": "MeshConfig", "metadata": { "name": name }, "spec": spec })
}

fn policy(rule: Value) -> Value {
    json!({
        "apiVersion": "selvage.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": { "name": "callers", "namespace": "shop" },
        "spec": { "targetRefs": [{ "kind": "Service", "name": "orders" }], "rules": [rule] },
    })
}

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    let kind = if object.is_null() { old } else { object };
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": { "group": "selvage.dev", "version": "v1alpha1", "kind": kind["kind"] }, "namespace": "shop",
        "operation": operation, "object": object, "oldObject": old,
    } })
}

fn judged(world: &World, operation: &str, object: &Value, old: &Value) -> Answer {
    let request = review::parse(review(operation, object, old).to_string().as_bytes()).expect("a review");
    validate::validate(&request, world, &settings())
}

fn pod_review(pod: &Value) -> Request {
    let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-1", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": "shop", "operation": "CREATE", "object": pod,
    } });
    review::parse(review.to_string().as_bytes()).expect("a review")
}

fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "containers": [{ "name": "app" }] } })
}

#[test]
fn policies_are_refused_as_files_are_by_object_and_field() {
    let mut lorry = policy(json!({ "name": "a", "action": "Allow" }));
    lorry["spec"]["targetRefs"][0]["kind"] = json!("Lorry");
    let cases = [
        (policy(json!({ "name": "a", "action": "Allow", "when": "nonsense(" })), "spec.rules[0].when"),
        (policy(json!({ "name": "a", "action": "Perhaps" })), "spec.rules[0].action"),
        (policy(json!({ "name": "a", "action": "Allow", "form": [] })), "spec.rules[0].form"),
        (lorry, "spec.targetRefs[0].kind"),
        (mesh("default", json!({ "posture": "Sometimes" })), "spec.posture"),
        (mesh("default", json!({ "trustDomainAliases": ["cluster.local"] })), "spec.trustDomainAliases[0]"),
    ];
    for (object, field) in cases {
        for (operation, old) in [("CREATE", Value::Null), ("UPDATE", json!({ "spec": {} }))] {
            let answer = judged(&World::default(), operation, &object, &old);
            assert!(answer.faults.iter().any(|fault| fault.field == field), "{object}: {answer:?}");
            let review = answer.review("u-1");
            assert_eq!(review["response"]["allowed"], false);
            let message = review["response"]["status"]["message"].as_str().expect("a message");
            assert!(message.contains(object["metadata"]["name"].as_str().expect("a name")) && message.contains(field), "{message}");
        }
    }
}

#[test]
fn what_may_come_later_is_a_warning() {
    let object = policy(json!({ "name": "a", "action": "Allow", "from": [{ "gateway": "public" }] }));
    let answer = judged(&World::default(), "CREATE", &object, &Value::Null);
    assert!(answer.faults.is_empty() && answer.warnings.len() == 1, "{answer:?}");
    assert!(answer.warnings[0].contains("gateway:shop/public"), "{answer:?}");
    let review = answer.review("u-1");
    assert_eq!((&review["response"]["allowed"], &review["response"]["uid"]), (&json!(true), &json!("u-1")));
    // And what is wrong for good is found behind it.
    let both = policy(json!({ "name": "a", "action": "Allow", "from": [{ "gateway": "public" }], "when": "nonsense(" }));
    assert_eq!(judged(&World::default(), "CREATE", &both, &Value::Null).faults.len(), 1);
    // With the Gateway there is nothing to say.
    let known = world(&[
        json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": "selvage" }, "spec": { "controllerName": "selvage.dev/controller" } }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": { "name": "public", "namespace": "shop" },
            "spec": { "gatewayClassName": "selvage", "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }] },
        }),
    ]);
    assert_eq!(judged(&known, "CREATE", &object, &Value::Null), Answer::allowed());
}

#[test]
fn the_trust_domain_stays_what_it_is() {
    let (ours, theirs) =
        (mesh("default", json!({ "trustDomain": "shop.example" })), mesh("default", json!({ "trustDomain": "other.example" })));
    let default = mesh("default", json!({}));
    let in_force = world(std::slice::from_ref(&ours));
    let refused = |world: &World, operation: &str, object: &Value, old: &Value| {
        let faults = judged(world, operation, object, old).faults;
        faults.iter().any(|fault| fault.field == "spec.trustDomain" && fault.object == "MeshConfig/default")
    };
    assert!(refused(&in_force, "UPDATE", &theirs, &ours));
    assert!(refused(&in_force, "UPDATE", &default, &ours), "leaving it out changes it, too");
    assert!(!refused(&in_force, "UPDATE", &mesh("default", json!({ "trustDomain": "shop.example", "posture": "Deny" })), &ours));
    // Made anew: as the settings say.
    assert!(refused(&World::default(), "CREATE", &theirs, &Value::Null));
    assert!(!refused(&World::default(), "CREATE", &default, &Value::Null));
    // Another name does not hold, and may be anything; but not change.
    let (other, changed) = (mesh("trial", json!({ "trustDomain": "a.example" })), mesh("trial", json!({ "trustDomain": "b.example" })));
    assert!(judged(&in_force, "CREATE", &other, &Value::Null).faults.is_empty());
    assert!(!judged(&in_force, "UPDATE", &changed, &other).faults.is_empty());
}

#[test]
fn the_mesh_config_that_holds_cannot_be_deleted() {
    let strict = |name: &str| mesh(name, json!({ "mtls": "Strict", "posture": "Deny" }));
    let answer = judged(&World::default(), "DELETE", &Value::Null, &strict("default"));
    assert_eq!(answer.faults.len(), 1, "{answer:?}");
    let review = answer.review("u-1");
    let message = review["response"]["status"]["message"].as_str().expect("a message");
    assert!(message.contains("MeshConfig/default") && message.contains("edit it instead"), "{message}");
    assert_eq!(judged(&World::default(), "DELETE", &Value::Null, &strict("trial")), Answer::allowed());
}

#[test]
fn what_is_not_edited_or_goes_away_passes() {
    let bad = policy(json!({ "name": "a", "action": "Allow", "when": "nonsense(" }));
    assert!(!judged(&World::default(), "CREATE", &bad, &Value::Null).faults.is_empty());
    assert_eq!(judged(&World::default(), "DELETE", &Value::Null, &bad), Answer::allowed());
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert_eq!(judged(&World::default(), "UPDATE", &labelled, &bad), Answer::allowed());
    let mut ending = bad.clone();
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(judged(&World::default(), "UPDATE", &ending, &Value::Null), Answer::allowed());
}

#[test]
fn whose_label_it_was_is_known_from_the_path() {
    let injected = |asked, world: &World, pod: &Value| inject(&pod_review(pod), asked, world, &settings());
    let namespace = |word: &str| {
        world(&[json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop", "labels": { INJECT: word } } })])
    };
    // A Namespace that we have not heard of yet, or of whose label we have not.
    assert!(!injected(Asked::Namespace, &World::default(), &pod()).patch.is_empty());
    assert!(!injected(Asked::Namespace, &namespace("disabled"), &pod()).patch.is_empty());
    assert!(!injected(Asked::Namespace, &namespace("on"), &pod()).faults.is_empty());
    assert_eq!(injected(Asked::Pod, &World::default(), &pod()), Answer::allowed());
    let mut asks = pod();
    asks["metadata"]["labels"] = json!({ INJECT: "enabled" });
    assert!(!injected(Asked::Pod, &namespace("disabled"), &asks).patch.is_empty());
    let mut on_host = asks.clone();
    on_host["spec"]["hostNetwork"] = json!(true);
    assert!(injected(Asked::Pod, &World::default(), &on_host).warnings[0].contains("hostNetwork"));
}

#[test]
fn a_patch_goes_back_in_base64_and_names_the_trust_domain_in_force() {
    let world = world(&[mesh("default", json!({ "trustDomain": "shop.example" }))]);
    let review = inject(&pod_review(&pod()), Asked::Namespace, &world, &settings()).review("u-1");
    assert_eq!((&review["response"]["allowed"], &review["response"]["patchType"]), (&json!(true), &json!("JSONPatch")));
    let patch = STANDARD.decode(review["response"]["patch"].as_str().expect("a patch")).expect("base64");
    let patch: Value = serde_json::from_slice(&patch).expect("JSON");
    assert!(patch.to_string().contains("controller.selvage-system.sa.shop.example"), "{patch}");
}

#[test]
fn bundles_name_every_webhook_and_nothing_else() {
    let [mutating, validating] = ca_bundles(&["A\n".into(), "B\n".into()]);
    let bundle = STANDARD.encode("A\nB\n");
    assert_eq!(
        mutating["webhooks"],
        json!([
            { "name": "namespace.inject.selvage.dev", "clientConfig": { "caBundle": bundle } },
            { "name": "pod.inject.selvage.dev", "clientConfig": { "caBundle": bundle } },
        ])
    );
    assert_eq!(validating["webhooks"], json!([{ "name": "validate.selvage.dev", "clientConfig": { "caBundle": bundle } }]));
    assert_eq!((&mutating["metadata"]["name"], &validating["metadata"]["name"]), (&json!(MUTATING), &json!(VALIDATING)));
}

struct Fixed(Arc<World>);

impl Knowledge for Fixed {
    fn world(&self) -> Arc<World> {
        self.0.clone()
    }
}

/// Webhooks on loopback, with a client of theirs.
struct Running {
    address: std::net::SocketAddr,
    client: tokio_rustls::TlsConnector,
    end: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    authority: Arc<Authority>,
}

fn domain() -> TrustDomain {
    TrustDomain::try_from("cluster.local".to_string()).expect("a trust domain")
}

async fn running() -> Running {
    let authority = Arc::new(Authority::new(Kept::create(&domain(), SystemTime::now()).expect("a CA")).expect("an authority"));
    let certificate = ServerCertificate::webhooks(&authority, SERVER_NAME).expect("a certificate");
    let mut roots = RootCertStore::empty();
    for root in authority.roots() {
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).expect("PEM")).expect("a root");
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let client = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, end) = (listener.local_addr().expect("an address"), CancellationToken::new());
    let router = router(Arc::new(Fixed(Arc::new(World::default()))), settings());
    tokio::spawn(certificate.clone().keep(authority.clone(), end.clone()));
    let task = tokio::spawn(serve(listener, Some(certificate.tls()), router, PATIENCE, end.clone()));
    Running { address, client: Arc::new(client).into(), end, task, authority }
}

impl Running {
    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.address).await.expect("a connection");
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        self.client.connect(name, socket).await.expect("the certificate holds for the Service's name")
    }

    async fn leaf(&self) -> Vec<u8> {
        let stream = self.connect().await;
        stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
    }

    /// Sends a body over HTTP/1.1; the answer's head and body.
    async fn post(&self, path: &str, body: &[u8]) -> (String, String) {
        let mut stream = self.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: {SERVER_NAME}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("sent");
        // A body that is too large is answered before it is read.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("an answer in time");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        (head.lines().next().unwrap_or_default().to_string(), body.to_string())
    }
}

#[tokio::test]
async fn reviews_are_answered_over_tls_under_the_services_name() {
    let running = running().await;
    let bad = review("CREATE", &policy(json!({ "name": "a", "action": "Allow", "when": "nonsense(" })), &Value::Null);
    let (status, body) = running.post("/validate", bad.to_string().as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&answer["kind"], &answer["response"]["uid"], &answer["response"]["allowed"]),
        (&json!("AdmissionReview"), &json!("u-1"), &json!(false))
    );
    let pod = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u-2", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "namespace": "shop", "operation": "CREATE", "object": pod(),
    } });
    let (_, body) = running.post("/inject/namespace", pod.to_string().as_bytes()).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert!(answer["response"]["patch"].is_string(), "{body}");
    running.end.cancel();
    tokio::time::timeout(Duration::from_secs(15), running.task).await.expect("it ends").expect("in order");
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_is_served() {
    let running = running().await;
    let deep = "[".repeat(100_000);
    let no_request = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }).to_string();
    let old = json!({ "apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": null }).to_string();
    for body in ["", "{", "null", "\u{0}\u{1}", deep.as_str(), no_request.as_str(), old.as_str()] {
        for path in ["/inject/namespace", "/inject/pod", "/validate"] {
            let (status, _) = running.post(path, body.as_bytes()).await;
            assert_eq!(status, "HTTP/1.1 400 Bad Request", "{path}: {:.40}", body);
        }
    }
    let (status, _) = running.post("/validate", &vec![b' '; MOST_BYTES + 1]).await;
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large");
    assert_eq!(running.post("/nowhere", b"{}").await.0, "HTTP/1.1 404 Not Found");
    for object in [
        json!(null),
        json!([]),
        json!("x"),
        json!({ "kind": 7 }),
        json!({ "apiVersion": "selvage.dev/v1alpha1", "kind": "Unknown", "metadata": { "name": "a" } }),
    ] {
        let (status, body) = running.post("/validate", review("CREATE", &object, &json!({ "kind": "x" })).to_string().as_bytes()).await;
        assert!(status.contains("200") && body.contains("\"allowed\":false") || status.contains("400"), "{object}: {status} {body}");
    }
    let whole = review("DELETE", &Value::Null, &policy(json!({}))).to_string();
    assert_eq!(running.post("/validate", whole.as_bytes()).await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn when_the_authority_is_replaced_the_next_connection_has_a_certificate_of_the_new_one() {
    let running = running().await;
    let first = running.leaf().await;
    assert_eq!(first, running.leaf().await);
    let mut renewed = running.authority.kept();
    renewed.renew_issuer = 0;
    assert!(renewed.renew(&domain(), SystemTime::now()).expect("an issuer"));
    running.authority.replace(renewed).expect("it can be used");
    let begun = std::time::Instant::now();
    while running.leaf().await == first {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is served with a certificate of the old one");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
