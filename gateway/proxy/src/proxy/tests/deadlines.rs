//! Deadlines of the accepting half, on a paused clock: time jumps to the next timer whenever nobody can go on.

use super::*;
use crate::net::accept::{Arrival, serve};
use crate::net::closing::Closing;
use crate::net::worker::{Shared, Worker};

/// A client's connection to a worker that serves this snapshot on the test's own runtime.
async fn connected(snapshot: Snapshot) -> (TcpStream, tokio::task::JoinHandle<()>) {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let bind = *snapshot.sockets.keys().next().expect("a socket");
    let shared = Shared::new(Arc::new(ArcSwap::from_pointee(snapshot)), Arc::default(), Arc::new(Memory::default()), metrics);
    crate::tls::install_default();
    let worker = Arc::new(Worker::new(Arc::new(shared), Probe));
    let listener = TcpListener::bind("127.77.2.1:0").await.expect("a port");
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().expect("its address")), listener.accept());
    let (stream, peer) = far.expect("accepted");
    let serving = tokio::spawn(serve(worker, Arrival { stream, peer, bind, closing: Closing::default() }));
    (near.expect("connected"), serving)
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).to_string()
}

#[tokio::test(start_paused = true)]
async fn whoever_dawdles_is_let_go_at_the_deadline_of_its_stage() {
    let ca = Authority::new("web");
    let secure = || snapshot(vec![https("a", bind(1), None, &[ca.web(&["shop.test"])])]);
    let plain = || snapshot(vec![http("a", bind(1))]);
    let table: [(&str, Snapshot, &[u8], u64, &str); 6] = [
        ("no request line", plain(), b"", 60, ""),
        ("half a head", plain(), b"GET / HTTP/1.1\r\nHost: shop", 10, "HTTP/1.1 408 "),
        ("idle after a request", plain(), GET, 60, "HTTP/1.1 200 "),
        ("no ClientHello", secure(), b"", 10, ""),
        ("half a ClientHello", secure(), b"\x16\x03\x01\x02\x00\x01\x00\x01", 10, ""),
        ("an idle HTTP/2 connection", plain(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 302, "\0\0"),
    ];
    for (case, snapshot, sent, seconds, answer) in table {
        let (mut stream, serving) = connected(snapshot).await;
        stream.write_all(sent).await.expect("written");
        let began = Instant::now();
        let read = read_to_end(&mut stream).await;
        assert!(read.starts_with(answer) && read.is_empty() == answer.is_empty(), "{case}: {read:?}");
        let took = began.elapsed().as_secs();
        assert!((seconds..=seconds + 1).contains(&took), "{case}: after {took} s");
        timeout(Duration::from_secs(5), serving).await.expect(case).expect("no panic");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_of_a_detecting_listener_is_opaque_after_three_seconds() {
    let app = TcpListener::bind("127.77.2.2:0").await.expect("a port");
    let mut spec = spec(bind(1), Protocol::Detect);
    spec.forward = Forward::Local(app.local_addr().expect("its address"));
    for sent in [&b""[..], b"GE"] {
        let (mut stream, _serving) = connected(snapshot(vec![listener("a", spec.clone())])).await;
        stream.write_all(sent).await.expect("written");
        let began = Instant::now();
        let (mut upstream, _) = app.accept().await.expect("passed on");
        assert_eq!(began.elapsed().as_secs(), 3);
        stream.write_all(b"!").await.expect("written");
        let mut read = vec![0; sent.len() + 1];
        upstream.read_exact(&mut read).await.expect("every byte");
        assert_eq!(read, [sent, b"!"].concat());
    }
}
