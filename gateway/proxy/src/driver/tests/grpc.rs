//! HTTP/2 and gRPC: trailers end to end, refusals as gRPC callers understand them, deadlines.

use super::*;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a caller got: head, body, trailers; or why the stream broke off.
pub(super) struct Called {
    pub(super) head: Response<()>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
    broken: Option<h2::Error>,
}

/// An h2c echo that ends with `grpc-status: 0`, waits on `/slow`, and keeps what it was asked.
pub(super) struct Echo {
    pub(super) address: SocketAddr,
    pub(super) heads: Arc<Mutex<Vec<http::request::Parts>>>,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let kept = kept.clone();
                        tokio::spawn(async move {
                            let (head, mut body) = request.into_parts();
                            let (slow, announces) = (head.uri.path().ends_with("slow"), head.uri.path().ends_with("announced"));
                            kept.lock().push(head);
                            if slow {
                                tokio::time::sleep(Duration::from_secs(30)).await;
                            }
                            let mut response = Response::builder().header("content-type", "application/grpc");
                            if announces {
                                response = response.header("trailer", "x-trailer");
                            }
                            let response = response.body(()).unwrap();
                            let mut send = respond.send_response(response, false).unwrap();
                            while let Some(Ok(chunk)) = body.data().await {
                                let _ = body.flow_control().release_capacity(chunk.len());
                                send.send_data(chunk, false).unwrap();
                            }
                            let mut trailers = HeaderMap::new();
                            trailers.insert("grpc-status", "0".parse().unwrap());
                            trailers.insert("x-trailer", "kept".parse().unwrap());
                            let _ = send.send_trailers(trailers);
                        });
                    }
                });
            }
        });
        Self { address, heads, task }
    }
}

pub(super) async fn call(address: SocketAddr, path: &str, fields: &[(&str, &str)], chunks: &[&'static str]) -> Called {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut request = Request::post(format!("http://shop.example{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (response, mut send) = client.send_request(request.body(()).unwrap(), chunks.is_empty()).unwrap();
    for (number, chunk) in chunks.iter().enumerate() {
        // The proxy may have answered and reset already.
        let _ = send.send_data(Bytes::from_static(chunk.as_bytes()), number + 1 == chunks.len());
    }
    let read = async {
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut called = Called { head: Response::from_parts(head, ()), body: Vec::new(), trailers: None, broken: None };
        while let Some(chunk) = body.data().await {
            match chunk {
                Ok(chunk) => called.body.extend_from_slice(&chunk),
                Err(error) => {
                    called.broken = Some(error);
                    return called;
                }
            }
        }
        called.trailers = body.trailers().await.unwrap();
        called
    };
    let called = tokio::time::timeout(PATIENCE, read).await.expect("an answer in time");
    driving.abort();
    called
}

pub(super) const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

async fn front(echo: &Echo, protocol: &str, rule: Value) -> (World, SocketAddr) {
    let address = free_address();
    let target = json!({ "kind": "Gateway", "namespace": "shop", "name": "public" });
    let rules = json!([{ "name": "no", "action": "Deny", "to": [{ "paths": ["/private/*"] }] }]);
    let guard = policy("AuthorizationPolicy", "guard", target, json!({ "rules": rules }));
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", rule)), guard];
    resources.extend(service("app", protocol, &[echo.address]));
    (World::start(resources).await, address)
}

#[tokio::test]
async fn bodies_and_trailers_pass_end_to_end() {
    let echo = Echo::start().await;
    // Where nobody says what the backend speaks, gRPC is HTTP/2.
    for protocol in ["H2c", "Detect"] {
        let (world, address) = front(&echo, protocol, json!({})).await;
        let called = call(address, "/shop.Orders/Echo", &GRPC, &["one", "two"]).await;
        assert_eq!((called.head.status().as_u16(), called.body.as_slice()), (200, b"onetwo".as_slice()), "{protocol}");
        let trailers = called.trailers.expect("trailers");
        assert_eq!((&trailers["grpc-status"], &trailers["x-trailer"]), (&"0".parse().unwrap(), &"kept".parse().unwrap()));
        let head = echo.heads.lock().pop().unwrap();
        assert_eq!((head.uri.path(), head.uri.authority().unwrap().as_str()), ("/shop.Orders/Echo", "shop.example"));
        assert_eq!(head.headers.get("te").unwrap(), "trailers");
        assert!(!head.headers.contains_key("host") && head.headers.contains_key("x-request-id"));
        assert_eq!(world.lines(1).await[0]["protocol"], "grpc");
    }
}

#[tokio::test]
async fn a_refusal_is_one_head_with_a_grpc_status() {
    let echo = Echo::start().await;
    let (_world, address) = front(&echo, "H2c", json!({})).await;
    for chunks in [[].as_slice(), &["body"]] {
        let called = call(address, "/private/x", &GRPC, chunks).await;
        assert_eq!((called.head.status().as_u16(), called.body.len()), (200, 0));
        assert_eq!(called.head.headers()["grpc-status"], "7");
        assert!(called.head.headers()["grpc-message"].to_str().unwrap().contains("authorization_denied"));
        assert!(called.trailers.is_none(), "trailers-only is a head that ends the stream");
    }
    // gRPC-Web is plain HTTP.
    for fields in [[].as_slice(), &[("content-type", "application/grpc-web+proto")]] {
        let plain = call(address, "/private/x", fields, &[]).await;
        assert_eq!(
            (plain.head.status().as_u16(), plain.head.headers()["content-type"].to_str().unwrap()),
            (403, "application/problem+json")
        );
    }
    assert_eq!(echo.heads.lock().len(), 0);
}

#[tokio::test]
async fn grpc_to_what_speaks_http1_only_ends_with_a_status_that_says_so() {
    let backend = Backend::hello().await;
    for (protocol, status, remedy) in [("Http", "13", "appProtocol: kubernetes.io/h2c"), ("Detect", "14", "no HTTP/2, which gRPC needs")] {
        let address = free_address();
        let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
        resources.extend(service("app", protocol, &[backend.address]));
        let world = World::start(resources).await;
        let called = call(address, "/shop.Orders/Echo", &GRPC, &["one"]).await;
        assert_eq!((called.head.status().as_u16(), called.head.headers()["grpc-status"].to_str().unwrap()), (200, status), "{protocol}");
        let message = called.head.headers()["grpc-message"].to_str().unwrap();
        assert!(message.contains(remedy), "{message}");
        assert_eq!(world.lines(1).await[0]["protocol"], "grpc");
    }
}

#[tokio::test]
async fn nobody_is_told_of_trailers_that_do_not_come() {
    let announced =
        |body: &str| format!("HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{body}\r\n0\r\nx-sum: 1\r\n\r\n");
    let backend = Backend::start(move |_, _| Reply::Bytes(announced("ok").into_bytes())).await;
    let (_world, address) = simple(&backend, json!({})).await;
    // From HTTP/1.1 they are lost, to whomever.
    let answer = ask(address, "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str(), answer.one("trailer")), (200, "ok", None));
    let called = call(address, "/", &[("te", "trailers"), ("trailer", "x-own")], &["body"]).await;
    assert_eq!((called.head.status().as_u16(), called.body.as_slice()), (200, b"ok".as_slice()));
    assert!(!called.head.headers().contains_key("trailer") && called.trailers.is_none());
    let body = "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-own\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-own: 1\r\n\r\n";
    assert_eq!(ask(address, body).await.status, 200);
    assert!(backend.requests().iter().all(|request| request.one("te").is_none() && request.one("trailer").is_none()));
    // Over HTTP/2 those of the response come, those of the request do not.
    let echo = Echo::start().await;
    let (_world, address) = front(&echo, "H2c", json!({})).await;
    let called = call(address, "/announced", &[GRPC[0], GRPC[1], ("trailer", "x-own")], &["one"]).await;
    assert_eq!(
        (&called.head.headers()["trailer"], &called.trailers.unwrap()["x-trailer"]),
        (&"x-trailer".parse().unwrap(), &"kept".parse().unwrap())
    );
    let head = echo.heads.lock().pop().unwrap();
    assert!(!head.headers.contains_key("trailer") && head.headers["te"] == "trailers");
}

#[tokio::test]
async fn a_grpc_timeout_is_a_deadline_and_only_reduces() {
    let echo = Echo::start().await;
    for (rule, timeout) in
        [(json!({}), "300m"), (json!({ "requestTimeoutMs": 20_000 }), "300m"), (json!({ "requestTimeoutMs": 300 }), "20S")]
    {
        let (_world, address) = front(&echo, "H2c", rule.clone()).await;
        let began = Instant::now();
        let called = call(address, "/slow", &[GRPC[0], GRPC[1], ("grpc-timeout", timeout)], &["x"]).await;
        assert_eq!(called.head.headers()["grpc-status"], "4", "{rule} {timeout}");
        assert!((250..5000).contains(&began.elapsed().as_millis()), "{rule} {:?}", began.elapsed());
        let sent = echo.heads.lock().pop().unwrap().headers["grpc-timeout"].to_str().unwrap().to_string();
        assert!(sent.ends_with('m') && sent[..sent.len() - 1].parse::<u32>().unwrap() <= 300, "{sent}");
    }
}

#[tokio::test]
async fn http2_reaches_an_http1_backend_as_strict_http1() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    let called = call(
        address,
        "/a/../b?c",
        &[("te", "trailers"), ("trailer", "x"), ("selvage-principal", "x"), ("x_forwarded_for", "6.6.6.6")],
        &["one", "two"],
    )
    .await;
    assert_eq!((called.head.status().as_u16(), called.body.as_slice()), (200, b"hello".as_slice()));
    let seen = backend.last();
    assert_eq!((seen.target.as_str(), seen.one("host"), seen.body.as_slice()), ("/b?c", Some("shop.example"), b"onetwo".as_slice()));
    assert_eq!((seen.one("transfer-encoding"), seen.one("x-forwarded-for")), (Some("chunked"), Some("127.0.0.1")));
    for (path, status) in [("/%zz", 400), ("/a%2fb", 400), ("/x", 200)] {
        assert_eq!(call(address, path, &[], &[]).await.head.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn a_deadline_after_the_head_resets_the_stream() {
    let trickle = || {
        let mut parts = vec![(Duration::ZERO, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())];
        parts.extend((0..200).map(|_| (Duration::from_millis(50), b"1\r\nx\r\n".to_vec())));
        Reply::Slowly(parts)
    };
    let backend = Backend::start(move |_, _| trickle()).await;
    let (_world, address) = simple(&backend, json!({ "requestTimeoutMs": 400 })).await;
    let began = Instant::now();
    let called = call(address, "/", &[], &[]).await;
    assert!(called.broken.is_some_and(|error| error.is_reset()) && !called.body.is_empty());
    assert!((350..5000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_application_that_is_said_to_speak_http2_is_called_so_by_its_own_sidecar() {
    let echo = Echo::start().await;
    for (application, status) in [(json!("H2c"), 200), (json!(null), 502)] {
        let address = free_address();
        let inbound = json!({
            "bind": { "bound": address }, "port": 8080, "protocol": "Http", "clients": "Fellows", "forward": { "local": echo.address },
            "application": application,
        });
        let _world = World::start(vec![mesh_settings(), json!({ "key": "Listener/shop/app-1#in:8080", "spec": inbound })]).await;
        assert_eq!(get(address, "/plain", "").await.status, status, "{application}");
    }
}
