//! Opaque TCP: half-closes, detection, the mesh, preambles, loops.

use super::*;
use crate::snapshot::{Backend, Destination, Rule, RuleBackend};
use crate::tls::fixtures::client;
use rustls::pki_types::ServerName;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::{BackendSpec, Endpoint};
use selvage_policy::Reason;
use tokio_rustls::TlsConnector;

const MEBIBYTE: usize = 1 << 20;

/// An application that reads everything, then answers with as much of its own; speaks first if it is told to.
async fn application(at: &str, greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                let mut read = Vec::new();
                stream.read_to_end(&mut read).await?;
                stream.write_all(&read.iter().map(|byte| byte ^ 0xff).collect::<Vec<_>>()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// Sends `bytes`, ends its side, and reads to the end.
async fn exchange<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    timeout(PATIENCE, async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await?;
        Ok(read)
    })
    .await
    .expect("in time")
}

fn local(name: &str, at: Bind, protocol: Protocol, app: SocketAddr) -> Listener {
    let mut spec = spec(at, protocol);
    spec.forward = Forward::Local(app);
    listener(name, spec)
}

fn mebibyte() -> Vec<u8> {
    (0..MEBIBYTE).map(|n| (n % 251) as u8).collect()
}

fn inverted(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0xff).collect()
}

/// A caller's proxy with one destination, whose endpoints are these.
pub(super) fn outbound(at: Bind, protocol: Protocol, caller: &SpiffeId, ca: &Authority, endpoints: &[Endpoint]) -> Snapshot {
    let key = Key::new("Backend", "shop", "db#5432");
    let mut spec = spec(at, protocol);
    spec.forward = Forward::Backend(key.clone());
    spec.identity = Some(caller.clone());
    spec.clients = Clients::Application;
    let mut snapshot = snapshot(vec![listener("out", spec)]);
    let backend = Arc::new(Backend {
        key: Arc::new(key.clone()),
        spec: BackendSpec { addresses: Vec::new(), port: 5432, protocol: AppProtocol::Detect, chain: Vec::new() },
        guards: Arc::default(),
        endpoints: Arc::default(),
        retries: Arc::default(),
    });
    backend.endpoints.replace(endpoints);
    let rule = Rule {
        route: backend.key.clone(),
        name: "default".into(),
        guards: Arc::default(),
        filters: Vec::new(),
        backends: vec![RuleBackend { backend: Some(backend.clone()), weight: 1, filters: Vec::new(), settings: Arc::default() }],
    };
    snapshot.destinations.insert(key, Arc::new(Destination { backend, routes: Arc::default(), default_rule: Arc::new(rule) }));
    let mut mesh = (*snapshot.mesh).clone();
    mesh.roots = vec![ca.root()];
    snapshot.mesh = Arc::new(mesh);
    snapshot.identities.insert(caller.clone(), Arc::new(certificate(&ca.workload(caller)).expect("a leaf")));
    snapshot
}

pub(super) fn endpoint(address: SocketAddr, identity: Option<&SpiffeId>) -> Endpoint {
    Endpoint { address, workload: None, identity: identity.cloned(), draining: false, zone: None }
}

/// A port nobody uses, on an address of the test's own.
pub(super) fn free(at: &str) -> SocketAddr {
    std::net::TcpListener::bind(at).expect("a port").local_addr().expect("its address")
}

#[tokio::test]
async fn bytes_pass_both_ways_with_each_end_passed_on_alone() {
    let app = application("127.77.0.60:0", b"").await;
    let fixture = Fixture::start(snapshot(vec![local("tcp", bind(61), Protocol::Tcp, app)])).await;
    let sent = mebibyte();
    let received = exchange(&mut fixture.connect(bind(61)).await, &sent).await.expect("both ways");
    assert_eq!(received, inverted(&sent));
    let closed = &fixture.closed(1).await[0];
    assert_eq!((closed.sent, closed.received, closed.endpoint), (MEBIBYTE as u64, MEBIBYTE as u64, Some(app)));
    assert!(closed.denial.is_none() && closed.listener.name == "tcp");
}

#[tokio::test]
async fn a_protocol_where_the_server_speaks_first_passes_at_once_where_tcp_is_declared() {
    let app = application("127.77.0.62:0", b"220 ready\r\n").await;
    let fixture = Fixture::start(snapshot(vec![local("tcp", bind(63), Protocol::Tcp, app)])).await;
    let mut stream = fixture.connect(bind(63)).await;
    let mut greeting = [0; 11];
    timeout(Duration::from_secs(2), stream.read_exact(&mut greeting)).await.expect("before detection could end").expect("a greeting");
    assert_eq!(&greeting, b"220 ready\r\n");
}

#[tokio::test]
async fn where_it_is_detected_silence_and_foreign_bytes_are_opaque() {
    let app = application("127.77.0.64:0", b"220 ready\r\n").await;
    let fixture = Fixture::start(snapshot(vec![local("detect", bind(65), Protocol::Detect, app)])).await;
    let mut foreign = fixture.connect(bind(65)).await;
    let answer = exchange(&mut foreign, b"EHLO mail\r\n").await.expect("passed");
    assert_eq!(answer, [b"220 ready\r\n", inverted(b"EHLO mail\r\n").as_slice()].concat());
    let mut silent = fixture.connect(bind(65)).await;
    let mut greeting = [0; 11];
    timeout(PATIENCE, silent.read_exact(&mut greeting)).await.expect("after the deadline").expect("a greeting");
    // The application's own TLS is none of our business, whatever name it asks for.
    let mut tls = fixture.connect(bind(65)).await;
    let mut hello =
        rustls::ClientConnection::new(Arc::new(client(&[], None)), ServerName::try_from("db.test").expect("a name")).expect("one");
    let mut bytes = Vec::new();
    hello.write_tls(&mut bytes).expect("to memory");
    let answer = exchange(&mut tls, &bytes).await.expect("passed");
    assert_eq!(answer, [b"220 ready\r\n", inverted(&bytes).as_slice()].concat());
}

#[tokio::test]
async fn a_mebibyte_each_way_crosses_the_mesh_with_its_ends() {
    let ca = Authority::new("mesh");
    let (db, cart) = (id("spiffe://cluster.local/ns/shop/sa/db"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let app = application("127.77.0.66:0", b"hello ").await;
    let served = free("127.77.0.67:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Tcp, MeshMode::Strict, &db, &ca, app);
    target.spec.port = served.port();
    let target = Fixture::start(snapshot(vec![target])).await;
    let dead = free("127.77.0.68:0");
    let caller =
        Fixture::start(outbound(bind(69), Protocol::Tcp, &cart, &ca, &[endpoint(dead, Some(&db)), endpoint(served, Some(&db))])).await;
    let sent = mebibyte();
    // Twice: whichever endpoint is tried first, the dead one costs a try and no connection.
    for round in 1..=2 {
        let received = exchange(&mut caller.connect(bind(69)).await, &sent).await.expect("both ways");
        assert_eq!(received, [b"hello ", inverted(&sent).as_slice()].concat());
        let closed = &caller.closed(round).await[round - 1];
        assert_eq!((closed.endpoint, closed.sent, closed.received), (Some(served), MEBIBYTE as u64, MEBIBYTE as u64 + 6));
        assert_eq!(closed.route.as_deref(), Some(&Key::new("Backend", "shop", "db#5432")));
        assert_eq!(target.closed(round).await[round - 1].principal.as_ref(), Some(&cart));
    }
    let mut plain = target.connect(Bind::Bound(served)).await;
    let answer = exchange(&mut plain, b"let me in").await;
    assert!(answer.as_ref().map_or(true, Vec::is_empty), "plain is closed where mesh TLS is required: {answer:?}");
    assert_eq!(target.closed(3).await[2].denial.as_ref().map(|denial| denial.reason), Some(Reason::MeshRequired));
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_gets_no_byte() {
    let ca = Authority::new("mesh");
    let (db, cart, evil) = (
        id("spiffe://cluster.local/ns/shop/sa/db"),
        id("spiffe://cluster.local/ns/shop/sa/cart"),
        id("spiffe://cluster.local/ns/shop/sa/evil"),
    );
    let app = application("127.77.0.70:0", b"").await;
    let served = free("127.77.0.71:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Tcp, MeshMode::Strict, &evil, &ca, app);
    target.spec.port = served.port();
    let target = Fixture::start(snapshot(vec![target])).await;
    let caller = Fixture::start(outbound(bind(72), Protocol::Tcp, &cart, &ca, &[endpoint(served, Some(&db))])).await;
    let answer = exchange(&mut caller.connect(bind(72)).await, b"a secret").await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_empty()));
    assert_eq!(caller.closed(1).await[0].denial.as_ref().map(|denial| denial.reason), Some(Reason::UpstreamConnect));
    assert!(target.memory.0.lock().iter().all(|closed| closed.sent == 0 && closed.endpoint.is_none()));
}

#[tokio::test]
async fn a_preamble_names_a_port_of_this_workload_or_is_refused() {
    let ca = Authority::new("mesh");
    let (db, cart, other) = (
        id("spiffe://cluster.local/ns/shop/sa/db"),
        id("spiffe://cluster.local/ns/shop/sa/cart"),
        id("spiffe://cluster.local/ns/shop/sa/other"),
    );
    let (first, second) = (application("127.77.0.73:0", b"first ").await, application("127.77.0.73:0", b"second ").await);
    let at = |name: &str, bind: Bind, protocol: Protocol, owner: &SpiffeId, port: u16, app: SocketAddr| {
        let mut listener = inbound(name, bind, protocol, MeshMode::Permissive, owner, &ca, app);
        listener.spec.port = port;
        listener
    };
    let sibling = Bind::Bound(free("127.77.0.75:0"));
    let fixture = Fixture::start(snapshot(vec![
        at("first", bind(74), Protocol::Tcp, &db, 5432, first),
        at("second", sibling, Protocol::Detect, &db, 5433, second),
        at("http", bind(76), Protocol::Http, &db, 8080, first),
        at("other", bind(77), Protocol::Tcp, &other, 6379, first),
    ]))
    .await;
    let name = ServerName::try_from(db.dns_name()).expect("a name");
    let hop = client(&[crate::tls::ALPN_TCP], Some(&ca.workload(&cart)));
    type Case = (&'static str, &'static [u8], Option<&'static [u8]>);
    let table: [Case; 6] = [
        ("its own port", &[1, 0x15, 0x38], Some(b"first ")),
        ("another port of the workload", &[1, 0x15, 0x39], Some(b"second ")),
        ("a port that speaks HTTP", &[1, 0x1f, 0x90], None),
        ("a port of another workload", &[1, 0x18, 0xeb], None),
        ("a port nobody has", &[1, 0, 22], None),
        ("another version", &[2, 0x15, 0x38], None),
    ];
    for (case, preamble, expected) in table {
        let stream = fixture.connect(bind(74)).await;
        let mut tls = TlsConnector::from(Arc::new(hop.clone())).connect(name.clone(), stream).await.expect("agreed");
        let answer = exchange(&mut tls, &[preamble, b"abc"].concat()).await;
        match expected {
            Some(greeting) => assert_eq!(answer.expect(case), [greeting, inverted(b"abc").as_slice()].concat(), "{case}"),
            None => assert!(answer.is_err() || answer.is_ok_and(|answer| answer.is_empty()), "{case}"),
        }
    }
}

#[tokio::test]
async fn a_captured_connection_that_was_not_redirected_is_dropped() {
    // Below the ports that the kernel gives away, another one in each process.
    let port = 20_000 + (std::process::id() % 10_000) as u16;
    let mut spec = spec(Bind::Captured(port), Protocol::Tcp);
    spec.forward = Forward::Destination;
    let fixture = Fixture::start(snapshot(vec![listener("captured", spec)])).await;
    let mut stream = TcpStream::connect(("127.77.0.78", port)).await.expect("connected");
    assert!(exchange(&mut stream, b"round and round").await.is_ok_and(|answer| answer.is_empty()) || is_closed(&mut stream).await);
    timeout(PATIENCE, async {
        while fixture.proxy.connections() > 0 {
            sleep(LOOK).await;
        }
    })
    .await
    .expect("no loop has begun");
}

#[test]
fn unknown_destinations_never_lead_back_to_this_host() {
    let mut spec = spec(Bind::Captured(15301), Protocol::Detect);
    spec.forward = Forward::Destination;
    let own = Bind::Bound(SocketAddr::from(([10, 0, 0, 7], 8080)));
    let snapshot = snapshot(vec![listener("out", spec), http("own", own)]);
    for (address, expected) in [
        ("10.0.0.9:8080", true),
        ("[2001:db8::1]:443", true),
        ("10.0.0.7:8080", false),
        ("10.0.0.9:15301", false),
        ("127.0.0.1:80", false),
        ("[::1]:80", false),
        ("[::ffff:127.0.0.1]:80", false),
        ("0.0.0.0:80", false),
        ("224.0.0.1:80", false),
    ] {
        assert_eq!(crate::snapshot::decide::may_pass(&snapshot, address.parse().expect("an address")), expected, "{address}");
    }
}

/// An application that ends TLS itself under one name, and says it.
async fn tls_application(at: &str, name: &'static str) -> SocketAddr {
    let certificate = certificate(&Authority::new("apps").web(&[name])).expect("a certificate");
    let config = serve_clients(&[Arc::new(certificate)], false).expect("a configuration");
    let listener = TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut tls = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await?;
            tls.write_all(name.as_bytes()).await?;
            tls.shutdown().await?;
        }
        std::io::Result::Ok(())
    });
    address
}

#[tokio::test]
async fn tls_is_passed_on_by_server_name_beside_a_listener_that_ends_it() {
    use crate::snapshot::fixture::World;
    use serde_json::json;
    let (one, two) = (tls_application("127.77.0.80:0", "one.example").await, tls_application("127.77.0.81:0", "two.example").await);
    let plain = application("127.77.0.82:0", b"in plain").await;
    let at = json!({"bound": "127.77.0.83:0"});
    let pair = Authority::new("edge").web(&["ended.example"]);
    let mut world = World::default();
    world.core("Certificate/shop/edge", json!({"chain": pair.chain, "privateKey": pair.private_key.expose()}));
    world.listener("passed", json!({"bind": at, "protocol": "Passthrough"}));
    let ended = json!({"bind": at, "protocol": "Tls", "hostname": "ended.example", "certificates": ["Certificate/shop/edge"]});
    world.listener("ended", ended);
    for (name, endpoint, host, listener) in
        [("one", one, "one.example", "passed"), ("two", two, "*.two.example", "passed"), ("plain", plain, "ended.example", "ended")]
    {
        world.backend(name, json!({"protocol": "Tcp"}), json!([{"address": endpoint}]));
        let route = json!({"object": {"kind": "TLSRoute", "namespace": "shop", "name": name}, "hostnames": [host],
            "parents": [format!("Listener/shop/public#{listener}")],
            "rules": [{"backends": [{"backend": format!("Backend/shop/{name}#80"), "weight": 1}]}]});
        world.route(name, 0, route);
    }
    let fixture = Fixture::start(world.snapshot()).await;
    let bind = Bind::Bound("127.77.0.83:0".parse().expect("an address"));
    let ask = async |name: &'static str| {
        let connector = TlsConnector::from(Arc::new(client(&[], None)));
        let tcp = fixture.connect(bind).await;
        let mut tls = timeout(PATIENCE, connector.connect(ServerName::try_from(name).expect("a name"), tcp)).await.expect("in time")?;
        let mut said = Vec::new();
        if name == "ended.example" {
            tls.shutdown().await?;
        }
        timeout(PATIENCE, tls.read_to_end(&mut said)).await.expect("in time")?;
        std::io::Result::Ok(String::from_utf8_lossy(&said).to_string())
    };
    assert_eq!(ask("one.example").await.expect("served"), "one.example");
    assert_eq!(ask("a.two.example").await.expect("served"), "two.example");
    assert_eq!(ask("ended.example").await.expect("served"), "in plain");
    assert!(ask("three.example").await.is_err(), "no route has this name");
    let closed = fixture.closed(4).await;
    let listeners: Vec<&str> = closed.iter().map(|closed| closed.listener.name.as_str()).collect();
    assert_eq!(listeners, ["public#passed", "public#passed", "public#ended", "public#passed"]);
    assert_eq!(closed[3].denial.as_ref().map(|denial| denial.reason), Some(Reason::NoRoute));
    assert_eq!(closed[0].route.as_deref(), Some(&Key::new("TLSRoute", "shop", "one")));
}

#[tokio::test]
async fn a_connection_that_turns_out_opaque_late_is_held_to_what_holds_by_then() {
    let ca = Authority::new("mesh");
    let db = id("spiffe://cluster.local/ns/shop/sa/db");
    let app = application("127.77.0.84:0", b"220 ready\r\n").await;
    let listener = |mode| snapshot(vec![inbound("in", bind(85), Protocol::Detect, mode, &db, &ca, app)]);
    let fixture = Fixture::start(listener(MeshMode::Permissive)).await;
    let mut silent = fixture.connect(bind(85)).await;
    fixture.swap(listener(MeshMode::Strict)).await;
    assert!(is_closed(&mut silent).await, "the application is not heard in plain");
    let denial = fixture.closed(1).await[0].denial.clone();
    assert_eq!(denial.map(|denial| denial.reason), Some(Reason::MeshRequired));
}

/// An application that says something and then breaks off.
async fn breaking(at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"half a file").await?;
            // What it says has been read before it breaks off: a reset would take it along.
            stream.read_exact(&mut [0]).await?;
            stream.set_zero_linger()?;
        }
        std::io::Result::Ok(())
    });
    address
}

#[tokio::test]
async fn what_breaks_off_does_not_look_like_an_end() {
    let ca = Authority::new("mesh");
    let (db, cart) = (id("spiffe://cluster.local/ns/shop/sa/db"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let app = breaking("127.77.0.86:0").await;
    let served = free("127.77.0.87:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Tcp, MeshMode::Permissive, &db, &ca, app);
    target.spec.port = served.port();
    let target = Fixture::start(snapshot(vec![target])).await;
    let caller = Fixture::start(outbound(bind(88), Protocol::Tcp, &cart, &ca, &[endpoint(served, Some(&db))])).await;
    for (fixture, at) in [(&target, Bind::Bound(served)), (&caller, bind(88))] {
        let mut stream = fixture.connect(at).await;
        let mut read = [0; 11];
        timeout(PATIENCE, stream.read_exact(&mut read)).await.expect("in time").expect("what was said");
        stream.write_all(b"!").await.expect("written");
        let end = timeout(PATIENCE, stream.read(&mut read)).await.expect("in time");
        assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn open_connections_are_load() {
    let ca = Authority::new("mesh");
    let cart = id("spiffe://cluster.local/ns/shop/sa/cart");
    let endpoints = [endpoint(application("127.77.0.89:0", b"1").await, None), endpoint(application("127.77.0.90:0", b"2").await, None)];
    let caller = Fixture::start(outbound(bind(91), Protocol::Tcp, &cart, &ca, &endpoints)).await;
    let mut open = Vec::new();
    let mut by_endpoint = [0; 2];
    for _ in 0..10 {
        let mut stream = caller.connect(bind(91)).await;
        let mut who = [0];
        timeout(PATIENCE, stream.read_exact(&mut who)).await.expect("in time").expect("a greeting");
        by_endpoint[usize::from(who[0] - b'1')] += 1;
        open.push(stream);
    }
    assert!(by_endpoint.iter().all(|connections| *connections >= 3), "{by_endpoint:?}");
}

#[tokio::test]
async fn a_mesh_hop_may_begin_late_and_in_pieces_where_tcp_is_declared() {
    let ca = Authority::new("mesh");
    let (db, cart) = (id("spiffe://cluster.local/ns/shop/sa/db"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let app = application("127.77.0.92:0", b"").await;
    let fixture = Fixture::start(snapshot(vec![inbound("in", bind(93), Protocol::Tcp, MeshMode::Permissive, &db, &ca, app)])).await;
    let hop = Arc::new(client(&[crate::tls::ALPN_TCP], Some(&ca.workload(&cart))));
    let mut hello = rustls::ClientConnection::new(hop, ServerName::try_from(db.dns_name()).expect("a name")).expect("a client");
    let mut bytes = Vec::new();
    hello.write_tls(&mut bytes).expect("to memory");
    let mut stream = fixture.connect(bind(93)).await;
    // Longer than it is waited for before the application is reached.
    sleep(Duration::from_millis(600)).await;
    stream.write_all(&bytes[..4]).await.expect("written");
    sleep(Duration::from_millis(200)).await;
    stream.write_all(&bytes[4..]).await.expect("written");
    let mut answer = [0; 6];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!((answer[0], answer[5]), (22, 2), "a ServerHello");
}
