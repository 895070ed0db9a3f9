//! Proxies survive their controller: it is killed and comes back under load and no request fails; a proxy that restarts while it is gone
//! serves what it had.

use http::Method;
use selvage_config::last_good::LastGood;
use selvage_config::resource::Secret;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::wire::client::{Options, Text};
use selvage_config::{CertificateSpec, keys};
use selvage_policy::{Target, TargetKind};
use selvage_proxy::feed::Store;
use selvage_proxy::feed::wire::WireFeed;
use selvage_proxy::observe::access::Sink;
use selvage_proxy::proxy::{Proxy, ProxyOptions};
use selvage_proxy::snapshot::Live;
use selvage_tests::Client;
use selvage_tests::standalone::{
    Authority, Book, NAME, Publisher, Recorder, Resources, address, edge_listener, identity, inbound_listener,
};
use serde_json::json;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const TOKEN: &str = "a token";
const ROUNDS: usize = 4;
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests of each client that make a load.
const LOAD: usize = 100;

/// What is published: edge and sidecar, and a guard that refuses `/denied-<n>` for every n up to `round`.
fn publish(book: &Book, base: &Resources, round: usize) {
    let paths: Vec<String> = (0..=round).map(|n| format!("/denied-{n}")).collect();
    let deny = json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": paths }] }] });
    let on = [Target::new(TargetKind::Gateway, "shop", "public"), Target::new(TargetKind::Service, "shop", "orders")];
    book.publish(&base.clone().policy("AuthorizationPolicy", "deny", &deny, &on));
}

/// A proxy that is fed over the wire.
struct Fed {
    _proxy: Proxy,
    feed: WireFeed,
    store: Arc<Store>,
}

impl Fed {
    async fn start(authority: &Authority, publisher: SocketAddr, saved: &Path) -> Self {
        let store = Store::new(Arc::new(Live::default()));
        let options = Options {
            address: publisher.to_string(),
            server_name: NAME.into(),
            roots: Text::Inline(Secret::new(authority.root())),
            token: Text::Inline(Secret::new(TOKEN.into())),
            node: "one".into(),
            backoff: (Duration::from_millis(20), Duration::from_millis(200)),
        };
        let last_good = LastGood::new(saved.join("public"), saved.join("secret"));
        let feed = WireFeed::start(store.clone(), options, Some(last_good), None).await;
        let proxy = ProxyOptions { name: "fed".into(), access: Sink::Off, ..ProxyOptions::default() };
        let proxy = Proxy::start(&proxy, store.snapshot(), store.changes()).expect("the proxy starts");
        let started = Self { _proxy: proxy, feed, store };
        let mut readiness = started.store.readiness();
        let ready = tokio::time::timeout(PATIENCE, readiness.wait_for(|readiness| readiness.is_ready())).await;
        assert!(ready.is_ok(), "not ready: {:?}, {:?}", started.store.readiness().borrow(), started.feed.client().connection().borrow());
        started
    }
}

/// Edge and inbound listener with their application, and clients of both.
struct World {
    book: Arc<Book>,
    base: Resources,
    controller: CertificateSpec,
    clients: Vec<(&'static str, Client)>,
    _backend: Recorder,
    at: SocketAddr,
    saved: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        selvage_tests::client::crypto();
        let authority = Authority::new();
        let backend = Recorder::start(address(0)).await;
        let (edge, inbound) = (address(18080), address(8080));
        let public = keys::listener("shop", "public", "http");
        let base = Resources::new(&authority)
            .listener(&public, &edge_listener(edge, 80))
            .listener(&keys::inbound("shop", "orders-0", 8080), &inbound_listener(inbound, backend.address))
            .backend("orders", 80, AppProtocol::Http, &[(backend.address, None)])
            .route("orders", &public, "/", &keys::backend("shop", "orders", 80));
        let leaf = authority.workload(&identity("shop", "web"));
        let (mesh, name) = (authority.client(Some(&leaf), &[]), identity("shop", "orders").dns_name());
        let clients = vec![
            ("edge, HTTP/1.1", Client::new(edge).with("host", "orders.shop")),
            ("edge, HTTP/2", Client::new(edge).with("host", "orders.shop").http2()),
            ("sidecar, plain", Client::new(inbound).with("host", "orders.shop")),
            ("sidecar, mesh", Client::new(inbound).with("host", "orders.shop").http2().tls(&mesh, &name)),
        ];
        let controller = authority.site(&[NAME]);
        let book = Book::new(authority, TOKEN);
        publish(&book, &base, 0);
        let saved = tempfile::tempdir().expect("a temporary directory");
        Self { book, base, controller, clients, _backend: backend, at: address(15410), saved }
    }

    /// Waits until every client is refused `path`.
    async fn until_denied(&self, path: &str) {
        let begun = Instant::now();
        for (name, client) in &self.clients {
            loop {
                match client.try_send(Method::GET, path, "").await {
                    Ok(answer) if answer.status == 403 => break,
                    other => assert!(begun.elapsed() < PATIENCE, "{name}: {path} is still answered {other:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Waits until so many transactions have been acknowledged.
    async fn until_acknowledged(&self, count: usize) {
        let begun = Instant::now();
        while self.book.acknowledged.load(Ordering::Relaxed) < count {
            assert!(begun.elapsed() < PATIENCE, "{count} transactions are not acknowledged");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_publisher_is_killed_and_comes_back() {
    let world = World::new().await;
    let mut publisher = Publisher::start(&world.book, &world.controller, world.at);
    let fed = Fed::start(&world.book.authority, world.at, world.saved.path()).await;
    world.until_denied("/denied-0").await;
    let over = Arc::new(AtomicBool::new(false));
    // By client.
    let so_far: Arc<Vec<AtomicUsize>> = Arc::new(world.clients.iter().map(|_| AtomicUsize::new(0)).collect());
    let load: Vec<_> = world
        .clients
        .iter()
        .enumerate()
        .map(|(number, (name, client))| {
            let (name, client, over, so_far) = (*name, client.clone(), over.clone(), so_far.clone());
            tokio::spawn(async move {
                let (mut served, mut refused) = (0, 0);
                let mut connection = client.connect().await.expect("a connection");
                while !over.load(Ordering::Relaxed) {
                    // One connection for all of it: to lose it is a failure.
                    let answer = connection.send(Method::GET, "/allowed", "").await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
                    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
                    served += 1;
                    so_far[number].store(served, Ordering::Relaxed);
                    let answer = connection.send(Method::GET, "/denied-0", "").await.unwrap_or_else(|error| panic!("{name}: {error:#}"));
                    assert_eq!(answer.status, 403, "{name}: {}", answer.text());
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (name, served, refused)
            })
        })
        .collect();
    for round in 1..=ROUNDS {
        // What is on its way to a publisher that is killed is lost.
        world.until_acknowledged(round).await;
        publisher.kill();
        // Changed while nobody could tell the proxy.
        publish(&world.book, &world.base, round);
        tokio::time::sleep(Duration::from_millis(300)).await;
        publisher = Publisher::start(&world.book, &world.controller, world.at);
        world.until_denied(&format!("/denied-{round}")).await;
    }
    world.until_acknowledged(ROUNDS + 1).await;
    let begun = Instant::now();
    while so_far.iter().any(|served| served.load(Ordering::Relaxed) <= LOAD) && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut total = 0;
    for task in load {
        let (name, served, refused) = task.await.expect("no request fails");
        eprintln!("{name}: {served} served, {refused} refused");
        assert!(served > LOAD, "{name}: {served} is no load");
        total += served;
    }
    let acknowledged = world.book.acknowledged.load(Ordering::Relaxed);
    eprintln!("wire: {ROUNDS} kills, {total} requests served, 0 failed, {acknowledged} transactions acknowledged");
    assert!(fed.store.rejected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_restarts_without_a_publisher_serves_its_last_good_configuration() {
    let world = World::new().await;
    let publisher = Publisher::start(&world.book, &world.controller, world.at);
    let fed = Fed::start(&world.book.authority, world.at, world.saved.path()).await;
    publish(&world.book, &world.base, 7);
    world.until_denied("/denied-7").await;
    // It is saved at most once a second.
    let last_good = LastGood::new(world.saved.path().join("public"), world.saved.path().join("secret"));
    let begun = Instant::now();
    let whole = |resources: &[selvage_config::Resource]| {
        let text: Vec<String> = resources.iter().map(|resource| resource.spec.to_string()).collect();
        text.iter().any(|spec| spec.contains("/denied-7"))
            && resources.iter().filter(|resource| keys::is_identity(&resource.key)).count() == 2
    };
    while !whole(&last_good.load(std::time::SystemTime::now()).resources) {
        assert!(begun.elapsed() < PATIENCE, "the configuration is not saved");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publisher.kill();
    drop(fed);
    let begun = Instant::now();
    let _fed = Fed::start(&world.book.authority, world.at, world.saved.path()).await;
    let mut longest = Duration::ZERO;
    for (name, client) in &world.clients {
        // The sockets follow a moment after.
        let answer = loop {
            match client.try_send(Method::GET, "/allowed", "").await {
                Ok(answer) => break answer,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{name}: {error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        longest = longest.max(begun.elapsed());
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let refused = client.get("/denied-7").await;
        assert_eq!(refused.status, 403, "{name}: a guard is gone: {}", refused.text());
    }
    eprintln!("wire: served {longest:.0?} after a restart without a publisher");
    assert!(longest < PATIENCE, "{longest:?}");
}
