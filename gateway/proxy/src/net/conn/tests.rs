//! Heads by tables, and the deadlines of reading one. Where no byte is awaited the clock is paused: time jumps to the next timer whenever
//! nobody can go on.

use super::*;
use crate::permit::Permits;
use selvage_config::resource::listener::Bind;
use selvage_policy::Key;
use tokio::net::{TcpListener, TcpStream};

/// A connection on loopback, the client's end first.
async fn pair() -> (TcpStream, Conn, Closing) {
    let listener = TcpListener::bind("127.77.1.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (tcp, peer) = far.expect("accepted");
    let closing = Closing::default();
    let connection = Arc::new(Connection {
        bind: Bind::Bound(address),
        listener: Arc::new(Key::new("Listener", "shop", "http")),
        peer,
        destination: address,
        tls: None,
        generation: 0,
        closing: closing.clone(),
        permits: Permits::new(Duration::ZERO),
    });
    (near.expect("connected"), Conn::plain(Raw::new(tcp), connection).expect("a connection"), closing)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_let_go_after_a_while() {
    let (_near, mut conn, closing) = pair().await;
    let began = Instant::now();
    assert_eq!(conn.head(&closing).await, Head::Ended);
    assert_eq!(began.elapsed().as_secs(), IDLE.as_secs());
}

#[tokio::test]
async fn a_head_must_end_by_its_deadline_however_busily_it_trickles() {
    let (mut near, mut conn, closing) = pair().await;
    near.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
    conn.io.get_ref().raw().tcp().peek(&mut [0]).await.expect("its first byte has arrived");
    tokio::time::pause();
    let trickle = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if near.write_all(b"x: y\r\n").await.is_err() {
                return;
            }
        }
    });
    let began = Instant::now();
    assert_eq!(conn.head(&closing).await, Head::Late);
    assert_eq!(began.elapsed().as_secs(), HEAD.as_secs());
    trickle.abort();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_at_once_when_it_is_drained() {
    let (_near, mut conn, closing) = pair().await;
    let began = Instant::now();
    let (head, ()) = tokio::join!(conn.head(&closing), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        closing.drain();
    });
    assert_eq!((head, began.elapsed().as_secs()), (Head::Ended, 5));
}

#[tokio::test]
async fn a_head_larger_than_its_bound_is_not_read_on() {
    let (mut near, mut conn, closing) = pair().await;
    let flood = tokio::spawn(async move {
        let _ = near.write_all(b"GET / HTTP/1.1\r\nx: ").await;
        while near.write_all(&[b'y'; 1024]).await.is_ok() {}
    });
    assert_eq!(conn.head(&closing).await, Head::TooLarge);
    assert!(conn.head.len() <= MAX_HEAD + READ, "{}", conn.head.len());
    flood.abort();
}

#[tokio::test]
async fn the_head_stays_to_be_read_and_the_next_one_waits_its_turn() {
    let (mut near, mut conn, closing) = pair().await;
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    near.write_all(request).await.expect("written");
    assert_eq!(conn.head(&closing).await, Head::Complete);
    let mut read = vec![0; request.len()];
    conn.read_exact(&mut read).await.expect("all of it");
    assert_eq!(read, request);
    drop(near);
    assert_eq!(conn.head(&closing).await, Head::Ended);
}

fn scan(head: &[u8]) -> (Option<Head>, Option<Head>) {
    let whole = Scan::default().look(head);
    let mut stepwise = Scan::default();
    (whole, (1..=head.len()).find_map(|n| stepwise.look(&head[..n])))
}

#[test]
fn the_end_of_a_head_is_found_however_it_arrives() {
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS));
    let too_many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
    let table: &[(&[u8], Option<Head>)] = &[
        (b"GET / HTTP/1.0\r\n\r\n", Some(Head::Complete)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Head::Complete)),
        (b"GET / HTTP/1.1\nHost: a\n\n", Some(Head::Complete)),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Head::Complete)),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
        (b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", None),
        (many.as_bytes(), Some(Head::Complete)),
        (too_many.as_bytes(), Some(Head::TooLarge)),
        (b"GET /\r\n", Some(Head::Malformed)),
        (b"\x16\x03\x01\x00\x05\x01", Some(Head::Malformed)),
        (b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n", Some(Head::Malformed)),
    ];
    for (head, expected) in table {
        let (whole, stepwise) = scan(head);
        assert_eq!(whole, *expected, "{:?}", String::from_utf8_lossy(head));
        assert_eq!(stepwise, *expected, "byte by byte: {:?}", String::from_utf8_lossy(head));
    }
}
