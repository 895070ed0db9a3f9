//! HTTP that is made to look like something else: it must not reach an application as opaque bytes, with fields that only proxies may set.

use super::*;
use crate::tls::fixtures::{Authority, client, id};
use futures::future::join_all;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const OWNER: &str = "spiffe://td/ns/shop/sa/app";
const CALLER: &str = "spiffe://td/ns/shop/sa/storefront";

/// An application that keeps what it reads, greets if it is one that speaks first, and answers each read with HTTP.
async fn application(greeting: &'static [u8]) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, read) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let kept = read.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                stream.write_all(greeting).await?;
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await? > 0 {
                    kept.lock().append(&mut bytes);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, read)
}

/// The application's sidecar, which finds out what is spoken and lets in whoever has this address, and the proxy of a caller that takes everything
/// for opaque.
async fn sidecars(app: SocketAddr) -> (World, Authority, SocketAddr, SocketAddr) {
    let (sidecar, outbound, ca) = (free_address(), free_address(), Authority::new("mesh"));
    let leaf = |identity: &str| {
        let leaf = ca.workload(&id(identity));
        let spec = json!({ "chain": leaf.chain, "privateKey": leaf.private_key.expose() });
        json!({ "key": format!("Certificate/shop/identity:{}", id(identity).account()), "spec": spec })
    };
    let workload = json!({ "kind": "Workload", "namespace": "shop", "name": "app-1" });
    let inbound = json!({
        "bind": { "bound": sidecar }, "port": sidecar.port(), "protocol": "Detect", "clients": "Fellows", "forward": { "local": app },
        "mesh": "Permissive", "chain": [workload], "identity": OWNER,
    });
    let calls = json!({
        "bind": { "bound": outbound }, "port": 80, "protocol": "Tcp", "clients": "Application",
        "forward": { "backend": "Backend/shop/app#80" }, "identity": CALLER,
    });
    let rules = json!([{ "name": "in", "action": "Allow", "from": [{ "ipBlocks": ["127.0.0.0/8"] }] }]);
    let mut resources = vec![
        json!({ "key": "Mesh/default", "spec": { "trustDomain": "td", "roots": [ca.root()] } }),
        json!({ "key": "Listener/shop/app-1#in", "spec": inbound }),
        json!({ "key": "Listener/shop/storefront-1#out", "spec": calls }),
        policy("AuthorizationPolicy", "in", workload, json!({ "rules": rules })),
        leaf(OWNER),
        leaf(CALLER),
    ];
    resources.extend(service_of("app", "Tcp", json!([{ "address": sidecar, "identity": OWNER }])));
    (World::start(resources).await, ca, sidecar, outbound)
}

#[tokio::test]
async fn http_never_passes_for_opaque_bytes() {
    let (app, read) = application(b"").await;
    let (_world, _ca, sidecar, outbound) = sidecars(app).await;
    // Longer than it is waited for what is spoken.
    let pause = crate::net::detect::DETECT + Duration::from_millis(500);
    let request = |line: &str| format!("{line}\r\nHost: a\r\nselvage-principal: spiffe://td/ns/shop/sa/forged\r\n\r\n");
    let good = request("GET /good HTTP/1.1");
    let mut variants: Vec<(String, String)> =
        ["\r\n\r\nGET / HTTP/1.1", "GET\t/ HTTP/1.1", " GET / HTTP/1.1", "GET / HTTP/1.12", "get  / http/1.1"]
            .iter()
            .map(|line| (String::new(), request(line)))
            .collect();
    variants.push((String::new(), request(&format!("{} / HTTP/1.1", "X".repeat(40)))));
    variants.push((String::new(), request(&format!("GET /{} HTTP/1.1", "x".repeat(20_000)))));
    variants.extend([0, 1, 2, 7].map(|cut| (good[..cut].to_string(), good[cut..].to_string())));
    variants.push(("\r\n".into(), good.clone()));
    let outcomes =
        variants.iter().flat_map(|variant| [(sidecar, variant), (outbound, variant)]).map(|(address, (first, rest))| async move {
            let mut caller = Client::connect(address).await;
            caller.send(first).await;
            if first.len() < 8 {
                tokio::time::sleep(pause).await;
            }
            caller.send(rest).await;
            (address == sidecar, first, caller.answer().await.map(|answer| answer.status))
        });
    for (plain, first, status) in join_all(outcomes).await {
        // Plain it is served as what it is, if it is good; in the mesh, where it was said to be opaque, it is not.
        let fine = if plain { matches!(status, Some(200 | 400 | 408 | 414)) } else { status.is_none() };
        assert!(fine, "{plain} {first:?}: {status:?}");
    }
    let read = String::from_utf8_lossy(&read.lock()).into_owned();
    assert!(read.contains("GET /good HTTP/1.1") && !read.contains("forged"), "{read}");
}

#[tokio::test]
async fn whoever_speaks_first_passes_the_mesh_where_it_is_found_out_what_is_spoken() {
    let (app, read) = application(b"220 ready\r\n").await;
    let (_world, ca, sidecar, outbound) = sidecars(app).await;
    let mut greeting = [0; 11];
    for address in [outbound, sidecar] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut greeting)).await.expect("in time").unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        // What follows a greeting is an answer to it, whatever it looks like.
        stream.write_all(b"USER a").await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut [0; 8])).await.expect("in time").unwrap();
    }
    // A fellow that says something at once.
    let hop = client(&[crate::tls::ALPN_TCP], Some(&ca.workload(&id(CALLER))));
    let name = ServerName::try_from(id(OWNER).dns_name()).unwrap();
    let tcp = TcpStream::connect(sidecar).await.unwrap();
    let mut tls = TlsConnector::from(Arc::new(hop)).connect(name, tcp).await.unwrap();
    let [high, low] = sidecar.port().to_be_bytes();
    tls.write_all(&[1, high, low, 0, 0, 0, 8]).await.unwrap();
    timeout(PATIENCE, tls.read_exact(&mut greeting)).await.expect("in time").unwrap();
    timeout(PATIENCE, tls.read_exact(&mut [0; 8])).await.expect("in time").unwrap();
    assert_eq!(*read.lock(), b"USER aUSER a\0\0\0\x08");
}
