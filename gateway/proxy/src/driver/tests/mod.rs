//! Real requests over loopback: client -> our accept loops and driver -> a backend that records what it gets and forgives nothing.

mod backend;
mod changes;
mod client;
mod early;
mod framing;
mod grpc;
mod headers;
mod limits;
mod logs;
mod mesh;
mod pace;
mod retries;
mod routes;
mod siblings;
mod smuggled;

use super::{Options, Shared};
use crate::observe::{AccessLog, Metrics};
use crate::proxy::{Parts, Proxy, ProxyOptions};
use crate::snapshot::{Rejection, Snapshot};
use crate::state::Live;
use crate::tls::MeshTransport;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use selvage_config::Resource;
use selvage_policy::Key;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(super) use backend::{Backend, Reply, ok};
pub(super) use client::{Answer, Client, ask, get};

/// Longer than anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Log lines.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<Vec<u8>>>);

impl Write for Shelf {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running proxy.
pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    shelf: Shelf,
    live: Arc<Live>,
    changes: watch::Sender<u64>,
    proxy: Proxy,
}

impl World {
    /// Runs a proxy with these Resources (`{"key": …, "spec": …}`) until dropped; all of them must compile.
    pub(super) async fn start(resources: Vec<Value>) -> Self {
        Self::with(resources, Options::default()).await
    }

    /// The same with other limits.
    pub(super) async fn with(resources: Vec<Value>, options: Options) -> Self {
        Self::run(resources, options, &ProxyOptions::default()).await
    }

    /// The same with other limits of connections too.
    pub(super) async fn run(resources: Vec<Value>, options: Options, proxy: &ProxyOptions) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let live = Arc::new(Live::default());
        let shelf = Shelf::default();
        let (snapshot, rejected) = compile(&Snapshot::empty(), resources, &live);
        assert_eq!(rejected, []);
        let wanted: Vec<_> = snapshot.sockets.keys().copied().collect();
        let shared = Arc::new(Shared {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
            transport: Arc::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
            access: AccessLog::to(shelf.clone()).unwrap(),
            options,
        });
        let (changes, changed) = watch::channel(1);
        let parts = Parts {
            snapshot: shared.snapshot.clone(),
            changes: changed,
            transport: Arc::<MeshTransport>::clone(&shared.transport),
            metrics: shared.metrics.clone(),
            observer: shared.clone(),
        };
        let proxy = Proxy::start_with(proxy, parts, |_| super::new(shared.clone())).unwrap();
        let mut status = proxy.status();
        let open = status.wait_for(|status| wanted.iter().all(|bind| status.bound.contains_key(bind)));
        tokio::time::timeout(PATIENCE, open).await.expect("sockets open").unwrap();
        Self { shared, shelf, live, changes, proxy }
    }

    /// Puts other Resources in force, all of which must compile, and waits for the proxy to have followed.
    pub(super) async fn change(&self, resources: Vec<Value>) {
        assert_eq!(self.attempt(resources).await, []);
    }

    /// The same with what cannot be used rejected.
    pub(super) async fn attempt(&self, resources: Vec<Value>) -> Vec<Rejection> {
        let (snapshot, rejected) = compile(&self.shared.snapshot.load(), resources, &self.live);
        let generation = snapshot.generation;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.changes.send_replace(generation);
        let mut status = self.proxy.status();
        let followed = status.wait_for(|status| status.generation == generation);
        tokio::time::timeout(PATIENCE, followed).await.expect("in time").unwrap();
        rejected
    }

    /// The log lines, once there are `count` of them.
    pub(super) async fn lines(&self, count: usize) -> Vec<Value> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let text = String::from_utf8(self.shelf.0.lock().clone()).unwrap();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= count || tokio::time::Instant::now() > end {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A metric's value, by the beginning of its line.
    pub(super) fn metric(&self, line: &str) -> f64 {
        let text = String::from_utf8(self.shared.metrics.render().unwrap()).unwrap();
        text.lines().find(|found| found.starts_with(line)).and_then(|found| found.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

fn compile(previous: &Snapshot, resources: Vec<Value>, live: &Live) -> (Snapshot, Vec<Rejection>) {
    let resources: BTreeMap<Key, Arc<Resource>> = resources
        .into_iter()
        .map(|mut resource| {
            let kind = resource["key"].as_str().unwrap().split('/').next().unwrap().to_string();
            let class = if kind.ends_with("Policy") { if kind == "TrafficPolicy" { "traffic" } else { "guard" } } else { "core" };
            resource["class"] = json!(class);
            resource["version"] = json!(resource.to_string());
            let resource: Resource = serde_json::from_value(resource).unwrap();
            (resource.key.clone(), Arc::new(resource))
        })
        .collect();
    Snapshot::compile(previous, &resources, live)
}

/// A loopback address that nobody else has, with a port that nobody listens on; a port of 127.0.0.1 could be somebody else's before it is used.
pub(super) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let address = Ipv4Addr::new(127, 100 + (std::process::id() % 24) as u8, high, low);
    std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

/// The listener `Listener/shop/public#http` for everybody, with fields replaced by those of `with`.
pub(super) fn listener(address: SocketAddr, with: Value) -> Value {
    let mut spec = json!({
        "bind": { "bound": address }, "port": 80, "protocol": "Http", "clients": "Outside", "forward": "routes",
        "chain": [{ "kind": "Gateway", "namespace": "shop", "name": "public" }],
    });
    merge(&mut spec, with);
    json!({ "key": "Listener/shop/public#http", "spec": spec })
}

/// The platform's settings without roots.
pub(super) fn mesh_settings() -> Value {
    json!({ "key": "Mesh/default", "spec": { "trustDomain": "td", "roots": [] } })
}

/// A route on that listener with one rule.
pub(super) fn route(name: &str, rule: Value) -> Value {
    json!({
        "key": format!("Route/shop/HTTPRoute.{name}"),
        "spec": {
            "object": { "kind": "HTTPRoute", "namespace": "shop", "name": name },
            "parents": ["Listener/shop/public#http"], "rules": [rule],
        },
    })
}

/// The Service port `Backend/shop/<name>#80`, and its endpoints.
pub(super) fn service(name: &str, protocol: &str, addresses: &[SocketAddr]) -> Vec<Value> {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({ "address": address })).collect();
    service_of(name, protocol, json!(endpoints))
}

/// The same with endpoints as they are given.
pub(super) fn service_of(name: &str, protocol: &str, endpoints: Value) -> Vec<Value> {
    let backend = format!("Backend/shop/{name}#80");
    let chain = json!([{ "kind": "Service", "namespace": "shop", "name": name }]);
    vec![
        json!({ "key": backend, "spec": { "port": 80, "protocol": protocol, "chain": chain } }),
        json!({ "key": format!("Endpoints/shop/{name}-1#80"), "spec": { "backend": backend, "endpoints": endpoints } }),
    ]
}

/// A rule that sends everything to Service `name`.
pub(super) fn to(name: &str, with: Value) -> Value {
    let mut rule = json!({ "backends": [{ "backend": format!("Backend/shop/{name}#80"), "weight": 1 }] });
    merge(&mut rule, with);
    rule
}

/// A proxy in front of `backend`, one route with this rule; also where it listens.
pub(super) async fn simple(backend: &Backend, rule: Value) -> (World, SocketAddr) {
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", rule))];
    resources.extend(service("app", "Http", &[backend.address]));
    (World::start(resources).await, address)
}

/// A policy attached to `target`.
pub(super) fn policy(kind: &str, name: &str, target: Value, mut spec: Value) -> Value {
    let mut reference = json!({ "kind": target["kind"], "name": target["name"] });
    if reference["kind"] == "Workload" {
        reference["kind"] = json!("Pod");
    }
    spec["targetRefs"] = json!([reference]);
    json!({ "key": format!("{kind}/shop/{name}"), "attachments": [target], "spec": spec })
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}
