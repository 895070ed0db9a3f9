//! HTTP/1 and HTTP/2: requests, bounds, listeners that come and go, drains.

use super::*;
use h2::client::SendRequest;
use tokio::task::JoinHandle;

async fn http2(stream: TcpStream) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (send, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 connection");
    (send, tokio::spawn(connection))
}

fn request(path: &str) -> ::http::Request<()> {
    ::http::Request::get(format!("http://shop.test{path}")).body(()).expect("a request")
}

async fn status(send: &mut SendRequest<Bytes>, request: ::http::Request<()>) -> Result<u16, h2::Error> {
    let (response, _) = send.clone().ready().await?.send_request(request, true)?;
    let mut response = response.await?;
    while let Some(chunk) = response.body_mut().data().await {
        chunk?;
    }
    Ok(response.status().as_u16())
}

#[tokio::test]
async fn short_and_slowly_cut_requests_are_served_on_every_kind_of_listener() {
    let mut detect = spec(bind(2), Protocol::Detect);
    detect.port = 8080;
    let fixture = Fixture::start(snapshot(vec![http("http", bind(1)), listener("detect", detect)])).await;
    for at in [bind(1), bind(2)] {
        let mut stream = fixture.connect(at).await;
        let response = ask(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.expect("an answer");
        assert!(response.starts_with("HTTP/1.") && response.contains(" 200 "), "{response}");
        assert!(is_closed(&mut stream).await, "HTTP/1.0 ends with its response");
        let mut stream = fixture.connect(at).await;
        stream.set_nodelay(true).expect("a socket");
        for byte in &GET[..GET.len() - 1] {
            stream.write_all(std::slice::from_ref(byte)).await.expect("written");
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let response = ask(&mut stream, &GET[GET.len() - 1..]).await.expect("an answer");
            assert!(response.contains("read=0"), "{response}");
            stream.write_all(&GET[..GET.len() - 1]).await.expect("kept alive");
        }
    }
}

#[tokio::test]
async fn bodies_and_keep_alive_work_and_heads_are_bounded() {
    let fixture = Fixture::start(snapshot(vec![http("http", bind(3))])).await;
    let mut stream = fixture.connect(bind(3)).await;
    let body = vec![b'x'; 100_000];
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    for _ in 0..3 {
        let response = ask(&mut stream, &[head.as_bytes(), &body].concat()).await.expect("an answer");
        assert!(response.contains("read=100000"), "{response}");
    }
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
    for (bad, expected) in [(large.as_str(), "HTTP/1.1 431 "), (&many, "HTTP/1.1 431 "), ("\x16\x03\x01 no HTTP\r\n\r\n", "HTTP/1.1 400 ")]
    {
        let mut stream = fixture.connect(bind(3)).await;
        let response = ask(&mut stream, bad.as_bytes()).await.expect("an answer");
        assert!(response.starts_with(expected) && response.to_lowercase().contains("connection: close"), "{response}");
        assert!(is_closed(&mut stream).await);
    }
}

#[tokio::test]
async fn http2_is_served_by_prior_knowledge_and_its_heads_are_bounded() {
    let fixture = Fixture::start(snapshot(vec![http("http", bind(4)), listener("detect", spec(bind(5), Protocol::Detect))])).await;
    for at in [bind(4), bind(5)] {
        let (mut send, _connection) = http2(fixture.connect(at).await).await;
        assert_eq!(status(&mut send, request("/")).await.expect("an answer"), 200);
        let mut many = request("/");
        for n in 0..150 {
            many.headers_mut().append("x-many", n.into());
        }
        assert_eq!(status(&mut send, many).await.expect("an answer"), 431);
        assert_eq!(status(&mut send, request("/")).await.expect("the connection goes on"), 200);
    }
}

#[tokio::test]
async fn an_http2_connection_that_only_sends_refused_streams_is_closed() {
    let fixture = Fixture::start(snapshot(vec![http("http", bind(6))])).await;
    let (mut send, connection) = http2(fixture.connect(bind(6)).await).await;
    let mut answered = 0;
    for _ in 0..64 {
        let mut many = request("/");
        for n in 0..150 {
            many.headers_mut().append("x-many", n.into());
        }
        match status(&mut send, many).await {
            Ok(code) => assert_eq!(code, 431),
            Err(_) => break,
        }
        answered += 1;
    }
    assert!((20..=32).contains(&answered), "closed after {answered}");
    assert!(timeout(PATIENCE, connection).await.expect("in time").expect("no panic").is_err());
}

#[tokio::test]
async fn listeners_come_and_go_while_the_connections_of_others_stay() {
    let options = ProxyOptions { linger: Duration::from_millis(100), ..ProxyOptions::default() };
    let fixture = Fixture::with(options, snapshot(vec![http("a", bind(10)), http("b", bind(11))])).await;
    let (a, b) = (fixture.address(bind(10)), fixture.address(bind(11)));
    let (mut on_a, mut on_b) = (fixture.connect(bind(10)).await, fixture.connect(bind(11)).await);
    ask(&mut on_a, GET).await.expect("an answer");
    ask(&mut on_b, GET).await.expect("an answer");
    let mut busy_b = fixture.connect(bind(11)).await;
    busy_b.write_all(SLOW).await.expect("written");
    fixture.under_way(1).await;

    fixture.swap(snapshot(vec![http("a", bind(10)), http("c", bind(12))])).await;
    assert_eq!(fixture.address(bind(10)), a, "the socket is the same");
    ask(&mut on_a, GET).await.expect("its connections stay");
    assert!(ask(&mut fixture.connect(bind(12)).await, GET).await.expect("the new one serves").contains("Listener/shop/c"));
    assert!(is_closed(&mut on_b).await, "idle connections of the removed one end at once");
    assert!(TcpStream::connect(b).await.is_err(), "it accepts no more");
    // Cut off after the linger: the request would never end.
    assert!(is_closed(&mut busy_b).await);
    ask(&mut on_a, GET).await.expect("its connections stay");
}

#[tokio::test]
async fn a_request_in_flight_on_a_removed_listener_is_answered_and_told_to_close() {
    let fixture = Fixture::start(snapshot(vec![http("a", bind(13)), http("b", bind(14))])).await;
    let mut busy = fixture.connect(bind(14)).await;
    busy.write_all(SLOW).await.expect("written");
    fixture.under_way(1).await;
    fixture.swap(snapshot(vec![http("a", bind(13))])).await;
    fixture.open_gate();
    let response = answer(&mut busy).await.expect("an answer").to_lowercase();
    assert!(response.contains("connection: close"), "{response}");
    assert!(is_closed(&mut busy).await);
}

#[tokio::test]
async fn a_listener_removed_from_a_shared_socket_ends_its_own_connections_only() {
    let ca = Authority::new("web");
    let pair = |names: &[&str]| names.iter().map(|name| https(name, bind(15), Some(name), &[ca.web(&[name])])).collect::<Vec<_>>();
    let fixture = Fixture::start(snapshot(pair(&["a.test", "b.test"]))).await;
    let mut streams = Vec::new();
    for name in ["a.test", "b.test"] {
        let mut stream = super::tls::connect(fixture.connect(bind(15)).await, name, &[b"http/1.1"], None).await.expect("agreed");
        ask(&mut stream, GET).await.expect("an answer");
        streams.push(stream);
    }
    fixture.swap(snapshot(pair(&["a.test"]))).await;
    assert!(is_closed(&mut streams[1]).await);
    ask(&mut streams[0], GET).await.expect("the other stays");
}

#[tokio::test]
async fn a_socket_that_cannot_be_opened_is_reported_and_tried_again() {
    let taken = std::net::TcpListener::bind("127.77.0.20:0").expect("a port");
    let blocked = Bind::Bound(taken.local_addr().expect("its address"));
    let fixture = Fixture::start(snapshot(vec![http("a", bind(21)), http("b", blocked)])).await;
    let failure = fixture.proxy.status().borrow().failures[&blocked].clone();
    assert!(failure.contains("cannot listen on 127.77.0.20"), "{failure}");
    ask(&mut fixture.connect(bind(21)).await, GET).await.expect("the other one serves");
    drop(taken);
    let mut status = fixture.proxy.status();
    timeout(PATIENCE, status.wait_for(|status| status.bound.contains_key(&blocked) && status.failures.is_empty()))
        .await
        .expect("in time")
        .expect("alive");
    ask(&mut fixture.connect(blocked).await, GET).await.expect("it serves now");
}

#[tokio::test]
async fn connections_over_the_cap_are_closed_and_room_is_given_back() {
    let options = ProxyOptions { max_connections: 5, max_per_socket: 3, ..ProxyOptions::default() };
    let fixture = Fixture::with(options, snapshot(vec![http("a", bind(22)), http("b", bind(23))])).await;
    let mut held = Vec::new();
    for at in [bind(22), bind(22), bind(22), bind(23), bind(23)] {
        let mut stream = fixture.connect(at).await;
        ask(&mut stream, GET).await.expect("within the cap");
        held.push(stream);
    }
    assert_eq!(fixture.proxy.connections(), 5);
    assert!(ask(&mut fixture.connect(bind(22)).await, GET).await.is_err(), "over the cap of the socket");
    assert!(ask(&mut fixture.connect(bind(23)).await, GET).await.is_err(), "over the cap of the proxy");
    held.clear();
    timeout(PATIENCE, async {
        while ask(&mut fixture.connect(bind(22)).await, GET).await.is_err() {
            sleep(LOOK).await;
        }
    })
    .await
    .expect("room again");
}

#[tokio::test]
async fn a_drain_waits_for_requests_in_flight_and_ends_the_idle() {
    let fixture = Fixture::with(ProxyOptions { threads: 2, ..ProxyOptions::default() }, snapshot(vec![http("a", bind(24))])).await;
    let mut idle = fixture.connect(bind(24)).await;
    ask(&mut idle, GET).await.expect("an answer");
    let mut busy = fixture.connect(bind(24)).await;
    busy.write_all(SLOW).await.expect("written");
    let (mut send, connection) = http2(fixture.connect(bind(24)).await).await;
    let stream = tokio::spawn(async move { status(&mut send, request("/slow")).await });
    fixture.under_way(2).await;

    let ready = fixture.proxy.ready();
    let address = fixture.address(bind(24));
    let (cut, (), response, code) = tokio::join!(
        fixture.proxy.drain(PATIENCE),
        async {
            assert!(is_closed(&mut idle).await);
            assert!(!*ready.borrow());
            // The acceptor and the idle connection are told at once and end when their workers come to it.
            timeout(PATIENCE, async { while TcpStream::connect(address).await.is_ok() {} }).await.expect("it accepts no more");
            fixture.open_gate();
        },
        answer(&mut busy),
        stream,
    );
    assert_eq!(cut, 0);
    assert!(response.expect("an answer").to_lowercase().contains("connection: close"));
    assert_eq!(code.expect("no panic").expect("an answer"), 200);
    assert!(timeout(PATIENCE, connection).await.expect("GOAWAY, then the end").expect("no panic").is_ok());
    timeout(PATIENCE, fixture.proxy.join()).await.expect("the threads end");
}

#[tokio::test]
async fn a_drain_cuts_off_what_is_not_done_at_its_deadline() {
    let fixture = Fixture::start(snapshot(vec![http("a", bind(25))])).await;
    let mut busy = fixture.connect(bind(25)).await;
    busy.write_all(SLOW).await.expect("written");
    fixture.under_way(1).await;
    assert_eq!(fixture.proxy.drain(Duration::from_millis(50)).await, 1);
    assert!(is_closed(&mut busy).await);
}

#[tokio::test]
async fn whoever_does_not_read_is_cut_off_and_others_are_served() {
    let options = ProxyOptions { transfer: Duration::from_millis(500), ..ProxyOptions::default() };
    let fixture = Fixture::with(options, snapshot(vec![http("http", bind(21))])).await;
    let mut one = fixture.connect(bind(21)).await;
    one.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    // Over HTTP/2 the window of its stream is used up, that of the connection is not: others of it go on.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 20);
    let (mut send, connection) = builder.handshake::<_, Bytes>(fixture.connect(bind(21)).await).await.expect("an HTTP/2 connection");
    let driving = tokio::spawn(connection);
    let (response, _) = send.clone().ready().await.expect("ready").send_request(request("/large"), true).expect("sent");
    let mut body = response.await.expect("a head").into_body();
    let began = Instant::now();
    while fixture.proxy.connections() > 1 {
        assert_eq!(status(&mut send, request("/")).await.expect("an answer"), 200);
        sleep(LOOK).await;
        assert!(began.elapsed() < PATIENCE, "it is still there");
    }
    let mut read = 0;
    while one.read_buf(&mut Vec::with_capacity(1 << 16)).await.is_ok_and(|n| {
        read += n;
        n > 0
    }) {}
    assert!(read < LARGE, "{read}");
    let reset = async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                ended => return ended,
            }
        }
    };
    assert!(timeout(PATIENCE, reset).await.expect("an end").is_some_and(|end| end.is_err()));
    driving.abort();
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go() {
    let options = ProxyOptions { idle_h2: Duration::from_millis(100), ..ProxyOptions::default() };
    let fixture = Fixture::with(options, snapshot(vec![http("http", bind(26))])).await;
    let (mut send, connection) = http2(fixture.connect(bind(26)).await).await;
    // Whoever was told between two requests may come again; a stream that is under way keeps the connection.
    let stream = tokio::spawn(async move { status(&mut send, request("/slow")).await });
    fixture.under_way(1).await;
    sleep(Duration::from_millis(300)).await;
    fixture.open_gate();
    assert_eq!(stream.await.expect("no panic").expect("an answer"), 200);
    assert!(timeout(PATIENCE, connection).await.expect("GOAWAY, then the end").expect("no panic").is_ok());
}
