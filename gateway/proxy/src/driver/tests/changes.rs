//! What is under way when the configuration changes: what it would refuse now is ended, everything else lives on.

use super::*;
use crate::tls::fixtures::{Authority, id};
use bytes::Bytes;
use http::Request;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

const WS: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Two clients with addresses of their own, so that a rule can tell them apart.
const ONE: &str = "127.66.0.1";
const TWO: &str = "127.66.0.2";

fn gateway() -> Value {
    json!({ "kind": "Gateway", "namespace": "shop", "name": "public" })
}

/// Denies `client` at `target`.
fn deny(target: Value, client: &str) -> Value {
    let rules = json!([{ "name": "out", "action": "Deny", "from": [{ "ipBlocks": [client] }] }]);
    policy("AuthorizationPolicy", "late", target, json!({ "rules": rules }))
}

async fn connect(client: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(client.parse::<IpAddr>().unwrap(), 0)).unwrap();
    socket.connect(address).await.unwrap()
}

/// Whether bytes come back.
async fn echoes(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> bool {
    let mut back = [0; 4];
    let there_and_back = async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await
    };
    timeout(PATIENCE, there_and_back).await.expect("an echo or an end").is_ok() && &back == b"ping"
}

/// Whether it ends without another byte.
async fn ends(stream: &mut (impl AsyncReadExt + Unpin)) -> bool {
    matches!(timeout(PATIENCE, stream.read(&mut [0; 8])).await, Ok(Ok(0) | Err(_)))
}

async fn websocket(client: &str, address: SocketAddr) -> TcpStream {
    let mut socket = Client::on(connect(client, address).await);
    socket.send(HANDSHAKE).await;
    assert_eq!(socket.answer().await.unwrap().status, 101);
    assert!(echoes(&mut socket.stream).await);
    socket.stream
}

#[tokio::test]
async fn a_websocket_ends_when_a_rule_that_denies_it_appears_and_no_other_does() {
    let backend = Backend::start(move |_, _| Reply::Echo(WS.as_bytes().to_vec())).await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
    resources.extend(service("app", "Http", &[backend.address]));
    // At the Gateway, at the route, at the Service (whose endpoint has no proxy of its own), and for everybody by an unusable guard.
    let route_target = json!({ "kind": "HTTPRoute", "namespace": "shop", "name": "all" });
    let service_target = json!({ "kind": "Service", "namespace": "shop", "name": "app" });
    for target in [gateway(), route_target, service_target] {
        let world = World::start(resources.clone()).await;
        let (mut one, mut two) = (websocket(ONE, address).await, websocket(TWO, address).await);
        // A change that has nothing to do with them, and a guard that lets them pass.
        let elsewhere = json!({ "kind": "Service", "namespace": "shop", "name": "other" });
        world.change([resources.clone(), vec![deny(elsewhere, "127.0.0.0/8")]].concat()).await;
        world.change([resources.clone(), vec![deny(target.clone(), "192.0.2.0/24")]].concat()).await;
        assert!(echoes(&mut one).await && echoes(&mut two).await, "{target}");
        world.change([resources.clone(), vec![deny(target.clone(), ONE)]].concat()).await;
        assert!(ends(&mut one).await, "{target}");
        assert!(echoes(&mut two).await, "{target}");
        let line = world.lines(1).await.remove(0);
        assert_eq!((&line["reason"], &line["status"]), (&json!("policy_changed"), &json!(101)), "{line}");
        assert_eq!((&line["policy"], &line["policy_rule"]), (&json!("AuthorizationPolicy/shop/late"), &json!("out")), "{line}");
        assert_eq!(world.metric("selvage_denied_total{policy_kind=\"AuthorizationPolicy\",reason=\"policy_changed\"}"), 1.0);
        drop(two);
    }
}

/// What a request hears that loses its permission while `script` makes its backend answer; `body` comes after the change.
async fn refused_under_way(script: fn() -> Reply, head: &str, body: &str) -> (World, Option<Answer>) {
    let backend = Backend::start(move |_, _| script()).await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
    resources.extend(service("app", "Http", &[backend.address]));
    let world = World::start(resources.clone()).await;
    let mut one = Client::on(connect(ONE, address).await);
    one.send(head).await;
    timeout(PATIENCE, async {
        // The backend has all of it, or waits for the rest.
        while backend.connections() == 0 || body.is_empty() && backend.count() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("it is under way");
    world.change([resources, vec![deny(gateway(), ONE)]].concat()).await;
    one.send(body).await;
    let answer = one.answer().await;
    (world, answer)
}

#[tokio::test]
async fn a_request_that_waits_for_its_response_is_refused_instead() {
    let late = || Reply::Slowly(vec![(Duration::from_millis(500), b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret".to_vec())]);
    let whole = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    let in_parts = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nha";
    for (head, body) in [(whole, ""), (in_parts, "lf")] {
        let (world, answer) = refused_under_way(late, head, body).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.reason().as_str()), (403, "policy_changed"), "{answer:?}");
        assert!(answer.body.contains("AuthorizationPolicy/shop/late") && !answer.body.contains("secret"), "{}", answer.body);
        assert_eq!(world.lines(1).await[0]["reason"], "policy_changed");
    }
}

#[tokio::test]
async fn a_request_whose_response_does_not_come_is_cut() {
    let never = || Reply::Slowly(vec![(Duration::from_secs(60), vec![])]);
    let (world, answer) = refused_under_way(never, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "").await;
    assert!(answer.is_none(), "{answer:?}");
    let line = world.lines(1).await.remove(0);
    assert_eq!((&line["reason"], &line["status"]), (&json!("policy_changed"), &json!(0)), "{line}");
}

#[tokio::test]
async fn a_posture_and_a_limit_that_come_late_differ() {
    let backend = Backend::start(move |_, _| Reply::Echo(WS.as_bytes().to_vec())).await;
    let address = free_address();
    let local = json!({
        "bind": { "bound": address }, "port": 80, "protocol": "Http", "clients": "Fellows", "forward": { "local": backend.address },
        "chain": [{ "kind": "Workload", "namespace": "shop", "name": "app-1" }], "identity": "spiffe://td/ns/shop/sa/app", "posture": true,
    });
    let with = |posture: &str| {
        let mesh = json!({ "key": "Mesh/default", "spec": { "trustDomain": "td", "roots": [], "posture": posture } });
        vec![mesh, json!({ "key": "Listener/shop/app-1#in:80", "spec": local.clone() })]
    };
    let world = World::start(with("AllowAll")).await;
    let mut one = websocket(ONE, address).await;
    let workload = json!({ "kind": "Workload", "namespace": "shop", "name": "app-1" });
    let limit = json!({ "limits": [{ "name": "l", "requests": 1, "per": "24h" }] });
    let limited = policy("RateLimitPolicy", "late", workload, limit);
    world.change([with("AllowAll"), vec![limited.clone()]].concat()).await;
    assert_eq!(get(address, "/", "").await.status, 101, "uses the limit up");
    assert_eq!(get(address, "/", "").await.status, 429);
    world.change([with("AllowAll"), vec![limited]].concat()).await;
    assert!(echoes(&mut one).await, "it was counted when it began, or came before the limit");
    world.change(with("MeshOnly")).await;
    assert!(ends(&mut one).await);
}

#[tokio::test]
async fn a_grpc_stream_is_reset_and_the_others_of_its_connection_live_on() {
    let echo = grpc::Echo::start().await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({})))];
    resources.extend(service("app", "H2c", &[echo.address]));
    let world = World::start(resources.clone()).await;
    let (client, connection) = h2::client::handshake(connect(ONE, address).await).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut streams = Vec::new();
    for path in ["/shop.Orders/Watch", "/shop.Catalogue/Watch"] {
        let request = Request::post(format!("http://shop.example{path}")).header("content-type", "application/grpc").body(()).unwrap();
        let (response, mut send) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"one"), false).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        streams.push((send, body));
    }
    let rules = json!([{ "name": "no", "action": "Deny", "to": [{ "paths": ["/shop.Orders/*"] }] }]);
    world.change([resources, vec![policy("AuthorizationPolicy", "late", gateway(), json!({ "rules": rules }))]].concat()).await;
    let (_, orders) = &mut streams[0];
    let ended = timeout(PATIENCE, orders.data()).await.expect("an end").expect("an error, no regular end");
    assert!(ended.is_err_and(|error| error.is_reset()));
    let (send, catalogue) = &mut streams[1];
    send.send_data(Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(timeout(PATIENCE, catalogue.data()).await.unwrap().unwrap().unwrap(), "two");
    assert_eq!(timeout(PATIENCE, catalogue.trailers()).await.unwrap().unwrap().unwrap()["grpc-status"], "0");
    assert_eq!(world.lines(1).await[0]["reason"], "policy_changed");
    driving.abort();
}

#[tokio::test]
async fn an_opaque_connection_ends_too() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = app.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let ca = Authority::new("mesh");
    let leaf = |identity: &str| {
        let leaf = ca.workload(&id(identity));
        let spec = json!({ "chain": leaf.chain, "privateKey": leaf.private_key.expose() });
        json!({ "key": format!("Certificate/shop/identity:{}", id(identity).account()), "spec": spec })
    };
    let (outbound, sidecar) = (free_address(), free_address());
    let (caller, owner) = ("spiffe://td/ns/shop/sa/storefront", "spiffe://td/ns/shop/sa/db");
    let workload = json!({ "kind": "Workload", "namespace": "shop", "name": "db-1" });
    let calls = json!({
        "bind": { "bound": outbound }, "port": 80, "protocol": "Tcp", "clients": "Application",
        "forward": { "backend": "Backend/shop/db#80" }, "identity": caller,
    });
    let inbound = json!({
        "bind": { "bound": sidecar }, "port": sidecar.port(), "protocol": "Tcp", "clients": "Fellows", "forward": { "local": local },
        "mesh": "Strict", "chain": [workload], "identity": owner,
    });
    let mut resources = vec![
        json!({ "key": "Mesh/default", "spec": { "trustDomain": "td", "roots": [ca.root()] } }),
        json!({ "key": "Listener/shop/storefront-1#out", "spec": calls }),
        json!({ "key": "Listener/shop/db-1#in", "spec": inbound }),
        leaf(caller),
        leaf(owner),
    ];
    resources.extend(service_of("db", "Tcp", json!([{ "address": sidecar, "identity": owner }])));
    let world = World::start(resources.clone()).await;
    let mut stream = connect(ONE, outbound).await;
    assert!(echoes(&mut stream).await);
    let from = |account: &str| {
        let rules = json!([{ "name": "no", "action": "Deny", "from": [{ "serviceAccount": account }] }]);
        vec![policy("AuthorizationPolicy", "late", workload.clone(), json!({ "rules": rules }))]
    };
    world.change([resources.clone(), from("somebody")].concat()).await;
    assert!(echoes(&mut stream).await);
    world.change([resources, from("storefront")].concat()).await;
    assert!(ends(&mut stream).await);
    let lines = world.lines(2).await;
    let of = |listener: &str| lines.iter().find(|line| line["listener"] == listener).unwrap_or_else(|| panic!("{lines:?}"));
    let ended = of("Listener/shop/db-1#in");
    assert_eq!((&ended["reason"], &ended["policy"]), (&json!("policy_changed"), &json!("AuthorizationPolicy/shop/late")), "{ended}");
    assert_eq!(of("Listener/shop/storefront-1#out")["reason"], json!(null), "the caller's proxy saw it end, and ended nothing");
}

#[tokio::test]
async fn a_listener_that_leaves_a_shared_socket_takes_what_it_let_in_and_nothing_else() {
    let backend = Backend::start(move |_, _| Reply::Echo(WS.as_bytes().to_vec())).await;
    let address = free_address();
    let with = |names: &[&str]| {
        let mut resources = vec![mesh_settings()];
        for name in names {
            let mut one = listener(address, json!({ "hostname": format!("{name}.example") }));
            one["key"] = json!(format!("Listener/shop/public#{name}"));
            let mut route = route(name, to("app", json!({})));
            route["spec"]["parents"] = json!([format!("Listener/shop/public#{name}")]);
            resources.extend([one, route]);
        }
        resources.extend(service("app", "Http", &[backend.address]));
        resources
    };
    let options = ProxyOptions { linger: Duration::from_millis(300), ..ProxyOptions::default() };
    for (stays, goes) in [("a", "b"), ("b", "a")] {
        let world = World::run(with(&["a", "b"]), Options::default(), &options).await;
        let websocket = async |host: &str| {
            let mut socket = Client::connect(address).await;
            socket.send(HANDSHAKE.replace("Host: a", &format!("Host: {host}.example"))).await;
            assert_eq!(socket.answer().await.unwrap().status, 101);
            socket.stream
        };
        let (mut staying, mut going) = (websocket(stays).await, websocket(goes).await);
        world.change(with(&[stays])).await;
        assert!(ends(&mut going).await, "{goes}");
        assert_eq!(world.lines(1).await[0]["reason"], "policy_changed");
        assert!(echoes(&mut staying).await, "{stays}");
    }
}
