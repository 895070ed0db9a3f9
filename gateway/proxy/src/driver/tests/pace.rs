//! Request bodies that come slowly: whoever trickles is let go, whoever is merely slow is served, and streams may be silent.

use super::*;
use bytes::Bytes;
use http::Request;
use std::time::Instant;
use tokio::net::TcpStream;

/// Short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(500);
/// Long enough for whoever sends in time on a busy machine.
const LONG: Duration = Duration::from_secs(4);

async fn front(protocol: &str, backend: SocketAddr, body_grace: Duration) -> (World, SocketAddr) {
    front_for("Outside", protocol, backend, body_grace).await
}

async fn front_for(clients: &str, protocol: &str, backend: SocketAddr, body_grace: Duration) -> (World, SocketAddr) {
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({ "clients": clients })), route("all", to("app", json!({})))];
    resources.extend(service("app", protocol, &[backend]));
    (World::with(resources, Options { body_grace, body_rate: 500, ..Options::default() }).await, address)
}

/// Sends `head`, then each part after a pause; stops where the proxy has answered.
async fn trickle(address: SocketAddr, head: &str, parts: usize, part: &[u8], pause: u64) -> Answer {
    let mut client = Client::connect(address).await;
    client.send(head).await;
    for _ in 0..parts {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if client.has_come().await {
            break;
        }
        client.send(part).await;
    }
    client.answer().await.unwrap_or_default()
}

fn post(framing: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")
}

#[tokio::test]
async fn a_trickle_is_ended() {
    let backend = Backend::hello().await;
    let (world, address) = front("Http", backend.address, SHORT).await;
    let began = Instant::now();
    // A byte every 50 ms: 20 B/s.
    for (head, part) in [(post("Content-Length: 1000"), b"x".as_slice()), (post("Transfer-Encoding: chunked"), b"1\r\nx\r\n")] {
        let answer = trickle(address, &head, 400, part, 50).await;
        assert_eq!((answer.status, answer.reason().as_str()), (408, "request_timeout"), "{head}");
    }
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    // Nothing at all.
    let answer = trickle(address, &post("Content-Length: 5"), 1, b"", 1).await;
    assert_eq!((answer.status, answer.reason().as_str()), (408, "request_timeout"));
    assert_eq!(world.lines(3).await[2]["reason"], "request_timeout");
    assert_eq!(backend.count(), 0);
    // The application beside us may take its time.
    let (_own, address) = front_for("Application", "Http", backend.address, SHORT).await;
    assert_eq!(trickle(address, &post("Content-Length: 3"), 3, b"x", 500).await.status, 200);
}

#[tokio::test]
async fn a_slow_upload_is_served() {
    let backend = Backend::hello().await;
    let (_world, address) = front("Http", backend.address, LONG).await;
    // 1000 B/s for longer than the grace.
    let answer = trickle(address, &post("Content-Length: 5000"), 50, &[b'x'; 100], 100).await;
    assert_eq!((answer.status, backend.last().body.len()), (200, 5000));
    let chunked = [b"64\r\n".as_slice(), &[b'x'; 100], b"\r\n"].concat();
    let mut client = Client::connect(address).await;
    client.send(post("Transfer-Encoding: chunked")).await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(&chunked).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!((client.answer().await.unwrap().status, backend.last().body.len()), (200, 5000));
}

#[tokio::test]
async fn what_waits_for_permission_or_switches_protocols_may_be_silent() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let backend = Backend::start(move |_, request| match request.target.as_str() {
        "/ws" => Reply::Echo(head.as_bytes().to_vec()),
        _ => ok("hello"),
    })
    .await;
    let (_world, address) = front("Http", backend.address, SHORT).await;
    let mut socket = Client::connect(address).await;
    socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n").await;
    assert_eq!(socket.answer().await.unwrap().status, 101);
    let expects = "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let answer = trickle(address, expects, 1, b"body", 1200).await;
    assert_eq!(answer.status, 200);
    socket.send("ping").await;
    let mut echoed = [0; 4];
    tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut socket.stream, &mut echoed)).await.unwrap().unwrap();
    assert_eq!(&echoed, b"ping");
}

#[tokio::test]
async fn over_http2_a_declared_length_is_held_to_a_pace_and_streams_are_not() {
    let echo = grpc::Echo::start().await;
    let (world, address) = front("H2c", echo.address, SHORT).await;
    for (fields, ends) in [
        (vec![("content-length", "9")], true),
        (vec![], false),
        (vec![grpc::GRPC[0], grpc::GRPC[1]], false),
        (vec![grpc::GRPC[0], ("content-length", "9")], false),
    ] {
        let (mut client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
        let driving = tokio::spawn(connection);
        let mut request = Request::post("http://shop.example/upload");
        for (name, value) in &fields {
            request = request.header(*name, *value);
        }
        let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"four"), false).unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let sent = send.send_data(Bytes::from_static(b"other"), true);
        let answered = tokio::time::timeout(PATIENCE, async {
            let response = response.await?;
            // Where its end and more of the body come together, it is answered 408 instead of reset.
            let refused = response.status() == 408;
            let mut body = response.into_body();
            let mut read = Vec::new();
            while let Some(chunk) = body.data().await {
                read.extend_from_slice(&chunk?);
            }
            Ok::<_, h2::Error>((refused, read))
        });
        let answered = answered.await.expect("an answer or a reset");
        let ended = sent.is_err() || answered.as_ref().map_or(true, |(refused, _)| *refused);
        assert_eq!(ended, ends, "{fields:?}: {sent:?} {answered:?}");
        assert!(ends || answered.is_ok_and(|(_, read)| read == b"fourother"), "{fields:?}");
        driving.abort();
    }
    assert_eq!(world.lines(4).await.iter().filter(|line| line["reason"] == "request_timeout").count(), 1);
}
