use super::super::kinds;
use super::super::known::{Effect, Known, NotYet};
use super::super::watch::{Change, Event};
use super::*;
use crate::run::{Listeners, Options, run};
use crate::webhook::SERVER_NAME;
use crate::world::Name;
use clap::Parser;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const GATEWAY_API: &str = "/apis/gateway.networking.k8s.io/v1";
const SETTINGS: &str = r#"{
    "image": "selvage:test", "controller": "selvage-controller.selvage-system.svc:15410", "trustDomain": "cluster.local",
    "sidecars": {}, "gateways": {}
}"#;
const MESH_CONFIGS: &str = "/apis/selvage.dev/v1alpha1/meshconfigs";

/// A controller that runs against an API server in this process.
pub struct Controller {
    pub api: Api,
    pub wire: SocketAddr,
    health: SocketAddr,
    webhooks: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

impl Controller {
    pub async fn start(api: &Api) -> Self {
        Self::start_with(api, &[]).await
    }

    async fn start_with(api: &Api, more: &[&str]) -> Self {
        let settings = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(settings.path(), SETTINGS).expect("written");
        let ports = ["wire", "health", "metrics", "webhooks"].map(|port| format!("--{port}=127.0.0.1:0"));
        let path = format!("--settings={}", settings.path().display());
        let fixed = ["controller", &path, "--identity=test"].into_iter().chain(ports.iter().map(String::as_str));
        let options = Line::parse_from(fixed.chain(if more.is_empty() { &["--lame-duck=0"] } else { more }.iter().copied())).options;
        let listeners = Listeners::bind(&options).await.expect("free ports");
        let at = |listener: &tokio::net::TcpListener| listener.local_addr().expect("an address");
        let (wire, health, webhooks) = (at(&listeners.wire), at(&listeners.health), at(&listeners.webhooks));
        let (client, stop) = (api.client(), CancellationToken::new());
        let told = stop.clone();
        let running = tokio::spawn(async move {
            let _settings = settings;
            run(&options, listeners, client, told).await
        });
        Self { api: api.clone(), wire, health, webhooks, stop, running }
    }

    async fn answer(&self, path: &str) -> (u16, String) {
        let ask = async {
            let mut socket = tokio::net::TcpStream::connect(self.health).await?;
            socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let text = ask.await.unwrap_or_default();
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
        (code, text.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
    }

    pub async fn ready(&self) {
        for _ in 0..1000 {
            if self.answer("/readyz").await.0 == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never ready: {:?}", self.answer("/readyz").await);
    }

    async fn condition(&self, plural: &str, name: &str, pointer: &str, expected: &str) {
        let collection = format!("{GATEWAY_API}/{plural}");
        let namespace = if plural == "gatewayclasses" { "" } else { "shop" };
        let present = || self.api.object(&collection, namespace, name).and_then(|object| object.pointer(pointer).cloned());
        until(&format!("{plural} {name} {pointer} is {expected}"), || present() == Some(json!(expected))).await;
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.running.await.expect("it did not panic").expect("it ended in order");
    }
}

fn gateway_api(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    if kind != "GatewayClass" {
        object["metadata"]["namespace"] = json!("shop");
    }
    object
}

fn route(name: &str, spec: Value) -> Value {
    gateway_api("HTTPRoute", name, spec)
}

/// A small shop, as others have made it.
pub fn shop() -> Api {
    let api = Api::new();
    for name in ["shop", "selvage-system"] {
        api.put("/api/v1/namespaces", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    }
    let put = |plural: &str, object: Value| api.put(&format!("{GATEWAY_API}/{plural}"), object);
    put("gatewayclasses", gateway_api("GatewayClass", "selvage", json!({ "controllerName": "selvage.dev/controller" })));
    let listener = json!({ "name": "http", "port": 80, "protocol": "HTTP" });
    put("gateways", gateway_api("Gateway", "public", json!({ "gatewayClassName": "selvage", "listeners": [listener] })));
    let rule = json!({ "backendRefs": [{ "name": "orders", "port": 80 }] });
    put("httproutes", route("orders", json!({ "parentRefs": [{ "name": "public" }], "rules": [rule] })));
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080 }]);
    let service = json!({ "selector": { "app": "orders" }, "ports": ports, "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"] });
    let meta = json!({ "namespace": "shop", "name": "orders" });
    api.put("/api/v1/services", json!({ "apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service }));
    api
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_empty_cluster_to_served_proxies_and_true_statuses() {
    let api = shop();
    let controller = Controller::start(&api).await;
    controller.ready().await;
    let mesh = api.object(MESH_CONFIGS, "", "default").expect("the MeshConfig was made");
    assert_eq!(mesh["spec"]["trustDomain"], "cluster.local");
    assert!(api.object("/api/v1/secrets", "selvage-system", "selvage-ca").is_some());
    for namespace in ["shop", "selvage-system"] {
        let roots = || api.object("/api/v1/configmaps", namespace, "selvage-roots");
        until("the roots are there", || roots().is_some()).await;
        assert!(roots().expect("roots")["data"]["roots.pem"].as_str().expect("PEM").starts_with("-----BEGIN CERTIFICATE-----"));
    }
    controller.condition("gateways", "public", "/status/listeners/0/name", "http").await;
    controller.condition("httproutes", "orders", "/status/parents/0/controllerName", "selvage.dev/controller").await;
    // What runs for the Gateway, and its address once there is one.
    for (collection, kind) in
        [("/apis/apps/v1/deployments", "Deployment"), ("/api/v1/services", "Service"), ("/api/v1/serviceaccounts", "ServiceAccount")]
    {
        until(kind, || api.object(collection, "shop", "public-selvage").is_some()).await;
    }
    let mut service = api.object("/api/v1/services", "shop", "public-selvage").expect("a Service");
    assert_eq!(service["metadata"]["ownerReferences"][0]["name"], "public");
    service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } });
    api.put("/api/v1/services", service);
    controller.condition("gateways", "public", "/status/addresses/0/value", "192.0.2.7").await;
    api.delete("/api/v1/services", "shop", "public-selvage");
    until("the Service is put back", || api.object("/api/v1/services", "shop", "public-selvage").is_some()).await;
    let webhooks = "PATCH /apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/selvage-injection";
    until("the API server is told whom to believe", || api.asked(webhooks) > 0).await;
    // A namespace that comes later, and roots that somebody removes.
    api.put("/api/v1/namespaces", json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "late" } }));
    let late = || api.object("/api/v1/configmaps", "late", "selvage-roots").is_some();
    until("a new namespace has the roots", late).await;
    api.delete("/api/v1/configmaps", "late", "selvage-roots");
    until("they are put back", late).await;
    controller.end().await;
    let lease = api.object("/apis/coordination.k8s.io/v1/leases", "selvage-system", "selvage-controller").expect("a Lease");
    assert_eq!(lease["spec"]["holderIdentity"], "", "the lease was not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_config_that_is_removed_comes_back_as_it_was() {
    let api = shop();
    let spec = json!({ "trustDomain": "shop.example", "mtls": "Strict", "posture": "Deny" });
    let strict = json!({ "apiVersion": "selvage.dev/v1alpha1", "kind": "MeshConfig", "metadata": { "name": "default" }, "spec": spec });
    api.put(MESH_CONFIGS, strict);
    let controller = Controller::start(&api).await;
    controller.ready().await;
    api.delete(MESH_CONFIGS, "", "default");
    until("it is made again", || api.object(MESH_CONFIGS, "", "default").is_some()).await;
    let again = api.object(MESH_CONFIGS, "", "default").expect("a MeshConfig");
    for (field, value) in spec.as_object().expect("fields") {
        assert_eq!(again["spec"][field], *value, "{field}");
    }
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_mesh_config_the_trust_domain_is_that_of_the_authority() {
    let api = shop();
    let spec = json!({ "trustDomain": "shop.example" });
    let other = json!({ "apiVersion": "selvage.dev/v1alpha1", "kind": "MeshConfig", "metadata": { "name": "default" }, "spec": spec });
    api.put(MESH_CONFIGS, other);
    let first = Controller::start(&api).await;
    first.ready().await;
    first.end().await;
    api.delete(MESH_CONFIGS, "", "default");
    let second = Controller::start(&api).await;
    second.ready().await;
    assert_eq!(api.object(MESH_CONFIGS, "", "default").expect("a MeshConfig")["spec"]["trustDomain"], "shop.example");
    second.end().await;
}

/// Where the objects of a Gateway are.
const PROVISIONED: [&str; 4] =
    ["/api/v1/serviceaccounts", "/api/v1/services", "/apis/apps/v1/deployments", "/apis/policy/v1/poddisruptionbudgets"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_changes_its_class_leaves_nothing_behind() {
    let api = shop();
    let class = json!({ "controllerName": "selvage.dev/controller" });
    api.put(&format!("{GATEWAY_API}/gatewayclasses"), gateway_api("GatewayClass", "internal", class));
    let theirs = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "namespace": "shop", "name": "public-other" } });
    api.put("/api/v1/serviceaccounts", theirs);
    let controller = Controller::start(&api).await;
    controller.ready().await;
    let all = |name: &str| PROVISIONED.iter().filter(|collection| api.object(collection, "shop", name).is_some()).count();
    until("its objects are there", || all("public-selvage") == 4).await;
    let mut gateway = api.object(&format!("{GATEWAY_API}/gateways"), "shop", "public").expect("the Gateway");
    gateway["spec"]["gatewayClassName"] = json!("internal");
    api.put(&format!("{GATEWAY_API}/gateways"), gateway);
    until("those of the new class are there", || all("public-internal") == 4).await;
    until("those of the old class are gone", || all("public-selvage") == 0).await;
    assert_eq!(all("public-other"), 1);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_made_anew_has_its_proxies_as_soon_as_the_old_ones_are_gone() {
    let api = shop();
    let old = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "namespace": "shop", "name": "public-selvage",
            "ownerReferences": [{ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "public", "uid": "old" }],
        },
    });
    api.put(PROVISIONED[2], old);
    let controller = Controller::start(&api).await;
    controller.ready().await;
    until("the rest is there", || api.object(PROVISIONED[3], "shop", "public-selvage").is_some()).await;
    api.delete(PROVISIONED[2], "shop", "public-selvage");
    until("the Deployment is there", || api.object(PROVISIONED[2], "shop", "public-selvage").is_some()).await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_scales_stays_scaled() {
    let api = shop();
    let controller = Controller::start(&api).await;
    controller.ready().await;
    let deployment = || api.object(PROVISIONED[2], "shop", "public-selvage");
    until("the Deployment is there", || deployment().is_some()).await;
    assert_eq!(deployment().expect("a Deployment")["spec"]["replicas"], 2);
    let mut scaled = deployment().expect("a Deployment");
    scaled["spec"]["replicas"] = json!(5);
    api.put(PROVISIONED[2], scaled);
    // Applied again with something else that changes it.
    let mut gateway = api.object(&format!("{GATEWAY_API}/gateways"), "shop", "public").expect("the Gateway");
    gateway["spec"]["infrastructure"] = json!({ "labels": { "team": "web" } });
    api.put(&format!("{GATEWAY_API}/gateways"), gateway);
    until("it is applied again", || deployment().is_some_and(|one| one["metadata"]["labels"]["team"] == "web")).await;
    assert_eq!(deployment().expect("a Deployment")["spec"]["replicas"], 5);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_object_is_named_and_takes_nothing_else_down() {
    let api = shop();
    api.put(&format!("{GATEWAY_API}/httproutes"), route("broken", json!({ "parentRefs": [{ "name": "public" }], "rules": "none" })));
    api.put(&format!("{GATEWAY_API}/gateways"), gateway_api("Gateway", "nonsense", json!(17)));
    let controller = Controller::start(&api).await;
    controller.ready().await;
    controller.condition("httproutes", "orders", "/status/parents/0/controllerName", "selvage.dev/controller").await;
    let (_, state) = controller.answer("/state").await;
    let state: Value = serde_json::from_str(&state).expect("JSON");
    let malformed: Vec<&str> = state["malformed"].as_array().expect("a list").iter().filter_map(|one| one["object"].as_str()).collect();
    assert_eq!(malformed, ["Gateway/shop/nonsense", "HTTPRoute/shop/broken"]);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kinds_that_the_cluster_does_not_have_are_waited_for_quietly() {
    let api = shop();
    for plural in ["tcproutes", "tlsroutes", "listenersets"] {
        api.absent(&format!("{GATEWAY_API}/{plural}"), true);
    }
    let controller = Controller::start(&api).await;
    controller.ready().await;
    let (_, state) = controller.answer("/state").await;
    assert_eq!(serde_json::from_str::<Value>(&state).expect("JSON")["watches"]["TCPRoute"], "Absent");
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_server_it_is_not_ready_and_becomes_so_when_it_comes() {
    let api = shop();
    api.away(true);
    let controller = Controller::start(&api).await;
    until("it has asked", || api.asked("GET") > 10).await;
    assert_eq!(controller.answer("/healthz").await.0, 200);
    let (code, why) = controller.answer("/readyz").await;
    assert_eq!(code, 503);
    assert!(why.contains("not listed yet"), "{why}");
    api.away(false);
    controller.ready().await;
    // Once served, it stays ready.
    api.away(true);
    let asked = api.asked("GET") + api.asked("PATCH");
    until("it has noticed", || api.asked("GET") + api.asked("PATCH") > asked).await;
    assert_eq!(controller.answer("/readyz").await.0, 200);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_ends_is_unready_at_once_and_goes_on_serving_until_others_know() {
    let api = shop();
    let controller = Controller::start_with(&api, &["--lame-duck=3600"]).await;
    controller.ready().await;
    controller.stop.cancel();
    assert_eq!(controller.answer("/readyz").await.0, 503);
    assert_eq!(controller.answer("/healthz").await.0, 200);
    for port in [controller.webhooks, controller.wire] {
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let socket = tokio::net::TcpStream::connect(port).await.expect("it listens");
        let refused = untrusting().connect(name, socket).await.expect_err("nothing is trusted here");
        assert!(refused.to_string().contains("UnknownIssuer"), "it serves no TLS any more: {refused}");
    }
    controller.running.abort();
}

/// A client that knows no root: a handshake with a server that serves fails at its certificate.
fn untrusting() -> tokio_rustls::TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = versions.expect("versions").with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config).into()
}

fn event(kind: &str, change: Change) -> Event {
    Event { kind: kinds::of(kind).expect("a kind"), change }
}

fn service(name: &str, version: u64, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name, "resourceVersion": version.to_string() },
        "spec": { "ports": [{ "port": port }] },
    })
}

#[test]
fn a_list_replaces_what_was_known_of_its_kind() {
    let mut known = Known::default();
    let names = |known: &Known| known.world.services.keys().map(|name| name.name.clone()).collect::<Vec<_>>();
    known.take(event("Service", Change::All(vec![service("a", 1, 80), service("b", 2, 80)])));
    known.take(event("Service", Change::Applied(service("c", 3, 80))));
    assert_eq!(names(&known), ["a", "b", "c"]);
    let effect = known.take(event("Service", Change::All(vec![service("b", 2, 80)])));
    assert_eq!((names(&known), effect.world), (vec!["b".to_string()], true));
    known.take(event("Service", Change::Deleted(Name::new("shop", "b"))));
    assert!(names(&known).is_empty());
}

#[test]
fn an_echo_is_no_change() {
    let mut known = Known::default();
    known.take(event("Service", Change::All(vec![service("a", 1, 80)])));
    assert_eq!(known.take(event("Service", Change::Applied(service("a", 2, 80)))), Effect::default());
    assert!(known.take(event("Service", Change::Applied(service("a", 3, 81)))).world);
    let mut with_status = route("r", json!({ "parentRefs": [{ "name": "public" }] }));
    assert!(known.take(event("HTTPRoute", Change::Applied(with_status.clone()))).world);
    with_status["status"] = json!({ "parents": [] });
    assert_eq!(known.take(event("HTTPRoute", Change::Applied(with_status))), Effect { world: false, status: true });
}

#[test]
fn what_becomes_malformed_keeps_its_last_good_form() {
    let mut known = Known::default();
    let good = route("r", json!({ "hostnames": ["a.example"], "parentRefs": [{ "name": "public" }] }));
    known.take(event("HTTPRoute", Change::Applied(good)));
    known.take(event("HTTPRoute", Change::Applied(route("r", json!({ "hostnames": 7 })))));
    let key = selvage_policy::Key::new("HTTPRoute", "shop", "r");
    assert_eq!(known.world.routes[&key].spec.hostnames, ["a.example"]);
    assert!(known.world.malformed.contains_key(&key));
    known.take(event("HTTPRoute", Change::Deleted(Name::new("shop", "r"))));
    assert!(known.world.routes.is_empty() && known.world.malformed.is_empty());
}

#[test]
fn nothing_is_translated_before_everything_was_listed_and_the_mesh_config_is_there() {
    let mut known = Known::default();
    for kind in kinds::WATCHED.iter() {
        assert!(matches!(known.trust_domain(), Err(NotYet::Unlisted(_))));
        known.take(Event { kind, change: Change::All(Vec::new()) });
    }
    assert_eq!(known.trust_domain(), Err(NotYet::NoMeshConfig));
    let mesh = |spec: Value| json!({ "apiVersion": "selvage.dev/v1alpha1", "kind": "MeshConfig", "metadata": { "name": "default" }, "spec": spec });
    known.take(event("MeshConfig", Change::Applied(mesh(json!({ "trustDomain": 7 })))));
    assert!(matches!(known.trust_domain(), Err(NotYet::MalformedMeshConfig(_))));
    known.take(event("MeshConfig", Change::Applied(mesh(json!({ "trustDomain": "example.org" })))));
    assert_eq!(known.trust_domain().expect("known").to_string(), "example.org");
}
