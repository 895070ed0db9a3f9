//! Edge and sidecar on one path: each thing is said, done and counted once.

use super::*;
use crate::tls::fixtures::{Authority, id};
use selvage_policy::SpiffeId;
use tokio::net::{TcpSocket, TcpStream};

const EDGE: &str = "spiffe://td/ns/shop/sa/public-selvage";
const CALLER: &str = "spiffe://td/ns/shop/sa/storefront";
const APP: &str = "spiffe://td/ns/shop/sa/app";

/// A proxy that is the edge, the caller's sidecar and the application's sidecar at once; they know each other by certificate only.
struct Path {
    world: World,
    /// Where clients from outside call.
    edge: SocketAddr,
    /// Where the caller's application calls.
    outbound: SocketAddr,
    /// Where the application's sidecar listens.
    sidecar: SocketAddr,
    /// What is in force.
    resources: Vec<Value>,
}

/// `assertors` are those whose word the application's sidecar takes.
async fn path(app: SocketAddr, rule: Value, assertors: &[&str], more: Vec<Value>) -> Path {
    let (edge, outbound, sidecar) = (free_address(), free_address(), free_address());
    let ca = Authority::new("mesh");
    let leaf = |identity: &str| {
        let identity: SpiffeId = id(identity);
        let leaf = ca.workload(&identity);
        let spec = json!({ "chain": leaf.chain, "privateKey": leaf.private_key.expose() });
        json!({ "key": format!("Certificate/shop/identity:{}", identity.account()), "spec": spec })
    };
    let workload = json!([{ "kind": "Workload", "namespace": "shop", "name": "app-1" }]);
    let inbound = json!({
        "bind": { "bound": sidecar }, "port": 8080, "protocol": "Http", "clients": "Fellows", "forward": { "local": app }, "mesh": "Strict",
        "chain": workload, "identity": APP, "assertors": assertors,
    });
    let calls = json!({
        "bind": { "bound": outbound }, "port": 80, "protocol": "Http", "clients": "Application",
        "forward": { "backend": "Backend/shop/app#80" }, "identity": CALLER,
    });
    let mut resources = vec![
        json!({ "key": "Mesh/default", "spec": { "trustDomain": "td", "roots": [ca.root()] } }),
        listener(edge, json!({ "identity": EDGE })),
        json!({ "key": "Listener/shop/app-1#in:8080", "spec": inbound }),
        json!({ "key": "Listener/shop/storefront-1#out:shop.app-80", "spec": calls }),
        route("all", to("app", rule)),
        leaf(EDGE),
        leaf(CALLER),
        leaf(APP),
    ];
    resources.extend(service_of("app", "Http", json!([{ "address": sidecar, "identity": APP }])));
    resources.extend(more);
    Path { world: World::start(resources.clone()).await, edge, outbound, sidecar, resources }
}

async fn from(client: &str, address: SocketAddr, fields: &str) -> Answer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
    let mut client = Client::on(socket.connect(address).await.unwrap());
    client.send(format!("GET /x HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n")).await;
    client.answer().await.unwrap_or_default()
}

const FORGED: &str = "selvage-principal: spiffe://td/ns/shop/sa/admin\r\nselvage-user: root\r\nx-forwarded-for: 6.6.6.6\r\n\
    x-forwarded-proto: https\r\nselvage-attempt: 7\r\n";

#[tokio::test]
async fn an_assertors_word_about_the_client_is_taken_and_nobody_elses() {
    let app = Backend::hello().await;
    for (assertors, by_edge) in [([EDGE].as_slice(), "127.0.0.77"), (&[], "127.0.0.1")] {
        let path = path(app.address, json!({}), assertors, vec![]).await;
        assert_eq!(from("127.0.0.77", path.edge, FORGED).await.status, 200);
        let seen = app.last();
        assert_eq!((seen.one("selvage-principal"), seen.one("x-forwarded-for")), (Some(EDGE), Some(by_edge)), "{assertors:?}");
        assert_eq!((seen.one("x-forwarded-proto"), seen.one("x-forwarded-host")), (Some("http"), Some("shop.example")));
        assert_eq!(from("127.0.0.78", path.outbound, FORGED).await.status, 200);
        let seen = app.last();
        assert_eq!((seen.one("selvage-principal"), seen.one("x-forwarded-for")), (Some(CALLER), Some("127.0.0.1")));
        for name in ["selvage-attempt", "selvage-deadline", "selvage-user"] {
            assert_eq!(seen.one(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn a_route_of_the_edge_gives_nobody_the_address_of_another() {
    let app = Backend::hello().await;
    let target = json!({ "kind": "Workload", "namespace": "shop", "name": "app-1" });
    let rules = json!([{ "name": "near", "action": "Allow", "from": [{ "ipBlocks": ["127.0.0.77/32"] }] }]);
    let guard = policy("AuthorizationPolicy", "near", target, json!({ "rules": rules }));
    let path = path(app.address, json!({}), &[EDGE], vec![guard]).await;
    assert_eq!(from("127.0.0.77", path.edge, "").await.status, 200);
    assert_eq!(from("127.0.0.78", path.edge, "").await.reason(), "authorization_denied");
    for name in ["X-Forwarded-For", "x_forwarded_for"] {
        let mut resources = path.resources.clone();
        let forging = route("all", to("app", json!({ "filters": [{ "requestHeaders": { "set": [[name, "127.0.0.77"]] } }] })));
        let before = resources.iter_mut().find(|resource| resource["key"] == forging["key"]).unwrap();
        *before = forging;
        let rejected = path.world.attempt(resources).await;
        assert!(rejected.iter().any(|one| one.reason.contains(name)), "{rejected:?}");
        assert_eq!(from("127.0.0.78", path.edge, "").await.reason(), "authorization_denied", "{name}");
    }
}

#[tokio::test]
async fn a_request_has_one_id_and_one_trace_on_its_whole_way() {
    let app = Backend::hello().await;
    let path = path(app.address, json!({}), &[EDGE], vec![]).await;
    assert_eq!(from("127.0.0.1", path.edge, "x-request-id: theirs\r\n").await.status, 200);
    let lines = path.world.lines(2).await;
    let seen = app.last();
    for line in &lines {
        assert_eq!(
            (line["request_id"].as_str(), line["trace_id"].as_str()),
            (seen.one("x-request-id"), seen.one("traceparent").map(|p| &p[3..35]))
        );
    }
    let by_sidecar = lines.iter().find(|line| line["listener"] == "Listener/shop/app-1#in:8080").unwrap();
    assert_eq!((by_sidecar["principal"].as_str(), by_sidecar["protocol"].as_str()), (Some(EDGE), Some("http2")), "{by_sidecar}");
}

#[tokio::test]
async fn attempts_between_two_applications_are_one_plus_retries_never_a_product() {
    let app = Backend::start(|_, _| Reply::Bytes(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n".to_vec())).await;
    // The sidecar would retry too, were it the first on the path.
    let target = json!({ "kind": "Workload", "namespace": "shop", "name": "app-1" });
    let eager = policy("TrafficPolicy", "eager", target, json!({ "retry": { "attempts": 3, "codes": [503] } }));
    let path = path(app.address, json!({ "retry": { "attempts": 2, "codes": [503] } }), &[], vec![eager]).await;
    let answer = from("127.0.0.1", path.edge, "").await;
    assert_eq!((answer.status, answer.one("selvage-origin")), (503, None));
    assert_eq!(app.count(), 3);
    assert_eq!(path.world.metric("selvage_retries_total{outcome=\"not_owner\"}"), 3.0);
}

#[tokio::test]
async fn where_nothing_reached_the_application_the_owner_tries_once_more() {
    // Any method: the sidecar says that nothing was sent.
    let path = path(free_address(), json!({}), &[], vec![]).await;
    let answer = ask(path.edge, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!((answer.status, answer.reason().as_str(), answer.one("selvage-origin")), (502, "upstream_connect", None));
    assert_eq!(path.world.metric("selvage_upstream_attempts_total{outcome=\"connect_failed\"}"), 2.0);
    let attempts: Vec<_> = path.world.lines(3).await.iter().map(|line| line["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts, [1, 1, 2], "two at the sidecar, one each; the edge made both");
}

#[tokio::test]
async fn a_request_that_may_have_reached_the_application_is_not_repeated_by_itself() {
    let app = Backend::start(|_, _| Reply::Close).await;
    let path = path(app.address, json!({}), &[], vec![]).await;
    let answer = ask(path.edge, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").await;
    assert_eq!((answer.status, answer.reason().as_str(), app.count()), (502, "upstream_reset", 1));
}

#[tokio::test]
async fn a_kept_connection_that_the_application_closes_costs_no_request_that_may_be_repeated() {
    // As when an application ends: what waits on its idle connections is read no more.
    for (request, expected, seen) in [
        ("GET /x HTTP/1.1\r\nHost: a\r\n\r\n", (200, ""), 3),
        ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", (502, "upstream_reset"), 2),
    ] {
        let app = Backend::start(|number, _| if number == 1 { Reply::Close } else { backend::ok("hello") }).await;
        let path = path(app.address, json!({}), &[], vec![]).await;
        assert_eq!(get(path.edge, "/x", "").await.status, 200);
        let answer = ask(path.edge, request).await;
        let reason = if answer.status == 200 { String::new() } else { answer.reason() };
        assert_eq!((answer.status, reason.as_str(), app.count()), (expected.0, expected.1, seen), "{request}");
    }
}

#[tokio::test]
async fn a_deadline_travels_and_only_shrinks() {
    let app = Backend::start(|_, _| Reply::Slowly(vec![(Duration::from_secs(30), vec![])])).await;
    let path = path(app.address, json!({ "requestTimeoutMs": 500 }), &[], vec![]).await;
    assert_eq!(from("127.0.0.1", path.edge, "").await.status, 504);
    // The sidecar has no time-out of its own, and yet gives up.
    let lines = path.world.lines(2).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().all(|line| line["duration_ms"].as_f64().is_some_and(|took| took < 5000.0)), "{lines:?}");
}

#[tokio::test]
async fn a_refusal_at_the_sidecar_is_the_callers_answer() {
    let app = Backend::hello().await;
    let target = json!({ "kind": "Workload", "namespace": "shop", "name": "app-1" });
    let rules = json!([{ "name": "edge-only", "action": "Allow", "from": [{ "principal": EDGE }] }]);
    let guard = policy("AuthorizationPolicy", "guard", target, json!({ "rules": rules }));
    let path = path(app.address, json!({}), &[], vec![guard]).await;
    assert_eq!(from("127.0.0.1", path.edge, "").await.status, 200);
    let refused = from("127.0.0.1", path.outbound, FORGED).await;
    assert_eq!((refused.status, refused.reason().as_str(), refused.one("selvage-origin")), (403, "authorization_denied", None));
    assert!(refused.body.contains("AuthorizationPolicy/shop/guard"), "{}", refused.body);
    let plain = get(path.sidecar, "/x", "").await;
    assert_eq!((plain.status, plain.reason().as_str()), (403, "mesh_required"), "{plain:?}");
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn a_websocket_passes_the_mesh() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    let app = Backend::start(move |_, _| Reply::Echo(head.as_bytes().to_vec())).await;
    let path = path(app.address, json!({}), &[], vec![]).await;
    let mut socket = Client::on(TcpStream::connect(path.edge).await.unwrap());
    socket.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n").await;
    assert_eq!(socket.answer().await.unwrap().status, 101);
    socket.send("through two proxies").await;
    let mut echoed = [0; 19];
    tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_exact(&mut socket.stream, &mut echoed)).await.unwrap().unwrap();
    assert_eq!(&echoed, b"through two proxies");
}

#[tokio::test]
async fn a_body_that_waits_for_permission_passes_the_mesh() {
    let app = Backend::start(|_, request| {
        assert_eq!(request.one("expect"), Some("100-continue"));
        ok("hello")
    })
    .await;
    let path = path(app.address, json!({}), &[], vec![]).await;
    let mut client = Client::connect(path.edge).await;
    client.send("PUT /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody").await;
    let mut answer = client.answer().await.unwrap();
    while answer.status == 100 {
        answer = client.answer().await.unwrap();
    }
    assert_eq!((answer.status, app.last().body.as_slice()), (200, b"body".as_slice()));
}

#[tokio::test]
async fn grpc_passes_both_hops_with_its_trailers() {
    let echo = grpc::Echo::start().await;
    let path = path(echo.address, json!({}), &[], vec![]).await;
    let called = grpc::call(path.edge, "/shop.Orders/Echo", &grpc::GRPC, &["one", "two"]).await;
    assert_eq!((called.head.status().as_u16(), called.body.as_slice()), (200, b"onetwo".as_slice()));
    assert_eq!(called.trailers.unwrap()["x-trailer"], "kept");
    assert!(!called.head.headers().contains_key("selvage-origin"));
    let head = echo.heads.lock().pop().unwrap();
    assert_eq!(head.headers["selvage-principal"], EDGE);
}
