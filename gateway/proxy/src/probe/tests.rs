use super::*;
use crate::admin::{Address, Health, Server, Serves, Status, Watched};
use crate::tls::fixtures::Authority;
use bytes::{Bytes, BytesMut};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const AT: &str = "127.0.0.1";

/// A proxy with probes and nothing else.
struct Proxy(Arc<Probes>);

impl Watched for Proxy {
    fn health(&self) -> Health {
        Health::default()
    }

    fn resources(&self) -> Vec<Arc<selvage_config::Resource>> {
        Vec::new()
    }

    fn status(&self) -> Status {
        Status::default()
    }

    fn metrics(&self) -> Vec<u8> {
        Vec::new()
    }

    fn probes(&self) -> Arc<Probes> {
        self.0.clone()
    }
}

async fn server(probes: serde_json::Value) -> Server {
    let probes = probes.to_string().parse().unwrap();
    Server::start(&format!("{AT}:0").parse().unwrap(), Serves::Health, Arc::new(Proxy(Arc::new(probes)))).await.unwrap()
}

/// Status and body of a request to the health port, as the kubelet makes it.
async fn asked(server: &Server, request: &str) -> (u16, String) {
    let Address::Tcp(address) = server.address() else { panic!("TCP") };
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: 10.1.2.3:15315\r\nUser-Agent: kube-probe/1.35\r\nX-Own: no\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_string())
}

/// Answers each request by its path; hands back what it saw.
async fn answer(mut io: impl AsyncRead + AsyncWrite + Unpin, seen: &tokio::sync::mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_string();
    let _ = seen.send(head);
    let answer = match path.as_str() {
        "/good?x=1" => "200 OK\r\n",
        "/bad" => "500 Oops\r\n",
        "/there" => "302 Found\r\nLocation: /good?x=1\r\n",
        "/wrong-way" => "302 Found\r\nLocation: /bad\r\n",
        "/away" => "307 Away\r\nLocation: http://192.0.2.1/\r\n",
        "/round" => "302 Found\r\nLocation: /round\r\n",
        "/garbage" => {
            let _ = io.write_all(b"SSH-2.0-x\r\n\r\n").await;
            return;
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            "200 OK\r\n"
        }
        _ => "404 No\r\n",
    };
    // A client that has what it wants may be gone.
    let _ = io.write_all(format!("HTTP/1.1 {answer}Content-Length: 6\r\n\r\nsecret").as_bytes()).await;
    let _ = io.shutdown().await;
}

async fn application(tls: Option<TlsAcceptor>) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind((AT, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            match &tls {
                Some(tls) => match tls.accept(tcp).await {
                    Ok(tls) => answer(tls, &send).await,
                    Err(_) => continue,
                },
                None => {
                    let send = send.clone();
                    tokio::spawn(async move { answer(tcp, &send).await });
                }
            }
        }
    });
    (port, seen)
}

/// A port that nothing listens on.
async fn silent() -> u16 {
    TcpListener::bind((AT, 0)).await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn http_probes_are_performed_as_they_are_written_and_only_the_verdict_comes_back() {
    let (port, mut seen) = application(None).await;
    let get = |path: &str| json!({ "httpGet": { "path": path, "port": port }, "periodSeconds": 3, "failureThreshold": 2 });
    let server = server(json!({
        "/probe/app/livez": { "httpGet": {
            "path": "/good?x=1", "port": port, "httpHeaders": [{ "name": "X-Custom", "value": "a" }, { "name": "Host", "value": "app.example" }] } },
        "/probe/app/readyz": get("/bad"),
        "/probe/app/startupz": get("there"),
        "/probe/side/livez": get("/wrong-way"),
        "/probe/side/readyz": get("/away"),
        "/probe/side/startupz": get("/round"),
        "/probe/third/livez": get("/slow"),
        "/probe/third/readyz": get("/garbage"),
        "/probe/third/startupz": { "httpGet": { "port": silent().await } },
    }))
    .await;
    for (path, status, word) in [
        ("/probe/app/livez", 200, "ok"),
        ("/probe/app/readyz", 503, "500"),
        ("/probe/app/startupz", 200, "ok"),
        ("/probe/side/livez", 503, "500"),
        ("/probe/side/readyz", 200, "ok"),
        ("/probe/side/startupz", 503, "redirects"),
        ("/probe/third/livez", 503, "within 1s"),
        ("/probe/third/readyz", 503, "no HTTP answer"),
        ("/probe/third/startupz", 503, "does not take connections"),
    ] {
        let (found, body) = asked(&server, &format!("GET {path}")).await;
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.contains(word) && !body.contains("secret"), "{path}: {body}");
    }
    let first = seen.recv().await.unwrap().to_lowercase();
    for line in ["get /good?x=1 http/1.1\r\n", "host: app.example\r\n", "x-custom: a\r\n", "user-agent: kube-probe/1.35\r\n"] {
        assert!(first.contains(line), "{line} is not in {first}");
    }
    assert!(!first.contains("x-own"), "{first}");
    assert_eq!(first.matches("host:").count(), 1, "{first}");
}

#[tokio::test]
async fn nothing_but_what_is_listed_is_asked_for() {
    let (port, mut seen) = application(None).await;
    let server = server(json!({ "/probe/app/livez": { "httpGet": { "path": "/good?x=1", "port": port } } })).await;
    for request in [
        "GET /probe/app/readyz",
        "GET /probe/other/livez",
        "GET /probe/",
        "GET /probe/app/livez/",
        "GET /probe/app/livez/../x",
        "GET //probe/app/livez",
        "GET /Probe/app/livez",
        "GET http://127.0.0.1:1/probe/app/readyz",
    ] {
        assert_eq!(asked(&server, request).await.0, 404, "{request}");
    }
    assert_eq!(asked(&server, "POST /probe/app/livez").await.0, 405);
    assert!(seen.try_recv().is_err(), "the application was asked");
    // What a query says is nobody's business.
    assert_eq!(asked(&server, "GET /probe/app/livez?port=1").await.0, 200);
    assert!(seen.recv().await.unwrap().starts_with("GET /good?x=1 "));
}

#[tokio::test]
async fn other_ports_do_not_answer_probes() {
    let (port, mut seen) = application(None).await;
    let probes: Probes = json!({ "/probe/app/livez": { "tcpSocket": { "port": port } } }).to_string().parse().unwrap();
    let proxy: Arc<dyn Watched> = Arc::new(Proxy(Arc::new(probes)));
    for serves in [Serves::Metrics, Serves::Admin] {
        let server = Server::start(&format!("{AT}:0").parse().unwrap(), serves, proxy.clone()).await.unwrap();
        let (status, _) = asked(&server, "GET /probe/app/livez").await;
        assert!([403, 404].contains(&status), "{serves:?}: {status}");
    }
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn tls_probes_take_any_certificate() {
    crate::tls::install_default();
    let spec = Authority::new("somebody").web(&["other.example"]);
    let certificate = Arc::new(crate::tls::certificate(&spec).unwrap());
    let config = crate::tls::serve_clients(&[certificate], false).unwrap();
    let (port, mut seen) = application(Some(TlsAcceptor::from(config))).await;
    let server = server(json!({
        "/probe/app/livez": { "httpGet": { "path": "/good?x=1", "port": port, "scheme": "HTTPS" } },
        "/probe/app/readyz": { "httpGet": { "path": "/bad", "port": port, "scheme": "HTTPS" } },
        "/probe/app/startupz": { "httpGet": { "path": "/good?x=1", "port": port } },
    }))
    .await;
    assert_eq!(asked(&server, "GET /probe/app/livez").await, (200, "ok".into()));
    assert!(seen.recv().await.unwrap().contains(&format!("host: {AT}:{port}\r\n")));
    assert_eq!(asked(&server, "GET /probe/app/readyz").await.0, 503);
    assert_eq!(asked(&server, "GET /probe/app/startupz").await.0, 503, "plain HTTP to a TLS port is no success");
}

#[tokio::test]
async fn tcp_probes_ask_whether_the_port_takes_connections() {
    let (port, _seen) = application(None).await;
    let server = server(json!({
        "/probe/app/livez": { "tcpSocket": { "port": port }, "timeoutSeconds": 2 },
        "/probe/app/readyz": { "tcpSocket": { "port": silent().await } },
    }))
    .await;
    assert_eq!(asked(&server, "GET /probe/app/livez").await, (200, "ok".into()));
    assert_eq!(asked(&server, "GET /probe/app/readyz").await.0, 503);
}

/// Answers health checks: serving for the service `good`, not serving for `bad`, a status for anything else.
async fn grpc_application() -> u16 {
    let listener = TcpListener::bind((AT, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(tcp).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let mut body = request.into_body();
                    tokio::spawn(async move {
                        let mut asked = BytesMut::new();
                        while let Some(Ok(part)) = body.data().await {
                            asked.extend_from_slice(&part);
                        }
                        let service = String::from_utf8_lossy(asked.get(7..).unwrap_or_default()).into_owned();
                        let head = http::Response::builder().header("content-type", "application/grpc");
                        let (serving, code) = match service.as_str() {
                            "" | "good" => (Some(1), "0"),
                            "bad" => (Some(2), "0"),
                            "silent" => (None, "0"),
                            _ => (None, "5"),
                        };
                        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                        if let Some(serving) = serving {
                            stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving]), false).unwrap();
                        }
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", code.parse().unwrap());
                        stream.send_trailers(trailers).unwrap();
                        Ok::<(), Infallible>(())
                    });
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn grpc_probes_speak_the_health_protocol() {
    let port = grpc_application().await;
    let (http, _seen) = application(None).await;
    let server = server(json!({
        "/probe/any/livez": { "grpc": { "port": port } },
        "/probe/good/livez": { "grpc": { "port": port, "service": "good" } },
        "/probe/bad/livez": { "grpc": { "port": port, "service": "bad" } },
        "/probe/silent/livez": { "grpc": { "port": port, "service": "silent" } },
        "/probe/unknown/livez": { "grpc": { "port": port, "service": "unknown" } },
        "/probe/other/livez": { "grpc": { "port": http } },
    }))
    .await;
    for (name, status) in [("any", 200), ("good", 200), ("bad", 503), ("silent", 503), ("unknown", 503), ("other", 503)] {
        let (found, body) = asked(&server, &format!("GET /probe/{name}/livez")).await;
        assert_eq!(found, status, "{name}: {body}");
    }
}

#[test]
fn what_cannot_be_asked_here_is_refused_by_name() {
    for (probe, word) in [
        (json!({}), "exactly one"),
        (json!({ "exec": { "command": ["true"] } }), "exactly one"),
        (json!({ "tcpSocket": { "port": 1 }, "grpc": { "port": 1 } }), "exactly one"),
        (json!({ "httpGet": { "port": "http" } }), "invalid type"),
        (json!({ "httpGet": { "port": 0 } }), "httpGet.port"),
        (json!({ "httpGet": { "port": 80, "host": "example.com" } }), "httpGet.host"),
        (json!({ "tcpSocket": { "port": 80, "host": "10.0.0.1" } }), "tcpSocket.host"),
        (json!({ "httpGet": { "port": 80, "scheme": "FTP" } }), "httpGet.scheme"),
        (json!({ "httpGet": { "port": 80, "path": "/a b" } }), "httpGet.path"),
        (json!({ "httpGet": { "port": 80, "httpHeaders": [{ "name": "a b", "value": "" }] } }), "httpGet.httpHeaders"),
        (json!({ "httpGet": { "port": 80, "httpHeaders": [{ "name": "a", "value": "b\r\nc: d" }] } }), "httpGet.httpHeaders"),
    ] {
        let text = json!({ "/probe/app/livez": probe }).to_string();
        let problem = text.parse::<Probes>().expect_err(&text).to_string();
        assert!(problem.starts_with("/probe/app/livez: ") && problem.contains(word), "{problem}");
    }
    assert!(json!({ "/other": { "tcpSocket": { "port": 1 } } }).to_string().parse::<Probes>().is_err());
    assert!("[]".parse::<Probes>().is_err());
    assert_eq!("".parse::<Probes>().unwrap(), Probes::default());
    assert_eq!(Probes::default().longest(), Duration::ZERO);
    let long: Probes = json!({ "/probe/a/livez": { "tcpSocket": { "port": 1 }, "timeoutSeconds": 4000 } }).to_string().parse().unwrap();
    assert_eq!(long.longest(), LONGEST);
}
