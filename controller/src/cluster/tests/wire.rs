use super::whole::{Controller, shop};
use super::*;
use crate::containers::TOKEN_AUDIENCE;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use selvage_config::resource::Secret;
use selvage_config::wire::Rejected;
use selvage_config::wire::client::{Client, NotApplied, Options, Sink, Text, Transaction};
use selvage_policy::Key;
use std::collections::BTreeMap;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A proxy that takes what it is given.
#[derive(Clone, Default)]
struct Taker(Arc<Mutex<BTreeMap<Key, String>>>);

#[async_trait]
impl Sink for Taker {
    fn have(&self) -> BTreeMap<Key, String> {
        self.0.lock().clone()
    }

    async fn apply(&mut self, transaction: Transaction) -> Result<Vec<Rejected>, NotApplied> {
        let mut have = self.0.lock();
        have.extend(transaction.upserts.iter().map(|one| (one.key.clone(), one.version.clone())));
        transaction.removals.iter().for_each(|key| drop(have.remove(key)));
        Ok(Vec::new())
    }
}

/// A proxy that connects with a token, until dropped.
struct Connected {
    client: Client,
    taken: Taker,
    _end: DropGuard,
}

impl Connected {
    fn new(controller: &Controller, token: &str) -> Self {
        let roots = controller.api.object("/api/v1/configmaps", "shop", "selvage-roots").expect("roots");
        let options = Options {
            address: controller.wire.to_string(),
            server_name: "controller.selvage-system.sa.cluster.local".into(),
            roots: Text::Inline(Secret::new(roots["data"]["roots.pem"].as_str().expect("PEM").into())),
            token: Text::Inline(Secret::new(token.into())),
            node: "somebody".into(),
            backoff: (Duration::from_millis(50), Duration::from_millis(200)),
        };
        let (end, taken) = (CancellationToken::new(), Taker::default());
        let (client, driver) = Client::new(options, taken.clone());
        tokio::spawn(driver.run(end.clone()));
        Self { client, taken, _end: end.drop_guard() }
    }

    fn has(&self, key: &str) -> bool {
        self.taken.0.lock().keys().any(|one| one.to_string() == key)
    }

    fn error(&self) -> String {
        self.client.connection().borrow().error.clone().unwrap_or_default()
    }
}

/// A Pod with a sidecar, at the address that the test itself has.
fn sidecar(name: &str) -> Value {
    let mut pod = pod("shop", name, &format!("uid-{name}"), "orders", "127.0.0.1");
    pod["metadata"]["labels"] = json!({ "app": "orders" });
    pod["spec"]["initContainers"] = json!([{ "name": "selvage-proxy", "restartPolicy": "Always" }]);
    pod
}

fn review(name: Option<&str>) -> Value {
    let extra = name.map_or(
        json!({}),
        |name| json!({ "authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/pod-uid": [format!("uid-{name}")] }),
    );
    json!({ "authenticated": true, "audiences": [TOKEN_AUDIENCE], "user": { "username": "system:serviceaccount:shop:orders", "extra": extra } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_what_its_pod_may_have_and_nobody_else_gets_anything() {
    let api = shop();
    api.put("/api/v1/pods", sidecar("orders-0"));
    // Of the form of one that says when it ends: only such a one is remembered.
    let bound = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(json!({ "exp": 4_000_000_000_u64 }).to_string()));
    api.token(&bound, review(Some("orders-0")));
    api.token("unbound", review(None));
    api.token("late", review(Some("orders-1")));
    let controller = Controller::start(&api).await;
    controller.ready().await;
    until("the roots are there", || api.object("/api/v1/configmaps", "shop", "selvage-roots").is_some()).await;
    let proxy = Connected::new(&controller, &bound);
    until("it has its configuration", || proxy.has("Mesh/default") && proxy.has("Listener/shop/orders-0#in:8080")).await;
    assert!(!proxy.has("Listener/shop/public#http"), "it has the Gateway's");
    // A change reaches it.
    let meta = json!({ "namespace": "shop", "name": "stock" });
    let spec = json!({ "ports": [{ "name": "http", "port": 80 }], "clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"] });
    api.put("/api/v1/services", json!({ "apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec }));
    until("it knows the new Service", || proxy.has("Backend/shop/stock#80")).await;
    let (stranger, unbound, early) =
        (Connected::new(&controller, "stolen"), Connected::new(&controller, "unbound"), Connected::new(&controller, "late"));
    until("the stranger is refused", || stranger.error().contains("not valid")).await;
    until("the unbound token is refused", || unbound.error().contains("not valid")).await;
    until("the early one is told to come back", || early.error().contains("come back")).await;
    api.put("/api/v1/pods", sidecar("orders-1"));
    until("the early one is served when its Pod is known", || early.has("Listener/shop/orders-1#in:8080")).await;
    for refused in [&stranger, &unbound] {
        assert!(refused.taken.0.lock().is_empty());
    }
    // With the API server away: proxies keep what they have, and a connection that breaks comes back.
    api.away(true);
    let again = Connected::new(&controller, &bound);
    until("a proxy that was here before is let in", || again.has("Mesh/default")).await;
    controller.end().await;
}
