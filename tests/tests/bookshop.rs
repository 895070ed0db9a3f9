//! `make run`, as a user sees it: the bookshop behind an edge and three sidecars, and the five commands that are suggested.

use http::Method;
use selvage_tests::client::{raw, trusting};
use selvage_tests::grpc::Catalogue;
use selvage_tests::program::program;
use selvage_tests::{Answer, Client, Directory, Running, limit};
use std::time::{Duration, Instant};

const BOOKSHOP: &str = "examples/bookshop";
const ORDERS_CALLERS: &str = "AuthorizationPolicy/bookshop/orders-callers";

/// Every certificate has the trust domain: it cannot be changed.
const OTHER_TRUST_DOMAIN: &str = "apiVersion: selvage.dev/v1alpha1
kind: MeshConfig
metadata: { name: default }
spec: { trustDomain: other.example }
---
# Who may call orders";

async fn bookshop() -> (Directory, Running) {
    let directory = Directory::copy_of(BOOKSHOP);
    let running = Running::start(&directory).await;
    (directory, running)
}

/// A client that has its own share of the Gateway's limit.
fn edge(running: &Running) -> Client {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    running.client("bookshop/public", 8080).with("x-client", &format!("test-{count}"))
}

/// Asks until the answer is as wanted, or time is up; then the last answer.
async fn soon(client: &Client, path: &str, status: u16) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = client.get(path).await;
        if answer.status == status || begun.elapsed() > Duration::from_secs(10) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn explain(directory: &Directory, arguments: &[&str]) -> (Option<i32>, serde_json::Value) {
    let output = std::process::Command::new(program("selvage"))
        .arg("explain")
        .arg(directory.path())
        .args(arguments)
        .args(["-o", "json"])
        .output()
        .expect("selvage runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_five_commands_give_what_they_promise() {
    let (directory, running) = bookshop().await;
    let gateway = running.gateway("bookshop/public", 8080);

    // One: a request through.
    let through = edge(&running).get("/books/2").await.expect(200).json();
    assert_eq!(through["service"], "storefront");
    assert_eq!(through["answer"]["book"]["title"], "Middlemarch");
    assert_eq!(through["seen"]["selvage-principal"], "spiffe://cluster.local/ns/bookshop/sa/public-selvage");
    assert_eq!(through["answer"]["seen"]["selvage-principal"], "spiffe://cluster.local/ns/bookshop/sa/storefront");

    // Two: one refused by authorization, with its reason and the policy by name.
    let refused = edge(&running).get("/orders/17").await.expect(403);
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let problem = refused.json();
    assert_eq!(problem["reason"], "authorization_denied");
    assert_eq!(problem["policy"], ORDERS_CALLERS);

    // Three: one limited.
    let limited = limit::meet(&edge(&running), 1, 20).await;
    assert_eq!(limited.json()["reason"], "rate_limited");
    assert_eq!(limited.json()["policy"], "RateLimitPolicy/bookshop/per-client");
    assert!(limited.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds >= 1), "{:?}", limited.headers);

    // Four: explain says the same as live.
    let url = format!("http://{gateway}/orders/17");
    let (code, explained) = explain(&directory, &["--url", &url]);
    assert_eq!(code, Some(1));
    assert_eq!(explained["verdict"], "Denied");
    assert_eq!(explained["reason"], "authorization_denied");
    assert_eq!(explained["policy"], ORDERS_CALLERS);
    let hops = explained["hops"].as_array().expect("hops");
    assert_eq!(hops.len(), 2, "the edge, then the sidecar of orders: {explained:#}");

    // Five: a live edit takes effect, and taken back it is gone.
    directory.replace("app/policies.yaml", "# - { gateway: public }", "- { gateway: public }");
    assert_eq!(soon(&edge(&running), "/orders/17", 200).await.expect(200).json()["order"]["book"], 2);
    let (code, _) = explain(&directory, &["--url", &url]);
    assert_eq!(code, Some(0));
    directory.replace("app/policies.yaml", "- { gateway: public }", "# - { gateway: public }");
    soon(&edge(&running), "/orders/17", 403).await.expect(403);

    let (code, _) = running.end("TERM").await;
    assert_eq!(code, Some(0));
}

/// What `up` suggests, as it is printed: titles and commands.
fn suggested(said: &str) -> Vec<(String, String)> {
    let block = said.split("\nTry:\n").nth(1).unwrap_or_else(|| panic!("nothing is suggested:\n{said}"));
    let mut found: Vec<(String, String)> = Vec::new();
    for line in block.lines().take_while(|line| line.starts_with("  ")) {
        match (line.strip_prefix("     "), found.last_mut()) {
            (Some(command), Some((_, commands))) => commands.push_str(&format!("{command}\n")),
            _ => found.push((line.trim().into(), String::new())),
        }
    }
    found
}

/// Runs a command as somebody types it; its exit code and what it printed.
async fn typed(command: &str) -> (Option<i32>, String) {
    let output = tokio::process::Command::new("sh").args(["-c", command]).output().await.expect("a shell runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs it again and again until it prints what is wanted, or time is up.
async fn typed_until(command: &str, wanted: impl Fn(&str) -> bool) -> String {
    let begun = Instant::now();
    let mut all = String::new();
    loop {
        let (_, printed) = typed(command).await;
        all.push_str(&printed);
        if wanted(&printed) || begun.elapsed() > Duration::from_secs(60) {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_do_as_they_are_printed_what_their_titles_say() {
    let (_directory, running) = bookshop().await;
    running.until_said("Ctrl-C ends everything").await;
    let commands = suggested(&running.said());
    let [through, refused, limited, why, edit] = commands.as_slice() else { panic!("not five commands: {commands:#?}") };

    let (_, printed) = typed(&through.1).await;
    assert!(through.0.ends_with("(200)") && printed.starts_with("HTTP/1.1 200"), "{through:?}: {printed}");

    let (_, printed) = typed(&refused.1).await;
    assert!(refused.0.ends_with("(403)") && printed.starts_with("HTTP/1.1 403"), "{refused:?}: {printed}");
    assert!(refused.0.contains("orders-callers") && printed.contains(ORDERS_CALLERS), "{printed}");

    // On a machine that stands still for a second all forty pass.
    let printed = typed_until(&limited.1, |printed| printed.contains("429")).await;
    assert!(limited.0.contains("forty at once"), "{limited:?}");
    assert!(printed.split_whitespace().all(|code| matches!(code, "200" | "429")), "{printed}");
    assert!(printed.matches("200").count() >= 20 && printed.contains("429"), "{printed}");

    let (code, printed) = typed(&why.1).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("403") && printed.contains(ORDERS_CALLERS), "{printed}");

    let printed = typed_until(&edit.1, |printed| printed.starts_with("HTTP/1.1 200")).await;
    assert!(printed.contains("HTTP/1.1 200"), "{edit:?}: {printed}\n{}", running.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_protocol_passes_edge_and_sidecar() {
    let (directory, running) = bookshop().await;
    let gateway = running.gateway("bookshop/public", 8080);

    let two = edge(&running).http2().get("/books/1").await.expect(200);
    assert_eq!(two.version, http::Version::HTTP_2);

    // TLS, with the certificate that `up` made for the missing Secret.
    let roots = directory.read(".selvage/certificates/root.pem");
    let tls = trusting(&roots);
    let https = running.client("bookshop/public", 8443).with("x-client", "tls");
    let answer = https.clone().tls(&tls, "localhost").get("/books/1").await.expect(200).json();
    assert_eq!(answer["seen"]["x-forwarded-proto"], "https");
    let answer = https.http2().tls(&tls, "localhost").get("/books/1").await.expect(200);
    assert_eq!(answer.version, http::Version::HTTP_2);

    // gRPC: unary, streaming, an application's own error.
    let catalogue = Catalogue::connect(gateway, "grpc.bookshop.example").await;
    let (book, metadata) = catalogue.get_with(3, &[("x-client", "grpc")]).await.expect("a book");
    assert_eq!(book["title"], "Moby-Dick");
    assert_eq!(metadata.get("seen-selvage-principal").expect("the principal"), "spiffe://cluster.local/ns/bookshop/sa/public-selvage");
    assert_eq!(catalogue.list().await.expect("books").len(), 4);
    assert_eq!(catalogue.get(99).await.expect_err("no such book").code(), tonic::Code::NotFound);

    // A refusal is told to gRPC callers in their own way.
    let answer =
        edge(&running).http2().with("content-type", "application/grpc").with("te", "trailers").send(Method::POST, "/orders/17", "").await;
    let answer = answer.expect(200);
    let status = answer.headers.get("grpc-status").or(answer.trailers.get("grpc-status"));
    assert_eq!(status.expect("a gRPC status"), "7", "PERMISSION_DENIED");

    // WebSocket.
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(format!("ws://{gateway}/ws")).expect("a request");
    request.headers_mut().insert("x-client", http::HeaderValue::from_static("ws"));
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("a WebSocket");
    use futures::{SinkExt, StreamExt};
    for text in ["one", "two"] {
        socket.send(text.into()).await.expect("it is sent");
        let back = socket.next().await.expect("an answer").expect("a message");
        assert_eq!(back.into_text().expect("text"), text);
    }
    socket.close(None).await.expect("it closes");
}

/// What `selvage status` prints.
fn status(directory: &Directory, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program("selvage")).arg("status").arg(directory.path()).args(arguments).output();
    let output = output.expect("selvage runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_lists_every_proxy_with_its_certificate() {
    let (directory, running) = bookshop().await;
    let begun = Instant::now();
    let listing = loop {
        let listing: serde_json::Value = serde_json::from_str(&status(&directory, &["-o", "json"])).expect("JSON");
        let proxies = listing["proxies"].as_array().expect("a list");
        // What a proxy reports of itself comes a moment after it has everything.
        if proxies.iter().all(|proxy| proxy["sync"] == "Synced" && proxy["version"].is_string())
            || begun.elapsed() > Duration::from_secs(20)
        {
            break listing;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let proxies = listing["proxies"].as_array().expect("a list");
    let names: Vec<&str> = proxies.iter().filter_map(|proxy| proxy["name"].as_str()).collect();
    assert_eq!(names, ["Gateway/bookshop/public", "Pod/bookshop/catalogue", "Pod/bookshop/orders", "Pod/bookshop/storefront"]);
    for proxy in proxies {
        assert_eq!((proxy["sync"].as_str(), proxy["version"].as_str()), (Some("Synced"), listing["version"].as_str()), "{proxy}");
        let role = if proxy["name"] == "Gateway/bookshop/public" { "Edge" } else { "Sidecar" };
        assert_eq!(proxy["role"], role);
        assert!(proxy["certificates"][0]["ends"].is_string() && proxy["applied"] == proxy["generation"], "{proxy}");
    }
    let yaml: serde_json::Value = serde_saphyr::from_str(&status(&directory, &["-o", "yaml"])).expect("YAML");
    assert_eq!(yaml["proxies"].as_array().map(Vec::len), Some(proxies.len()));
    let table = status(&directory, &[]);
    assert!(
        table.starts_with("NAME") && table.lines().filter(|line| line.contains("synced") && line.contains("ends in ")).count() == 4,
        "{table}"
    );
    assert!(!running.said().contains("not Enforced") && !running.said().contains("not Programmed"), "{}", running.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_edit_is_refused_by_name_and_what_worked_stays() {
    let (directory, running) = bookshop().await;
    let good = directory.read("app/policies.yaml");
    edge(&running).get("/orders/17").await.expect(403);

    let broken = [
        ("action: Allow", "action: Perhaps", "action"),
        ("paths: [\"/orders/*\"]", "paths: [\"/a/../b\"]", "paths"),
        ("requests: 20", "requests: many", "requests"),
        ("kind: AuthorizationPolicy", "kind: AuthorisationPolicy", "AuthorisationPolicy"),
        ("# Who may call orders", OTHER_TRUST_DOMAIN, "MeshConfig/default: spec.trustDomain: `other.example` is not `cluster.local`"),
    ];
    for (old, new, field) in broken {
        let before = running.said().matches("refused").count();
        directory.replace("app/policies.yaml", old, new);
        let begun = Instant::now();
        while running.said().matches("refused").count() == before {
            assert!(begun.elapsed() < Duration::from_secs(10), "the edit `{new}` was not refused:\n{}", running.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let said = running.said();
        assert!(said.contains("policies.yaml") && said.contains(field), "the message names neither file nor field `{field}`:\n{said}");
        edge(&running).get("/orders/17").await.expect(403);
        edge(&running).get("/books/1").await.expect(200);
        directory.write("app/policies.yaml", &good);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // The next good edit is taken.
    directory.replace("app/policies.yaml", "# - { gateway: public }", "- { gateway: public }");
    soon(&edge(&running), "/orders/17", 200).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_directories_run_beside_each_other() {
    let (_one, first) = bookshop().await;
    let (_two, second) = bookshop().await;
    assert_ne!(first.gateway("bookshop/public", 8080), second.gateway("bookshop/public", 8080));
    edge(&first).get("/books/1").await.expect(200);
    edge(&second).get("/books/1").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_and_hostile_requests_are_refused_at_the_edge() {
    let (_directory, running) = bookshop().await;
    let gateway = running.gateway("bookshop/public", 8080);
    for (name, request) in [
        ("two lengths", "POST /books HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("length and chunks", "POST /books HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("no host", "GET /books HTTP/1.1\r\n\r\n"),
        ("encoded slash", "GET /orders%2f17 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("backslash", "GET /orders%5c17 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("bad triplet", "GET /books/%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let answer = raw(gateway, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{name}: {answer}");
    }
    // Ways to write the same path lead to the same verdict.
    for path in ["/orders/17", "//orders/17", "/x/../orders/17", "/%6frders/17", "/orders/./17"] {
        let answer = raw(gateway, format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
    }
}
