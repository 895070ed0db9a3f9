//! Header hygiene: what passes, what does not, and who may say what.

use super::*;

/// Fields that nobody outside and no application may set, in every spelling.
const FORGED: &str = "selvage-principal: spiffe://td/ns/a/sa/admin\r\nSelvage-User: root\r\nselvage_principal: x\r\nSELVAGE-ATTEMPT: 1\r\n\
    selvage-deadline: 1\r\nselvage-anything: x\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nx-forwarded-client-cert: x\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";

async fn with_clients(backend: &Backend, clients: &str) -> (World, SocketAddr) {
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({ "clients": clients })), route("all", to("app", json!({})))];
    resources.extend(service("app", "Http", &[backend.address]));
    (World::start(resources).await, address)
}

#[tokio::test]
async fn what_only_we_say_is_removed_from_everybody_and_said_anew() {
    let backend = Backend::hello().await;
    // A plain connection to a listener for fellows is a stranger's.
    for clients in ["Outside", "Application", "Fellows"] {
        let (_world, address) = with_clients(&backend, clients).await;
        assert_eq!(get(address, "/", FORGED).await.status, 200);
        let seen = backend.last();
        assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"), "{clients}");
        assert_eq!(seen.one("x-forwarded-proto"), Some("http"), "{clients}");
        assert_eq!(seen.one("x-forwarded-host"), Some("shop.example"), "{clients}");
        let ours = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        let left: Vec<_> = seen
            .names()
            .into_iter()
            .filter(|name| selvage_config::resource::fields::is_ours(name) && !ours.contains(&name.as_str()))
            .collect();
        assert!(left.is_empty(), "{clients}: {left:?}");
    }
}

#[tokio::test]
async fn what_ends_at_this_hop_is_not_passed_on() {
    let backend = Backend::hello().await;
    let (_world, address) = simple(&backend, json!({})).await;
    let hop = "Connection: keep-alive, x-hop\r\nx-hop: secret\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
        Trailer: x\r\nProxy-Authorization: Basic x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\nX-End: to-end\r\n";
    assert_eq!(get(address, "/", hop).await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.one("x-hop"), seen.one("x-end")), (None, Some("to-end")));
    // A nomination never takes away what we add, and never what frames or routes.
    for (nominated, status) in [
        ("x-forwarded-for, x-forwarded-proto, selvage-principal, x-request-id", 200),
        ("authorization", 200),
        ("host", 400),
        ("content-length", 400),
        ("transfer-encoding", 400),
        ("bad token", 400),
        ("a,b,c,d,e,f,g,h,i,j,k,l", 400),
    ] {
        let answer = get(address, "/", &format!("Connection: {nominated}\r\nAuthorization: x\r\n")).await;
        assert_eq!(answer.status, status, "{nominated}");
        if status == 200 {
            let seen = backend.last();
            assert_eq!(seen.one("x-forwarded-for"), Some("127.0.0.1"), "{nominated}");
            assert!(seen.one("x-request-id").is_some() && seen.one("traceparent").is_some(), "{nominated}");
        }
    }
}

#[tokio::test]
async fn a_response_loses_what_ends_at_this_hop_and_what_is_ours() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, x-hop\r\nx-hop: 1\r\nKeep-Alive: timeout=1\r\nTrailer: x\r\n\
        Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nselvage-origin: proxy\r\nselvage-anything: x\r\nX-End: to-end\r\n\r\nok";
    let backend = Backend::start(move |_, _| Reply::Bytes(head.as_bytes().to_vec())).await;
    let (_world, address) = simple(&backend, json!({})).await;
    let answer = get(address, "/", "").await;
    assert_eq!((answer.status, answer.one("x-end")), (200, Some("to-end")));
    for name in ["x-hop", "keep-alive", "trailer", "proxy-authenticate", "upgrade", "selvage-origin", "selvage-anything"] {
        assert_eq!(answer.one(name), None, "{name}");
    }
}

#[tokio::test]
async fn one_request_id_and_one_trace() {
    let backend = Backend::hello().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (clients, id_kept) in [("Outside", false), ("Application", true)] {
        let (world, address) = with_clients(&backend, clients).await;
        get(address, "/", &format!("x-request-id: mine\r\ntraceparent: {trace}\r\ntracestate: a=b\r\n")).await;
        let seen = backend.last();
        assert_eq!(seen.one("x-request-id") == Some("mine"), id_kept, "{clients}");
        assert_eq!((seen.one("traceparent"), seen.one("tracestate")), (Some(trace), Some("a=b")), "{clients}");
        get(address, "/", "traceparent: broken\r\ntracestate: a=b\r\n").await;
        let made = backend.last();
        assert!(made.one("traceparent").is_some_and(|parent| parent.len() == 55) && made.one("tracestate").is_none());
        let line = &world.lines(2).await[1];
        assert_eq!(line["request_id"].as_str(), made.one("x-request-id"));
        assert_eq!(line["trace_id"].as_str(), made.one("traceparent").map(|parent| &parent[3..35]));
    }
}

#[tokio::test]
async fn filters_change_headers_both_ways() {
    let backend =
        Backend::start(|_, _| Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Old: 1\r\nX-Gone: 1\r\n\r\nok".to_vec())).await;
    let rule = json!({
        "filters": [
            { "requestHeaders": { "set": [["x-set", "new"]], "add": [["x-add", "two"]], "remove": ["x-gone"] } },
            { "responseHeaders": { "set": [["x-old", "2"]], "add": [["x-new", "3"]], "remove": ["x-gone"] } },
        ],
        "backends": [{
            "backend": "Backend/shop/app#80", "weight": 1, "filters": [{ "requestHeaders": { "set": [["x-set", "newer"]] } }],
        }],
    });
    let (_world, address) = simple(&backend, rule).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-Set: old\r\nX-Add: one\r\nX-Gone: 1\r\n\r\nhello";
    let answer = ask(address, request).await;
    let seen = backend.last();
    assert_eq!((seen.all("x-set"), seen.all("x-add"), seen.all("x-gone")), (vec!["newer"], vec!["one", "two"], vec![]));
    assert_eq!((seen.one("content-length"), seen.body.as_slice()), (Some("5"), b"hello".as_slice()));
    assert_eq!((answer.one("x-old"), answer.one("x-new"), answer.one("x-gone"), answer.body.as_str()), (Some("2"), Some("3"), None, "ok"));
}

#[tokio::test]
async fn an_interim_response_loses_what_ends_at_this_hop_and_a_repeated_length_is_said_once() {
    let both = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nx-hop: 1\r\nKeep-Alive: timeout=1\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok";
    let backend = Backend::start(move |_, _| Reply::Bytes(both.as_bytes().to_vec())).await;
    let (_world, address) = simple(&backend, json!({})).await;
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hints = client.answer().await.unwrap();
    assert_eq!((hints.status, hints.one("link"), hints.one("x-hop"), hints.one("keep-alive")), (103, Some("</a>"), None, None));
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.one("content-length"), answer.body.as_str()), (200, Some("2"), "ok"));
}
