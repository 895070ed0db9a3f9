//! Early answers leave their connection safe, and slow ones end in time.

use super::*;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

fn deny(path: &str) -> Value {
    let target = json!({ "kind": "Gateway", "namespace": "shop", "name": "public" });
    let rules = json!([
        { "name": "not-there", "action": "Deny", "to": [{ "paths": [path] }] },
        { "name": "rest", "action": "Allow" },
    ]);
    policy("AuthorizationPolicy", "guard", target, json!({ "rules": rules }))
}

async fn guarded(backend: &Backend) -> (World, SocketAddr) {
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({}))), deny("/private/*")];
    resources.extend(service("app", "Http", &[backend.address]));
    (World::start(resources).await, address)
}

#[tokio::test]
async fn a_refusal_names_policy_and_rule_and_its_body_is_not_the_next_request() {
    let backend = Backend::hello().await;
    let (world, address) = guarded(&backend).await;
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let bodies = [
        format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        "\r\n".to_string(),
    ];
    for body in &bodies {
        let mut client = Client::connect(address).await;
        client.send(format!("POST /private/x HTTP/1.1\r\nHost: a\r\n{body}")).await;
        let refused = client.answer().await.unwrap();
        assert_eq!((refused.status, refused.reason().as_str()), (403, "authorization_denied"), "{body:?}");
        assert!(refused.body.contains("AuthorizationPolicy/shop/guard") && refused.body.contains("not-there"), "{}", refused.body);
        // The connection goes on, and what follows is a request of its own.
        client.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.answer().await.unwrap().status, 200, "{body:?}");
        assert_eq!(backend.last().target, "/after");
    }
    assert!(backend.requests().iter().all(|request| request.target == "/after"));
    assert_eq!(world.metric("selvage_denied_total{policy_kind=\"AuthorizationPolicy\",reason=\"authorization_denied\"}"), 3.0);
}

#[tokio::test]
async fn a_refusal_with_a_body_that_does_not_end_closes_the_connection() {
    let backend = Backend::hello().await;
    let (_world, address) = guarded(&backend).await;
    for fields in ["Content-Length: 10000000\r\n", "Expect: 100-continue\r\nContent-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = Client::connect(address).await;
        client.send(format!("POST /private/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
        let refused = client.answer().await.unwrap();
        assert_eq!((refused.status, refused.one("connection")), (403, Some("close")), "{fields}");
        assert!(client.is_closed().await, "{fields}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_refused_upload_that_is_under_way_still_gets_its_answer() {
    let backend = Backend::hello().await;
    let (_world, address) = guarded(&backend).await;
    let mut client = Client::connect(address).await;
    client.send("POST /private/x HTTP/1.1\r\nHost: a\r\nContent-Length: 150000\r\n\r\n").await;
    client.send(vec![b'x'; 150_000]).await;
    let refused = client.answer().await.unwrap();
    assert_eq!((refused.status, refused.reason().as_str()), (403, "authorization_denied"));
}

#[tokio::test]
async fn refusals_of_head_and_get_differ_only_by_the_body() {
    let backend = Backend::hello().await;
    let (_world, address) = guarded(&backend).await;
    let mut client = Client::connect(address).await;
    client.send("HEAD /private/x HTTP/1.1\r\nHost: a\r\n\r\nGET /private/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(head.status, 403);
    assert!(head.one("content-length").is_some_and(|length| length != "0"));
}

#[tokio::test]
async fn a_pipelined_request_is_served_in_turn_or_not_at_all() {
    let backend = Backend::hello().await;
    let (_world, address) = guarded(&backend).await;
    let mut client = Client::connect(address).await;
    client.send("GET /private/x HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 403);
    let second = client.answer().await;
    assert!(second.as_ref().is_none_or(|answer| answer.status == 200), "{second:?}");
    assert_eq!(backend.count(), usize::from(second.is_some()));
}

/// What follows a body belongs to the next request, however the body is framed and however the bytes are cut.
#[tokio::test]
async fn what_is_pipelined_behind_a_body_is_answered_in_turn() {
    let backend = Backend::start(|number, _| ok(&number.to_string())).await;
    let (_world, address) = simple(&backend, json!({})).await;
    let chunked = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n3\r\n123\r\n0\r\n\r\n";
    let trailers = "POST /first HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhello123\r\n0\r\nA: b\r\n\r\n";
    let sized = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhello123";
    let mut asked = 0;
    for first in [chunked, trailers, sized] {
        let all = format!("{first}{first}GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
        for cut in (0..all.len()).step_by(7).chain([first.len() - 1, first.len(), first.len() + 1]) {
            let mut client = Client::connect(address).await;
            let (one, two) = all.split_at(cut);
            client.send(one).await;
            if cut % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            client.send(two).await;
            for _ in 0..3 {
                let answer = client.answer().await.unwrap_or_default();
                assert_eq!((answer.status, answer.body), (200, asked.to_string()), "{first:?} cut at {cut}");
                asked += 1;
            }
            let bodies: Vec<Vec<u8>> = backend.requests()[asked - 3..].iter().map(|request| request.body.clone()).collect();
            assert_eq!(bodies, [b"hello123".to_vec(), b"hello123".to_vec(), Vec::new()]);
        }
    }
}

#[tokio::test]
async fn time_outs_are_504_and_in_time() {
    let backend = Backend::start(|_, _| Reply::Slowly(vec![(Duration::from_secs(30), Vec::new())])).await;
    for rule in
        [json!({ "requestTimeoutMs": 300 }), json!({ "backendTimeoutMs": 300 }), json!({ "requestTimeoutMs": 0, "backendTimeoutMs": 300 })]
    {
        let (world, address) = simple(&backend, rule.clone()).await;
        let began = Instant::now();
        let answer = get(address, "/", "").await;
        assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"), "{rule}");
        assert!((250..5000).contains(&began.elapsed().as_millis()), "{rule} {:?}", began.elapsed());
        assert_eq!(world.metric("selvage_upstream_attempts_total{outcome=\"timed_out\"}"), 1.0);
    }
}

#[tokio::test]
async fn a_deadline_after_the_head_breaks_the_stream_off() {
    let trickle = || {
        let mut parts = vec![(Duration::ZERO, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())];
        parts.extend((0..200).map(|_| (Duration::from_millis(50), b"1\r\nx\r\n".to_vec())));
        Reply::Slowly(parts)
    };
    let backend = Backend::start(move |_, _| trickle()).await;
    let (world, address) = simple(&backend, json!({ "requestTimeoutMs": 400 })).await;
    let began = Instant::now();
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.answer().await.is_none(), "the body never ends, and that can be seen");
    assert!((350..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    let line = &world.lines(1).await[0];
    assert_eq!((line["reason"].as_str(), line["path"].as_str()), (Some("upstream_timeout"), Some("/")), "{line}");
    assert_eq!(world.shared.metrics.requests.in_flight(), 0);
}

#[tokio::test]
async fn a_backend_that_breaks_off_or_is_not_there_is_502() {
    let breaks = Backend::start(|_, _| Reply::Close).await;
    let (_world, address) = simple(&breaks, json!({})).await;
    let answer = ask(address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!((answer.status, answer.reason().as_str(), answer.one("connection")), (502, "upstream_reset", Some("close")));
    let garbage = Backend::start(|_, _| Reply::Bytes(b"SSH-2.0-x\r\n\r\n".to_vec())).await;
    let (_world, address) = simple(&garbage, json!({})).await;
    assert_eq!(get(address, "/", "").await.reason(), "upstream_reset");
}

#[tokio::test]
async fn guards_of_the_target_run_here_where_it_has_no_sidecar() {
    let backend = Backend::hello().await;
    let address = free_address();
    let target = json!({ "kind": "Service", "namespace": "shop", "name": "app" });
    // It sees what is sent: the rewritten path.
    let rules = json!([
        { "name": "no-admin", "action": "Deny", "to": [{ "paths": ["/admin/*"] }] },
        // At the target's own proxy these are gone before guards look.
        { "name": "same-everywhere", "action": "Deny", "when": "'x-forwarded-for' in request.headers" },
    ]);
    let guard = policy("AuthorizationPolicy", "target", target, json!({ "rules": rules }));
    let rule =
        to("app", json!({ "matches": [{ "path": { "prefix": "/a" } }], "filters": [{ "rewrite": { "path": { "prefix": "/admin" } } }] }));
    let mut all = route("all", rule);
    all["spec"]["rules"].as_array_mut().unwrap().push(to("app", json!({})));
    let mut resources = vec![mesh_settings(), listener(address, json!({})), all, guard];
    resources.extend(service("app", "Http", &[backend.address]));
    let _world = World::start(resources).await;
    let refused = get(address, "/a/x", "").await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "authorization_denied"));
    assert!(refused.body.contains("no-admin"), "{}", refused.body);
    assert_eq!(get(address, "/b", "").await.status, 200);
    assert_eq!(get(address, "/admin/x", "").await.status, 403);
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn a_client_that_has_ended_its_side_is_waited_for_and_not_for_ever() {
    let late = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate".to_vec();
    let backend = Backend::start(move |_, request| match request.target.as_str() {
        "/late" => Reply::Slowly(vec![(Duration::from_millis(300), late.clone())]),
        _ => Reply::Slowly(vec![(Duration::from_secs(60), Vec::new())]),
    })
    .await;
    for (target, abandoned, answer) in [("/late", Duration::from_secs(20), Some(200)), ("/never", Duration::from_millis(300), None)] {
        let address = free_address();
        let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
        resources.extend(service("app", "Http", &[backend.address]));
        let world = World::run(resources, Options::default(), &ProxyOptions { abandoned, ..ProxyOptions::default() }).await;
        let mut client = Client::connect(address).await;
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.answer().await.map(|answer| answer.status), answer, "{target}");
        world.lines(1).await;
        assert_eq!(world.shared.metrics.requests.in_flight(), 0, "{target}");
    }
}

#[tokio::test]
async fn time_outs_of_a_policy_are_live() {
    // A socket whose queue is full answers no more than a host that is not there.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let unreachable = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(unreachable)).await {
        queued.push(connected.unwrap());
    }
    let silent = Backend::start(|_, _| Reply::Slowly(vec![(Duration::from_secs(60), Vec::new())])).await;
    for (timeouts, backend, outcome) in [
        (json!({ "connect": "300ms" }), unreachable, "connect_failed"),
        (json!({ "request": "300ms" }), silent.address, "timed_out"),
        (json!({ "backendRequest": "300ms" }), silent.address, "timed_out"),
    ] {
        let address = free_address();
        let target = json!({ "kind": "Gateway", "namespace": "shop", "name": "public" });
        let policy = policy("TrafficPolicy", "times", target, json!({ "timeouts": timeouts, "retry": { "attempts": 0 } }));
        let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({}))), policy];
        resources.extend(service("app", "Http", &[backend]));
        let world = World::start(resources).await;
        let began = Instant::now();
        let answer = get(address, "/", "").await;
        assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"), "{timeouts}");
        // Without the policy making a connection may take 5 s, and the rest as long as it likes.
        assert!((250..4500).contains(&began.elapsed().as_millis()), "{timeouts} {:?}", began.elapsed());
        assert_eq!(world.metric(&format!("selvage_upstream_attempts_total{{outcome=\"{outcome}\"}}")), 1.0);
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_ends_too() {
    let backend = Backend::start(|_, _| {
        let mut parts = vec![(Duration::ZERO, b"HTTP/1.1 200 OK\r\n".to_vec())];
        parts.extend((0..1000).map(|_| (Duration::from_millis(50), b"x: y\r\n".to_vec())));
        Reply::Slowly(parts)
    })
    .await;
    for rule in [json!({ "backendTimeoutMs": 300 }), json!({ "requestTimeoutMs": 300 })] {
        let (world, address) = simple(&backend, rule.clone()).await;
        let mut client = Client::connect(address).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"), "{rule}");
        assert_eq!(world.metric("selvage_upstream_attempts_total{outcome=\"timed_out\"}"), 1.0, "{rule}");
    }
}

#[tokio::test]
async fn once_the_head_is_there_a_response_may_pause() {
    let switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let backend = Backend::start(|_, request| match request.target.as_str() {
        "/ws" => Reply::Echo(switched.to_vec()),
        _ => Reply::Slowly(vec![
            (Duration::ZERO, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n12".to_vec()),
            (Duration::from_millis(4000), b"34".to_vec()),
        ]),
    })
    .await;
    let (_world, address) = simple(&backend, json!({ "backendTimeoutMs": 2000 })).await;
    let mut socket = Client::connect(address).await;
    socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n").await;
    assert_eq!(socket.answer().await.unwrap().status, 101);
    assert_eq!(get(address, "/", "").await.body, "1234");
    socket.send("ping").await;
    let mut echoed = [0; 4];
    tokio::time::timeout(PATIENCE, socket.stream.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(&echoed, b"ping");
}
