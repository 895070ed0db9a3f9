//! What is ambiguous is refused, and nothing ambiguous is ever sent upstream.

use super::*;
use tokio::io::AsyncWriteExt;

/// The canary: it must arrive as the only thing on its connection's turn.
const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n{body}")
}

#[tokio::test]
async fn ambiguous_framing_is_refused_and_never_sent_on() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    let refused = [
        post("Content-Length: 5, 5\r\n", "hello"),
        post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
        post("Content-Length: +5\r\n", "hello"),
        post("Content-Length: -5\r\n", "hello"),
        post("Content-Length: 0x5\r\n", "hello"),
        post("Content-Length: \r\n", "hello"),
        post("Content-Length: 5 5\r\n", "hello"),
        post("Content-Length: 99999999999999999999\r\n", "hello"),
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        post("content-length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: identity\r\n", ""),
        post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello"),
        "POST /p HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_string(),
        "GET /p HTTP/1.1\r\n\r\n".to_string(),
        "GET /p HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_string(),
        "GET /p HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_string(),
        "CONNECT shop.example:80 HTTP/1.1\r\nHost: shop.example:80\r\n\r\n".to_string(),
    ];
    for request in &refused {
        let mut client = Client::connect(address).await;
        client.send(format!("{request}{CANARY}")).await;
        let answer = client.answer().await.unwrap_or_default();
        assert!((400..500).contains(&answer.status), "{request:?} -> {answer:?}");
        assert!(client.is_closed().await, "the connection of {request:?} goes on");
    }
    assert_eq!(backend.count(), 0, "nothing was sent on");
}

#[tokio::test]
async fn plain_framing_passes_unharmed() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    let passes = [
        (post("Content-Length: 5\r\n", "hello"), "hello"),
        (post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), "hello"),
        (post("Transfer-Encoding: Chunked\r\n", "2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: lost\r\n\r\n"), "hello"),
        (post("Content-Length: 0\r\n", ""), ""),
        (post("", ""), ""),
    ];
    for (number, (request, body)) in passes.iter().enumerate() {
        assert_eq!(ask(address, request).await.status, 200, "{request:?}");
        assert_eq!(backend.count(), number + 1);
        assert_eq!(String::from_utf8_lossy(&backend.last().body), *body, "{request:?}");
    }
    let old = ask(address, "GET /old HTTP/1.0\r\n\r\n").await;
    let own = address.ip().to_string();
    assert_eq!((old.status, backend.last().one("host")), (200, Some(own.as_str())), "HTTP/1.0 needs no Host");
}

#[tokio::test]
async fn broken_chunks_reach_nobody_as_another_request() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    for body in ["5\r\nhelloXX", "x\r\n", "5\nhello\n0\n\n", "-1\r\n\r\n", "fffffffffffffffff\r\nhello", "0\r\nXX"] {
        let mut client = Client::connect(address).await;
        client.send(post("Transfer-Encoding: chunked\r\n", body) + CANARY).await;
        client.stream.shutdown().await.unwrap();
        while client.answer().await.is_some() {}
    }
    // The strict backend would have noted half a body that is followed by anything.
    assert!(backend.requests().iter().all(|request| request.target == "/p"), "{:?}", backend.requests());
    assert_eq!(get(address, "/after", "").await.status, 200);
}

#[tokio::test]
async fn malformed_hosts_and_targets_are_refused() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    let hosts = [
        "",
        "local host",
        "a,b",
        "a/evil",
        "a?x",
        "a#x",
        "[::1",
        "[::1]x",
        "a:99999",
        "a:80a",
        "a:",
        "a:0",
        "user@a",
        "a:80:80",
        "a..b",
        ".",
        "-\u{1}",
        "a\\b",
        "a%41",
        "[1.2.3.4]",
    ];
    for host in hosts {
        let answer = ask(address, format!("GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "Host: {host:?}");
    }
    let targets = [
        "admin",
        "*",
        "localhost:80",
        "/%zz",
        "/%",
        "/%0",
        "/a%00b",
        "/a%0ab",
        "/a\\b",
        "/a%5cb",
        "/a%2fb",
        "/..",
        "/a/../../b",
        "/a/..;/b",
        "/a/..;x=1/b",
        "/.%2e;/b",
        "/a\u{1}b",
        "http:/a/b",
        "http://",
        "ftp://shop.example/",
        "http://user@shop.example/",
        "http://other.example/",
        "?x",
        "http:\\\\a/b",
    ];
    for target in targets {
        let answer = ask(address, format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "target {target:?}");
    }
    assert_eq!(ask(address, "OPTIONS * HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.status, 400);
    assert_eq!(backend.count(), 0, "nothing was sent on");
}

#[tokio::test]
async fn what_is_sent_on_is_canonical() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    for (target, host, sent, sent_host) in [
        ("/a/./b/../c", "shop.example", "/a/c", "shop.example"),
        ("//a///b", "shop.example", "/a/b", "shop.example"),
        ("/%61%2D%7e", "SHOP.Example.", "/a-~", "shop.example"),
        ("/a%c3%a4?q=%2F..%2f", "shop.example:80", "/a%C3%A4?q=%2F..%2f", "shop.example:80"),
        ("/%2e%2e/a/%2e", "a", "", ""),
        ("/a?", "shop.example", "/a?", "shop.example"),
        ("http://shop.example/x/../y?z", "shop.example", "/y?z", "shop.example"),
        ("http://shop.example", "shop.example", "/", "shop.example"),
        ("http://shop.example?q", "shop.example", "/?q", "shop.example"),
        ("/a#fragment", "shop.example", "/a", "shop.example"),
        ("/a", "[::1]:8080", "/a", "[::1]:8080"),
    ] {
        let answer = ask(address, format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        if sent.is_empty() {
            assert_eq!(answer.status, 400, "{target}");
            continue;
        }
        assert_eq!(answer.status, 200, "{target} {host} {answer:?}");
        let last = backend.last();
        assert_eq!((last.target.as_str(), last.one("host")), (sent, Some(sent_host)), "{target}");
    }
}

#[tokio::test]
async fn targets_beyond_the_limit_get_414_and_other_parts_of_the_head_431() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    assert_eq!(get(address, "/", &"A: b\r\n".repeat(101)).await.status, 431);
    assert_eq!(get(address, "/", &format!("A: {}\r\n", "b".repeat(33 * 1024))).await.status, 431);
    let path = |length: usize| format!("/{}", "a".repeat(length - 1));
    for long in [path(16 * 1024), path(40 * 1024), format!("/?{}", path(20 * 1024)), format!("http://a.example{}", path(17 * 1024))] {
        let answer = get(address, &long, "").await;
        assert_eq!((answer.status, answer.reason().as_str()), (414, "target_too_long"), "{}", long.len());
        assert_eq!(answer.one("content-type"), Some("application/problem+json"));
    }
    // Over HTTP/2 the same; and on a connection that has served others, and in parts.
    for (length, status) in [(17 * 1024, 414), (15 * 1024, 200)] {
        let called = grpc::call(address, &path(length), &[], &[]).await;
        assert_eq!(called.head.status().as_u16(), status, "{length}");
    }
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /").await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    for _ in 0..17 {
        client.send("a".repeat(1024)).await;
    }
    assert_eq!(client.answer().await.unwrap().status, 414);
    let before = backend.count();
    assert_eq!(before, 2);
    assert_eq!(get(address, &path(15 * 1024), &"A: b\r\n".repeat(90)).await.status, 200);
}
