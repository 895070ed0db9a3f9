use super::*;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

#[derive(Default)]
struct Proxy {
    health: Mutex<Health>,
}

impl Watched for Proxy {
    fn health(&self) -> Health {
        self.health.lock().clone()
    }

    fn resources(&self) -> Vec<Arc<Resource>> {
        let resource = json!({
            "key": "Certificate/shop/tls", "class": "core", "version": "1",
            "spec": { "chain": "PUBLIC", "privateKey": "-----BEGIN PRIVATE KEY----- hidden" },
        });
        vec![Arc::new(serde_json::from_value(resource).unwrap())]
    }

    fn status(&self) -> Status {
        Status {
            generation: 7,
            rejected: vec![Rejected { key: "Route/shop/HTTPRoute.a".into(), version: "1".into(), reason: "no".into() }],
            listeners: vec![Listening {
                listener: "Listener/shop/public#http".into(),
                bind: "127.0.0.1:80".into(),
                error: Some("address in use".into()),
            }],
            ..Status::default()
        }
    }

    fn metrics(&self) -> Vec<u8> {
        b"selvage_config_generation 7\n".to_vec()
    }
}

async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(std::time::Duration::from_secs(30), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_string())
}

async fn get(server: &Server, host: &str, path: &str) -> (u16, String) {
    let Address::Tcp(address) = server.address() else { panic!("TCP") };
    exchange(TcpStream::connect(address).await.unwrap(), &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await
}

async fn start(serves: Serves, proxy: &Arc<Proxy>) -> Server {
    Server::start(&"127.0.0.1:0".parse().unwrap(), serves, proxy.clone()).await.unwrap()
}

#[tokio::test]
async fn each_server_shows_its_own_pages_only() {
    let proxy = Arc::new(Proxy::default());
    let table = [
        (Serves::Health, ["/healthz", "/readyz"].as_slice()),
        (Serves::Metrics, &["/metrics"]),
        (Serves::Admin, &["/healthz", "/readyz", "/metrics", "/config", "/status", "/"]),
    ];
    for (serves, pages) in table {
        let server = start(serves, &proxy).await;
        for page in ["/healthz", "/readyz", "/metrics", "/config", "/status", "/", "/other"] {
            let (status, _) = get(&server, "localhost", page).await;
            assert_eq!(status, if pages.contains(&page) { 200 } else { 404 }, "{serves:?} {page}");
        }
    }
}

#[tokio::test]
async fn readiness_says_what_is_missing_and_ends_with_draining() {
    let proxy = Arc::new(Proxy::default());
    let server = start(Serves::Health, &proxy).await;
    // The kubelet calls a pod by its address.
    assert_eq!(get(&server, "10.1.2.3:15315", "/readyz").await, (200, "ready\n".into()));
    proxy.health.lock().missing = vec!["a first configuration".into(), "the certificate of spiffe://td/ns/a/sa/b".into()];
    let (status, text) = get(&server, "x", "/readyz").await;
    assert_eq!((status, text.as_str()), (503, "missing: a first configuration, the certificate of spiffe://td/ns/a/sa/b\n"));
    *proxy.health.lock() = Health { draining: true, ..Health::default() };
    assert_eq!(get(&server, "x", "/readyz").await, (503, "draining\n".into()));
    assert_eq!(get(&server, "x", "/healthz").await.0, 200, "alive while it drains");
}

#[tokio::test]
async fn a_name_pointed_at_loopback_is_refused() {
    let server = start(Serves::Admin, &Arc::new(Proxy::default())).await;
    for (host, expected) in [
        ("localhost", 200),
        ("LOCALHOST:15390", 200),
        ("127.0.0.1:15390", 200),
        ("127.64.1.1", 200),
        ("[::1]:15390", 200),
        ("evil.example", 403),
        ("evil.example:15390", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("", 403),
        ("localhost\r\nHost: evil.example", 403),
    ] {
        assert_eq!(get(&server, host, "/config").await.0, expected, "{host}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_and_no_secret_is_shown() {
    let server = start(Serves::Admin, &Arc::new(Proxy::default())).await;
    let Address::Tcp(address) = *server.address() else { panic!("TCP") };
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let request = format!("{method} /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(exchange(TcpStream::connect(address).await.unwrap(), &request).await.0, 405, "{method}");
    }
    let (_, config) = get(&server, "localhost", "/config").await;
    assert!(config.contains("PUBLIC") && config.contains("Certificate/shop/tls"), "{config}");
    assert!(!config.contains("hidden"), "{config}");
    let (_, status) = get(&server, "localhost", "/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["generation"], 7);
    assert_eq!(status["rejected"][0]["reason"], "no");
    assert_eq!(status["listeners"][0]["error"], "address in use");
}

#[tokio::test]
async fn admin_is_for_loopback_and_unix_sockets() {
    let proxy = Arc::new(Proxy::default());
    let exposed = Server::start(&"0.0.0.0:0".parse().unwrap(), Serves::Admin, proxy.clone()).await;
    assert!(matches!(exposed, Err(AdminError::Exposed(_))));
    let folder = std::env::temp_dir().join(format!("selvage-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("admin.sock");
    let address = Address::Unix(path.clone());
    let server = Server::start(&address, Serves::Admin, proxy.clone()).await.unwrap();
    let again = Server::start(&address, Serves::Admin, proxy).await;
    assert!(again.is_ok(), "a socket that was left behind is replaced");
    let request = "GET /config HTTP/1.1\r\nHost: anything\r\n\r\n";
    assert_eq!(exchange(UnixStream::connect(&path).await.unwrap(), request).await.0, 200);
    // The first one's end leaves alone what the second put in its place.
    drop(server);
    tokio::task::yield_now().await;
    assert_eq!(exchange(UnixStream::connect(&path).await.unwrap(), request).await.0, 200);
    drop(again);
    let plain = folder.join("file");
    std::fs::write(&plain, "mine").unwrap();
    let refused = Server::start(&Address::Unix(plain.clone()), Serves::Admin, Arc::new(Proxy::default())).await;
    assert!(matches!(refused, Err(AdminError::Bind { .. })) && plain.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_from_asking() {
    let server = start(Serves::Health, &Arc::new(Proxy::default())).await;
    let Address::Tcp(address) = *server.address() else { panic!("TCP") };
    let begun = std::time::Instant::now();
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get(&server, "x", "/healthz").await.0, 200);
    // Sooner than a whole connection may take.
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "{:?}", begun.elapsed());
    // And none of them stays for long.
    let mut byte = [0];
    for mut stream in silent {
        let end = tokio::time::timeout(std::time::Duration::from_secs(30), stream.read(&mut byte)).await.expect("it is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

#[tokio::test]
async fn every_address_is_one_of_either_family() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let server = Server::start(&"[::]:0".parse().unwrap(), Serves::Health, Arc::new(Proxy::default())).await.unwrap();
    let Address::Tcp(everywhere) = *server.address() else { panic!("TCP") };
    for ip in ["127.0.0.1", "::1"] {
        let stream = TcpStream::connect((ip, everywhere.port())).await.unwrap();
        assert_eq!(exchange(stream, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").await.0, 200, "{ip}");
    }
}

#[test]
fn addresses_are_read_and_written() {
    for text in ["127.0.0.1:15390", "[::1]:1", "unix:/run/selvage/admin.sock"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for broken in ["", "unix:", "localhost:1", "127.0.0.1"] {
        assert!(broken.parse::<Address>().is_err(), "{broken}");
    }
}
