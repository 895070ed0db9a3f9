//! Client TLS by name, and the mesh hop, over sockets.

use super::*;
use crate::tls::fixtures::client;
use rustls::pki_types::ServerName;
use selvage_config::{CertificateSpec, MeshSpec};
use selvage_policy::TrustDomain;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(super) async fn connect(
    stream: TcpStream,
    name: &str,
    alpn: &[&[u8]],
    leaf: Option<&CertificateSpec>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_string()).expect("a name");
    TlsConnector::from(Arc::new(client(alpn, leaf))).connect(name, stream).await
}

#[tokio::test]
async fn the_listener_is_chosen_by_server_name_and_unknown_names_get_an_alert() {
    let ca = Authority::new("web");
    let fixture = Fixture::start(snapshot(vec![
        https("exact", bind(40), Some("shop.test"), &[ca.web(&["shop.test"])]),
        https("wild", bind(40), Some("*.test"), &[ca.web(&["*.test"])]),
    ]))
    .await;
    for (name, expected) in [("shop.test", "exact"), ("SHOP.Test", "exact"), ("www.test", "wild")] {
        let mut stream = connect(fixture.connect(bind(40)).await, name, &[b"http/1.1"], None).await.expect(name);
        let response = ask(&mut stream, GET).await.expect("an answer");
        assert!(response.contains(&format!("Listener/shop/{expected}")), "{name}: {response}");
        assert!(response.contains(&format!("name={}", name.to_lowercase())), "{response}");
    }
    let error = connect(fixture.connect(bind(40)).await, "other.example", &[b"http/1.1"], None).await.expect_err("nobody's name");
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    assert!(ask(&mut fixture.connect(bind(40)).await, GET).await.is_err(), "plain HTTP is not answered on a TLS listener");
}

#[tokio::test]
async fn a_client_hello_in_one_byte_segments_is_understood() {
    let ca = Authority::new("web");
    let fixture = Fixture::start(snapshot(vec![https("a", bind(41), None, &[ca.web(&["shop.test"])])])).await;
    let mut hello = rustls::ClientConnection::new(Arc::new(client(&[b"h2"], None)), ServerName::try_from("shop.test").expect("a name"))
        .expect("a client");
    let mut bytes = Vec::new();
    while hello.wants_write() {
        hello.write_tls(&mut bytes).expect("to memory");
    }
    let mut stream = fixture.connect(bind(41)).await;
    stream.set_nodelay(true).expect("a socket");
    for byte in bytes {
        stream.write_all(&[byte]).await.expect("written");
        tokio::task::yield_now().await;
    }
    let mut head = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("in time").expect("an answer");
    assert_eq!((head[0], head[5]), (22, 2), "a ServerHello");
}

#[tokio::test]
async fn a_replaced_certificate_is_answered_with_at_once_and_connections_stay() {
    let ca = Authority::new("web");
    let (old, new) = (ca.web(&["shop.test"]), ca.web(&["shop.test"]));
    let fixture = Fixture::start(snapshot(vec![https("a", bind(42), None, std::slice::from_ref(&old))])).await;
    let leaf = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    let mut first = connect(fixture.connect(bind(42)).await, "shop.test", &[b"http/1.1"], None).await.expect("agreed");
    ask(&mut first, GET).await.expect("an answer");
    fixture.swap(snapshot(vec![https("a", bind(42), None, std::slice::from_ref(&new))])).await;
    let second = connect(fixture.connect(bind(42)).await, "shop.test", &[b"http/1.1"], None).await.expect("agreed");
    assert_eq!(leaf(&first), certificate(&old).expect("usable").key.cert[0]);
    assert_eq!(leaf(&second), certificate(&new).expect("usable").key.cert[0]);
    ask(&mut first, GET).await.expect("the old connection stays");
}

#[tokio::test]
async fn http2_over_tls_is_agreed_on_and_served() {
    let ca = Authority::new("web");
    let fixture = Fixture::start(snapshot(vec![https("a", bind(43), None, &[ca.web(&["shop.test"])])])).await;
    let stream = connect(fixture.connect(bind(43)).await, "shop.test", &[b"h2", b"http/1.1"], None).await.expect("agreed");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut send, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = ::http::Request::get("https://shop.test/").body(()).expect("a request");
    let (response, _) = send.send_request(request, true).expect("sent");
    let mut response = response.await.expect("an answer");
    let body = response.body_mut().data().await.expect("a body").expect("a body");
    assert!(String::from_utf8_lossy(&body).contains("name=shop.test"), "{body:?}");
}

#[tokio::test]
async fn the_mesh_hop_proves_who_calls_and_anything_else_is_refused_without_a_way_back() {
    let (ca, other) = (Authority::new("mesh"), Authority::new("mesh"));
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let app = TcpListener::bind("127.77.0.44:0").await.expect("a port");
    let local = app.local_addr().expect("its address");
    let fixture = Fixture::start(snapshot(vec![inbound("in", bind(45), Protocol::Http, MeshMode::Strict, &orders, &ca, local)])).await;
    let name = orders.dns_name();
    let mut stream = connect(fixture.connect(bind(45)).await, &name, &[b"http/1.1"], Some(&ca.workload(&cart))).await.expect("agreed");
    assert!(ask(&mut stream, GET).await.expect("an answer").contains("peer=spiffe://cluster.local/ns/shop/sa/cart"));
    for (case, leaf) in [("no certificate", None), ("another authority", Some(other.workload(&cart)))] {
        // With TLS 1.3 the client has its side done before the server looks at its certificate.
        let refused = match connect(fixture.connect(bind(45)).await, &name, &[b"http/1.1"], leaf.as_ref()).await {
            Ok(mut stream) => ask(&mut stream, GET).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{case}");
    }
    let another_name = connect(fixture.connect(bind(45)).await, "orders.test", &[b"http/1.1"], Some(&ca.workload(&cart))).await;
    assert!(another_name.is_err(), "an HTTP listener has no TLS but the mesh hop");
    assert_eq!(timeout(Duration::from_millis(50), app.accept()).await.err().map(|_| ()), Some(()), "the application saw nothing");
}

#[tokio::test]
async fn a_mesh_connection_ends_with_the_trust_that_let_it_in() {
    let (ca, other) = (Authority::new("mesh"), Authority::new("mesh"));
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://old.local/ns/shop/sa/cart"));
    let serving = |roots: &[&Authority], aliases: &[&str]| {
        let mut spec = spec(bind(46), Protocol::Http);
        spec.mesh = Some(MeshMode::Strict);
        spec.identity = Some(orders.clone());
        let aliases: Vec<TrustDomain> = aliases.iter().map(|name| name.to_string().try_into().expect("a trust domain")).collect();
        let domains = [std::slice::from_ref(orders.trust_domain()), &aliases].concat();
        let roots: Vec<String> = roots.iter().map(|ca| ca.root()).collect();
        let leaf = certificate(&ca.workload(&orders)).expect("a leaf");
        let mesh = Some(serve_mesh(&leaf, &roots, &domains).expect("a configuration"));
        let mut snapshot = snapshot(vec![Listener { mesh, ..listener("in", spec) }]);
        snapshot.mesh = Arc::new(MeshSpec {
            roots,
            trust_domain: orders.trust_domain().clone(),
            trust_domain_aliases: aliases,
            ..(*snapshot.mesh).clone()
        });
        snapshot
    };
    let fixture = Fixture::start(serving(&[&ca], &["old.local"])).await;
    for (case, after) in
        [("its root is gone", serving(&[&other], &["old.local"])), ("its trust domain is gone", serving(&[&ca, &other], &[]))]
    {
        fixture.swap(serving(&[&ca], &["old.local"])).await;
        let connect =
            async || connect(fixture.connect(bind(46)).await, &orders.dns_name(), &[b"http/1.1"], Some(&ca.workload(&cart))).await;
        let mut stream = connect().await.expect("agreed");
        ask(&mut stream, GET).await.expect("an answer");
        fixture.swap(serving(&[&other, &ca], &["older.local", "old.local"])).await;
        ask(&mut stream, GET).await.expect("what is added changes nothing");
        fixture.swap(after).await;
        assert!(is_closed(&mut stream).await, "{case}");
    }
}

#[tokio::test]
async fn a_mesh_connection_ends_with_its_certificate() {
    let ca = Authority::new("mesh");
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let nowhere = SocketAddr::from(([127, 77, 0, 47], 1));
    let options = ProxyOptions { linger: Duration::ZERO, ..ProxyOptions::default() };
    let serving = snapshot(vec![inbound("in", bind(47), Protocol::Http, MeshMode::Strict, &orders, &ca, nowhere)]);
    let fixture = Fixture::with(options, serving).await;
    let leaf = ca.workload_for(&cart, Duration::from_secs(6));
    let mut idle = connect(fixture.connect(bind(47)).await, &orders.dns_name(), &[b"http/1.1"], Some(&leaf)).await.expect("agreed");
    ask(&mut idle, GET).await.expect("an answer");
    let mut busy = connect(fixture.connect(bind(47)).await, &orders.dns_name(), &[b"http/1.1"], Some(&leaf)).await.expect("agreed");
    busy.write_all(SLOW).await.expect("written");
    assert!(is_closed(&mut idle).await, "long before it has been idle for too long");
    assert!(is_closed(&mut busy).await);
}
