//! One owner of retries, counted at the backends.

use super::*;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;
use tokio::net::TcpListener;

fn status(code: u16) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

async fn front(addresses: &[SocketAddr], rule: Value, more: Vec<Value>) -> (World, SocketAddr) {
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", rule))];
    resources.extend(service("app", "Http", addresses));
    resources.extend(more);
    (World::start(resources).await, address)
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn attempts_at_the_backend_are_what_the_route_says() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_string();
    let table = [
        ("no setting: a status is the answer", json!({}), &get, 503, 1),
        ("codes", json!({ "retry": { "codes": [503], "attempts": 3 } }), &get, 503, 4),
        ("codes without attempts: one", json!({ "retry": { "codes": [503] } }), &get, 503, 2),
        ("another code", json!({ "retry": { "codes": [502], "attempts": 3 } }), &get, 503, 1),
        ("none", json!({ "retry": { "codes": [503], "attempts": 0 } }), &get, 503, 1),
        ("not idempotent", json!({ "retry": { "codes": [503], "attempts": 3 } }), &post("x"), 503, 1),
        ("idempotent with a body", json!({ "retry": { "codes": [503], "attempts": 1 } }), &post("x").replace("POST", "PUT"), 503, 2),
    ];
    for (name, rule, request, expected, attempts) in table {
        let backend = Backend::start(|_, _| status(503)).await;
        let (world, address) = front(&[backend.address], rule, vec![]).await;
        assert_eq!(ask(address, request).await.status, expected, "{name}");
        assert_eq!(backend.count(), attempts, "{name}");
        assert_eq!(world.lines(1).await[0]["attempts"], attempts, "{name}");
        assert_eq!(world.metric("selvage_retries_total{outcome=\"made\"}") as usize, attempts - 1, "{name}");
    }
}

#[tokio::test]
async fn a_retry_goes_elsewhere_and_its_answer_counts() {
    let bad = Backend::start(|_, _| status(503)).await;
    let good = Backend::hello().await;
    let (_world, address) = front(&[bad.address, good.address], json!({ "retry": { "codes": [503], "attempts": 1 } }), vec![]).await;
    for _ in 0..10 {
        let answer = get(address, "/", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
    assert_eq!(good.count(), 10);
}

#[tokio::test]
async fn where_connecting_failed_any_method_gets_one_more_try() {
    let good = Backend::hello().await;
    let dead = free_address();
    let (world, address) = front(&[dead, good.address], json!({}), vec![]).await;
    for _ in 0..10 {
        let answer = ask(address, post("body")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
    }
    assert_eq!(good.count(), 10);
    assert!(good.requests().iter().all(|request| request.body == b"body"));
    assert!(world.metric("selvage_upstream_attempts_total{outcome=\"connect_failed\"}") >= 1.0);

    let (world, address) = front(&[dead], json!({}), vec![]).await;
    assert_eq!(get(address, "/", "").await.reason(), "upstream_connect");
    assert_eq!(world.metric("selvage_upstream_attempts_total{outcome=\"connect_failed\"}"), 2.0);
    let (world, address) = front(&[dead], json!({ "retry": { "attempts": 0 } }), vec![]).await;
    assert_eq!(get(address, "/", "").await.status, 502);
    assert_eq!(world.metric("selvage_upstream_attempts_total{outcome=\"connect_failed\"}"), 1.0);
}

#[tokio::test]
async fn a_broken_off_attempt_is_repeated_only_where_that_is_safe() {
    let breaks = || Backend::start(|number, _| if number == 0 { Reply::Close } else { ok("second") });
    let retry = json!({ "retry": { "attempts": 1 } });
    for (rule, request, expected, attempts) in [
        (retry.clone(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_string(), 200, 2),
        (retry.clone(), post("x"), 502, 1),
        (json!({}), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_string(), 502, 1),
    ] {
        let backend = breaks().await;
        let (_world, address) = front(&[backend.address], rule, vec![]).await;
        assert_eq!((ask(address, &request).await.status, backend.count()), (expected, attempts), "{request}");
    }
    let all = policy(
        "TrafficPolicy",
        "all",
        json!({ "kind": "Gateway", "namespace": "shop", "name": "public" }),
        json!({ "retry": { "attempts": 1, "methods": "All" } }),
    );
    let backend = breaks().await;
    let (_world, address) = front(&[backend.address], json!({}), vec![all]).await;
    assert_eq!((ask(address, post("x")).await.status, backend.count()), (200, 2), "methods: All");
    assert!(backend.requests().iter().all(|request| request.body == b"x"), "the body comes whole each time");
}

#[tokio::test]
async fn a_body_that_is_no_longer_at_hand_is_not_sent_in_part() {
    let backend = Backend::start(|_, _| status(503)).await;
    let (world, address) = front(&[backend.address], json!({ "retry": { "codes": [503], "attempts": 3 } }), vec![]).await;
    let large = post(&"x".repeat(200_000)).replace("POST", "PUT");
    assert_eq!((ask(address, large).await.status, backend.count()), (503, 1));
    assert_eq!(world.metric("selvage_retries_total{outcome=\"not_repeatable\"}"), 1.0);
    let small = post(&"x".repeat(30_000)).replace("POST", "PUT");
    assert_eq!((ask(address, small).await.status, backend.count()), (503, 5));
    assert!(backend.requests()[1..].iter().all(|request| request.body.len() == 30_000));
}

#[tokio::test]
async fn a_budget_ends_retries_and_not_requests() {
    let backend = Backend::start(|_, _| status(503)).await;
    let budget = policy(
        "TrafficPolicy",
        "budget",
        json!({ "kind": "Gateway", "namespace": "shop", "name": "public" }),
        json!({ "retry": { "budget": { "percent": 0, "minPerSecond": 0 } } }),
    );
    let (world, address) = front(&[backend.address], json!({ "retry": { "codes": [503], "attempts": 3 } }), vec![budget]).await;
    for _ in 0..5 {
        assert_eq!(get(address, "/", "").await.status, 503);
    }
    assert_eq!(backend.count(), 5);
    assert_eq!(world.metric("selvage_retries_total{outcome=\"budget_exhausted\"}"), 5.0);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_repeated_and_all_end_with_the_deadline() {
    let backend =
        Backend::start(|number, _| if number < 2 { Reply::Slowly(vec![(Duration::from_secs(30), vec![])]) } else { ok("third") }).await;
    let rule = json!({ "backendTimeoutMs": 2000, "requestTimeoutMs": 60_000, "retry": { "attempts": 2, "backoffMs": 10 } });
    let (_world, address) = front(&[backend.address], rule, vec![]).await;
    assert_eq!((get(address, "/", "").await.body.as_str(), backend.count()), ("third", 3));

    let backend = Backend::start(|_, _| Reply::Slowly(vec![(Duration::from_secs(30), vec![])])).await;
    let rule = json!({ "backendTimeoutMs": 300, "requestTimeoutMs": 2000, "retry": { "attempts": 100, "backoffMs": 10 } });
    let (_world, address) = front(&[backend.address], rule, vec![]).await;
    let began = Instant::now();
    assert_eq!(get(address, "/", "").await.status, 504);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!((1..=7).contains(&backend.count()), "{}", backend.count());
}

#[tokio::test]
async fn a_stranger_cannot_take_the_retries_away() {
    let backend = Backend::start(|_, _| status(503)).await;
    let (_world, address) = front(&[backend.address], json!({ "retry": { "codes": [503], "attempts": 1 } }), vec![]).await;
    assert_eq!(get(address, "/", "selvage-attempt: 1\r\n").await.status, 503);
    assert_eq!(backend.count(), 2);
}

/// An h2c server that refuses the first stream and answers the others; it counts them all.
async fn refusing() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, streams) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = streams.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = counter.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if counter.fetch_add(1, Ordering::SeqCst) == 0 {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                }
            });
        }
    });
    (address, streams)
}

#[tokio::test]
async fn a_refused_stream_is_repeated_whatever_the_method() {
    let (backend, streams) = refusing().await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
    resources.extend(service("app", "H2c", &[backend]));
    let _world = World::start(resources).await;
    assert_eq!((ask(address, post("x")).await.status, streams.load(Ordering::SeqCst)), (200, 2));
}
