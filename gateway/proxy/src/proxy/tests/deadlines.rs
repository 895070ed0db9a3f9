//! Deadlines of the accepting half. What a client sends has arrived before it is served; from then on the clock is paused: time jumps to the
//! next timer whenever nobody can go on.

use super::*;
use crate::net::accept::{Arrival, serve};
use crate::net::closing::Closing;
use crate::net::detect::DETECT;
use crate::net::worker::{Shared, Worker};

/// A client's connection, on which `sent` has arrived, to a worker that serves this snapshot on the test's own runtime.
async fn connected(snapshot: Snapshot, sent: &[u8]) -> (TcpStream, tokio::task::JoinHandle<()>) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let bind = *snapshot.sockets.keys().next().expect("a socket");
    let shared = Shared::new(Arc::new(ArcSwap::from_pointee(snapshot)), Arc::default(), Arc::new(Memory::default()), metrics);
    crate::tls::install_default();
    let worker = Arc::new(Worker::new(Arc::new(shared), Probe::new()));
    let listener = TcpListener::bind("127.77.2.1:0").await.expect("a port");
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().expect("its address")), listener.accept());
    let (mut near, (stream, peer)) = (near.expect("connected"), far.expect("accepted"));
    near.write_all(sent).await.expect("written");
    let mut seen = vec![0; sent.len()];
    while !seen.is_empty() && stream.peek(&mut seen).await.expect("arrived") < sent.len() {}
    tokio::time::pause();
    let serving = tokio::spawn(serve(worker, Arrival { stream, peer, bind, closing: Closing::default() }));
    (near, serving)
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).to_string()
}

#[tokio::test]
async fn whoever_dawdles_is_let_go_at_the_deadline_of_its_stage() {
    let ca = Authority::new("web");
    let secure = || snapshot(vec![https("a", bind(1), None, &[ca.web(&["shop.test"])])]);
    let plain = || snapshot(vec![http("a", bind(1))]);
    let detecting = || snapshot(vec![listener("a", spec(bind(1), Protocol::Detect))]);
    let table: [(&str, Snapshot, &[u8], u64, &str); 7] = [
        ("no request line", plain(), b"", 60, ""),
        ("half a head", plain(), b"GET / HTTP/1.1\r\nHost: shop", 10, "HTTP/1.1 408 "),
        ("half a head where it is found out what is spoken", detecting(), b"GE", 13, "HTTP/1.1 408 "),
        ("idle after a request", plain(), GET, 60, "HTTP/1.1 200 "),
        ("no ClientHello", secure(), b"", 10, ""),
        ("half a ClientHello", secure(), b"\x16\x03\x01\x02\x00\x01\x00\x01", 10, ""),
        ("an idle HTTP/2 connection", plain(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 302, "\0\0"),
    ];
    for (case, snapshot, sent, seconds, answer) in table {
        let (mut stream, serving) = connected(snapshot, sent).await;
        let began = Instant::now();
        let read = read_to_end(&mut stream).await;
        assert!(read.starts_with(answer) && read.is_empty() == answer.is_empty(), "{case}: {read:?}");
        let took = began.elapsed().as_secs();
        assert!((seconds..=seconds + 1).contains(&took), "{case}: after {took} s");
        tokio::time::resume();
        timeout(PATIENCE, serving).await.expect(case).expect("no panic");
    }
}

#[tokio::test]
async fn somebody_is_reached_for_a_silent_client_of_a_detecting_listener_after_three_seconds() {
    let app = TcpListener::bind("127.77.2.2:0").await.expect("a port");
    let mut spec = spec(bind(1), Protocol::Detect);
    spec.forward = Forward::Local(app.local_addr().expect("its address"));
    let (mut stream, _serving) = connected(snapshot(vec![listener("a", spec)]), b"").await;
    let early = timeout(DETECT - Duration::from_millis(1), app.accept()).await;
    assert!(early.is_err(), "nobody is reached before");
    tokio::time::resume();
    let (mut upstream, _) = timeout(PATIENCE, app.accept()).await.expect("in time").expect("passed on");
    stream.write_all(b"\0!").await.expect("written");
    let mut read = [0; 2];
    timeout(PATIENCE, upstream.read_exact(&mut read)).await.expect("in time").expect("every byte");
    assert_eq!(&read, b"\0!");
}
