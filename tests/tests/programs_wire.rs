//! `gateway` and `mesh-agent` as programs, fed by a publisher: as they run in a cluster, with token, roots and state in files.

use selvage_config::keys;
use selvage_config::last_good::LastGood;
use selvage_config::resource::backend::AppProtocol;
use selvage_policy::{Target, TargetKind};
use selvage_tests::program::{Program, program};
use selvage_tests::standalone::{Authority, Book, NAME, Publisher, Recorder, Resources, address, edge_listener, inbound_listener};
use selvage_tests::{Client, Directory};
use serde_json::json;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything one program needs, in files.
struct Place {
    name: &'static str,
    book: Arc<Book>,
    publisher: SocketAddr,
    listen: SocketAddr,
    health: SocketAddr,
    files: Directory,
    base: Resources,
    _application: Recorder,
}

impl Place {
    async fn new(name: &'static str) -> Self {
        let book = Book::new(Authority::new(), "one");
        let application = Recorder::start(address(0)).await;
        let listen = address(8080);
        let mut base = Resources::new(&book.authority);
        if name == "gateway" {
            let public = keys::listener("shop", "public", "http");
            base = base
                .listener(&public, &edge_listener(listen, 80))
                .backend("orders", 80, AppProtocol::Http, &[(application.address, None)])
                .route("orders", &public, "/", &keys::backend("shop", "orders", 80));
        } else {
            base = base.listener(&keys::inbound("shop", "orders-0", 8080), &inbound_listener(listen, application.address));
        }
        let place = Self {
            name,
            book,
            publisher: address(15410),
            listen,
            health: address(15315),
            files: Directory::new(),
            base,
            _application: application,
        };
        place.publish("/denied-0");
        place.files.write("token", "one\n");
        place
    }

    fn publish(&self, denied: &str) {
        let deny = json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": [denied] }] }] });
        let on = [Target::new(TargetKind::Gateway, "shop", "public"), Target::new(TargetKind::Service, "shop", "orders")];
        self.book.publish(&self.base.clone().policy("AuthorizationPolicy", "deny", &deny, &on));
    }

    fn publisher(&self) -> Publisher {
        Publisher::start(&self.book, &self.book.authority.site(&[NAME]), self.publisher)
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().expect("a plain path").into()
    }

    /// As in a cluster: most of it in the environment. `lame_duck` in seconds.
    fn start(&self, state: &str, lame_duck: u64) -> Program {
        let (health, lame_duck, anywhere) = (self.health.to_string(), lame_duck.to_string(), address(0).to_string());
        let looking = ["run", "--health", &health, "--metrics", &anywhere, "--admin", &anywhere];
        let arguments = [&looking[..], &["--access-log", "off", "--lame-duck", &lame_duck, "--drain", "5"]].concat();
        let environment = [
            ("SELVAGE_CONTROLLER", self.publisher.to_string()),
            ("SELVAGE_CONTROLLER_NAME", NAME.into()),
            ("SELVAGE_TOKEN_FILE", self.file("token")),
            ("SELVAGE_ROOTS_FILE", self.file("roots.pem")),
            ("SELVAGE_STATE", self.file(state)),
            ("SELVAGE_NODE", "shop/one".into()),
            ("SELVAGE_LOG", "error".into()),
        ];
        Program::start_with(self.name, &arguments, &environment)
    }

    /// Waits until the disk has the guard that refuses this path, and a certificate.
    async fn saved(&self, state: &str, denied: &str) {
        let last_good = LastGood::new(self.file(state), self.files.path().join(state).join("secrets"));
        let begun = Instant::now();
        loop {
            let kept = last_good.load(SystemTime::now()).resources;
            let has_guard = kept.iter().any(|resource| resource.spec.to_string().contains(denied));
            if has_guard && kept.iter().any(|resource| keys::is_identity(&resource.key)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: {denied} is not saved", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the health port says this.
    async fn says(&self, status: u16, word: &str) {
        let client = Client::new(self.health);
        let begun = Instant::now();
        loop {
            let answer = client.try_send(http::Method::GET, "/readyz", "").await;
            if answer.as_ref().is_ok_and(|answer| answer.status == status && answer.text().contains(word)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: not {status} {word}: {answer:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn client(&self) -> Client {
        Client::new(self.listen).with("host", "orders.shop")
    }

    /// Waits until a path is refused.
    async fn denies(&self, path: &str) {
        let begun = Instant::now();
        while !self.client().try_send(http::Method::GET, path, "").await.is_ok_and(|answer| answer.status == 403) {
            assert!(begun.elapsed() < PATIENCE, "{}: {path} is not refused", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Every file below, with its mode.
fn modes(folder: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder can be listed").map(|entry| entry.expect("an entry")) {
        let mode = entry.metadata().expect("an entry has a mode").permissions().mode() & 0o777;
        found.push((entry.path().display().to_string(), mode));
        if entry.path().is_dir() {
            found.extend(modes(&entry.path()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_programs_run_from_the_controller_survive_it_and_leave_in_order() {
    selvage_tests::client::crypto();
    for name in ["gateway", "mesh-agent"] {
        let place = Place::new(name).await;
        let publisher = place.publisher();
        // Before its roots are there it waits, and says so.
        let proxy = place.start("state", 10);
        place.says(503, "configuration").await;
        assert!(place.client().try_send(http::Method::GET, "/", "").await.is_err(), "{name} serves without a configuration");
        place.files.write("roots.pem", &place.book.authority.root());
        place.says(200, "ready").await;
        place.client().get("/allowed").await.expect(200);
        place.denies("/denied-0").await;
        place.publish("/denied-1");
        place.denies("/denied-1").await;

        // The token is renewed on disk; a new connection proves itself with the new one.
        place.files.write("token", "two\n");
        place.book.take_only("two");
        publisher.kill();
        place.publish("/denied-2");
        let publisher = place.publisher();
        place.denies("/denied-2").await;
        place.client().get("/denied-1").await.expect(200);

        // Told to end: unready at once, served on for a while, then gone.
        place.saved("state", "/denied-2").await;
        publisher.kill();
        proxy.signal("TERM");
        place.says(503, "draining").await;
        place.client().get("/allowed").await.expect(200);
        assert_eq!(proxy.ended().await, Some(0), "{name}");

        // Without anybody to ask it serves what it had, keys included, which nobody else may read.
        for (path, mode) in modes(&place.files.path().join("state")) {
            let expected = if Path::new(&path).is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, expected, "{path}");
        }
        let proxy = place.start("state", 60);
        place.says(200, "ready").await;
        place.client().get("/allowed").await.expect(200);
        place.client().get("/denied-2").await.expect(403);
        // Told twice it does not wait.
        let begun = Instant::now();
        proxy.signal("TERM");
        place.says(503, "draining").await;
        proxy.signal("TERM");
        assert_eq!(proxy.ended().await, Some(0), "{name}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_prove_itself_or_does_not_know_its_controller_gets_nothing() {
    selvage_tests::client::crypto();
    let place = Place::new("mesh-agent").await;
    let _publisher = place.publisher();
    place.files.write("roots.pem", &place.book.authority.root());
    place.files.write("token", "stolen");
    let proxy = place.start("one", 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.says(503, "configuration").await;
    drop(proxy);
    // A controller that others vouch for.
    place.files.write("token", "one");
    place.files.write("roots.pem", &Authority::new().root());
    let proxy = place.start("two", 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    place.says(503, "configuration").await;
    place.files.write("roots.pem", &place.book.authority.root());
    place.says(200, "ready").await;
    drop(proxy);
}

#[test]
fn exactly_one_source_is_taken_and_wrong_options_are_named() {
    for name in ["gateway", "mesh-agent"] {
        for (arguments, word) in [
            (&["run"][..], "--config"),
            (&["run", "--config", "a", "--controller", "a:1", "--controller-name", "n"], "cannot be used with"),
            (&["run", "--controller", "a:1"], "--controller-name"),
            (&["run", "--controller", "a", "--controller-name", "n"], "HOST:PORT"),
            (&["run", "--controller", "a:1", "--controller-name", "n", "--admin", "here"], "ADDRESS:PORT"),
        ] {
            let output = Command::new(program(name)).args(arguments).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {said}");
            assert!(said.contains(word), "{name} {arguments:?} does not name {word}: {said}");
        }
    }
    let probes = Command::new(program("mesh-agent")).args(["run", "--config", "a", "--probes", "{\"/probe/app/livez\":{}}"]).output();
    let probes = probes.expect("it runs");
    assert_eq!(probes.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&probes.stderr).contains("/probe/app/livez: needs exactly one of"), "{probes:?}");
    let gateway = Command::new(program("gateway")).arg("init").output().expect("it runs");
    assert_eq!(gateway.status.code(), Some(2), "an edge captures nothing");
}
