//! Rules: redirects, rewrites, weights, and what there is to say where a request has nowhere to go.

use super::*;

#[tokio::test]
async fn redirects_say_where_and_keep_the_connection() {
    let address = free_address();
    let redirect = |path: &str, spec: Value| {
        let mut rule = json!({ "matches": [{ "path": { "prefix": path } }] });
        rule["filters"] = json!([{ "redirect": spec }]);
        rule
    };
    let mut all = route("all", json!({}));
    all["spec"]["rules"] = json!([
        redirect("/tls", json!({ "scheme": "https", "status": 301 })),
        redirect("/host", json!({ "hostname": "other.example", "status": 302 })),
        redirect("/port", json!({ "port": 8443, "status": 307 })),
        redirect("/old", json!({ "path": { "prefix": "/new" }, "status": 308 })),
        redirect("/full", json!({ "path": { "full": "/there" }, "status": 303 })),
    ]);
    let _world = World::start(vec![mesh_settings(), listener(address, json!({ "port": 8080 })), all]).await;
    let mut client = Client::connect(address).await;
    for (target, status, location) in [
        ("/tls/a?b=c", 301, "https://shop.example/tls/a?b=c"),
        ("/host", 302, "http://other.example:8080/host"),
        ("/port", 307, "http://shop.example:8443/port"),
        ("/old/a%20b", 308, "http://shop.example:8080/new/a%20b"),
        ("/full/x?y", 303, "http://shop.example:8080/there?y"),
    ] {
        // One connection, and a body that nobody reads.
        client.send(format!("POST {target} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 5\r\n\r\nhello")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.one("location")), (status, Some(location)), "{target}");
    }
}

#[tokio::test]
async fn rewrites_change_path_and_host_for_the_backend_alone() {
    let backend = Backend::hello().await;
    let address = free_address();
    let rewrite =
        |path: &str, spec: Value| to("app", json!({ "matches": [{ "path": { "prefix": path } }], "filters": [{ "rewrite": spec }] }));
    let mut all = route("all", json!({}));
    all["spec"]["rules"] = json!([
        rewrite("/full", json!({ "path": { "full": "/there" } })),
        rewrite("/old", json!({ "path": { "prefix": "/new" } })),
        rewrite("/strip", json!({ "path": { "prefix": "/" } })),
        rewrite("/host", json!({ "hostname": "inside.example" })),
    ]);
    let mut resources = vec![mesh_settings(), listener(address, json!({})), all];
    resources.extend(service("app", "Http", &[backend.address]));
    let world = World::start(resources).await;
    for (target, sent, host) in [
        ("/full/x?y=1", "/there?y=1", "shop.example"),
        ("/old/x/y?z", "/new/x/y?z", "shop.example"),
        ("/strip/x", "/x", "shop.example"),
        ("/strip", "/", "shop.example"),
        ("/host/x", "/host/x", "inside.example"),
    ] {
        assert_eq!(get(address, target, "").await.status, 200, "{target}");
        let seen = backend.last();
        assert_eq!(
            (seen.target.as_str(), seen.one("host"), seen.one("x-forwarded-host")),
            (sent, Some(host), Some("shop.example")),
            "{target}"
        );
    }
    assert_eq!(world.lines(1).await[0]["path"], "/full/x", "the log says what the client asked for");
}

#[tokio::test]
async fn a_request_with_nowhere_to_go_is_told_why() {
    let address = free_address();
    let rule = |path: &str, with: Value| {
        let mut rule = json!({ "matches": [{ "path": { "prefix": path } }] });
        merge(&mut rule, with);
        rule
    };
    let mut all = route("all", json!({}));
    all["spec"]["rules"] = json!([
        rule("/empty", json!({})),
        rule("/zero", to("app", json!({ "backends": [{ "backend": "Backend/shop/app#80", "weight": 0 }] }))),
        rule("/unresolved", json!({ "backends": [{ "weight": 1 }] })),
        rule("/none", to("app", json!({}))),
        rule("/filter", to("app", json!({ "filters": [{ "unresolved": "filter x" }] }))),
    ]);
    let mut resources = vec![mesh_settings(), listener(address, json!({ "hostname": "*.example" })), all];
    resources.extend(service("app", "Http", &[]));
    let _world = World::start(resources).await;
    // One connection carries them all: a refusal costs no connection.
    let mut client = Client::connect(address).await;
    for (target, status, reason) in [
        ("/empty", 500, "invalid_backend"),
        ("/zero", 500, "invalid_backend"),
        ("/unresolved", 500, "invalid_backend"),
        ("/none", 503, "no_endpoint"),
        ("/filter", 500, "invalid_backend"),
        ("/other", 404, "no_route"),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{target}");
        assert_eq!(answer.one("content-type"), Some("application/problem+json"));
    }
    client.send("GET / HTTP/1.1\r\nHost: elsewhere.org\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 404, "no listener serves that host");
}

#[tokio::test]
async fn weights_share_out_requests() {
    let (one, three) = (Backend::hello().await, Backend::hello().await);
    let address = free_address();
    let rule =
        json!({ "backends": [{ "backend": "Backend/shop/one#80", "weight": 1 }, { "backend": "Backend/shop/three#80", "weight": 3 }] });
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", rule)];
    resources.extend(service("one", "Http", &[one.address]));
    resources.extend(service("three", "Http", &[three.address]));
    let _world = World::start(resources).await;
    let mut client = Client::connect(address).await;
    for _ in 0..200 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    assert_eq!(one.count() + three.count(), 200);
    assert!((20..=80).contains(&one.count()), "{}", one.count());
}

#[tokio::test]
async fn interim_answers_and_websockets_pass() {
    let backend = Backend::start(|_, request| match request.target.as_str() {
        "/hints" => Reply::Bytes(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nselvage-x: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Old: 1\r\n\r\nok"
                .to_vec(),
        ),
        "/ws" => Reply::Echo(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n".to_vec(),
        ),
        _ => ok("plain"),
    })
    .await;
    let rule = json!({ "filters": [{ "responseHeaders": { "add": [["x-filter", "1"]] } }] });
    let (_world, address) = simple(&backend, rule).await;
    let mut client = Client::connect(address).await;
    client.send("GET /hints HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hints = client.answer().await.unwrap();
    assert_eq!((hints.status, hints.one("link"), hints.one("x-filter"), hints.one("selvage-x")), (103, Some("</a>"), None, None));
    let last = client.answer().await.unwrap();
    assert_eq!((last.status, last.one("x-filter"), last.body.as_str()), (200, Some("1"), "ok"));

    let handshake = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let mut socket = Client::connect(address).await;
    socket.send(handshake).await;
    let switched = socket.answer().await.unwrap();
    assert_eq!((switched.status, switched.one("upgrade"), switched.one("sec-websocket-accept")), (101, Some("websocket"), Some("x")));
    for word in ["one", "two", "GET / HTTP/1.1\r\n\r\n"] {
        socket.send(word).await;
        let mut echoed = vec![0; word.len()];
        tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut socket.stream, &mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, word.as_bytes());
    }
}

#[tokio::test]
async fn an_upgrade_that_is_none_reaches_the_backend_as_a_plain_request_and_once() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    for fields in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n",
    ] {
        let before = backend.count();
        let body = if fields.contains("Content-Length") { "abc" } else { "" };
        let answer = ask(address, format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")).await;
        assert_eq!((answer.status, backend.count() - before), (200, 1), "{fields}");
        assert_eq!(backend.last().one("upgrade"), None, "{fields}");
    }
    // The backend refuses a handshake: what the client sends behind it must not become another request there.
    let before = backend.count();
    let mut client = Client::connect(address).await;
    client
        .send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    while client.answer().await.is_some() {}
    let after: Vec<_> =
        backend.requests().drain(before..).map(|request| (request.target.clone(), request.one("x-request-id").is_some())).collect();
    assert!(after.iter().all(|(_, ours)| *ours), "whatever arrived came through the proxy: {after:?}");
}
