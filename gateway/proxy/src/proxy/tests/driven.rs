//! The accepting half with the driver in earnest, caller's proxy to target's proxy.

use super::opaque::{endpoint, free, outbound};
use super::*;

/// An HTTP/1.1 application that answers with the head it got, `connections` times counted.
async fn application(at: &str) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind(at).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await? > 0 {
                    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                        let head: Vec<u8> = bytes.drain(..end + 4).collect();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
                        stream.write_all(&[answer.as_bytes(), &head].concat()).await?;
                    }
                }
                std::io::Result::Ok(())
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_request_crosses_the_mesh_over_one_shared_connection_and_plain_callers_are_refused_by_reason() {
    let ca = Authority::new("mesh");
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let (app, _) = application("127.77.3.1:0").await;
    let served = free("127.77.3.2:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Http, MeshMode::Strict, &orders, &ca, app);
    target.spec.port = served.port();
    let target = Fixture::driven(snapshot(vec![target])).await;
    let caller = Fixture::driven(outbound(bind(3), Protocol::Http, &cart, &ca, &[endpoint(served, Some(&orders))])).await;
    let mut stream = caller.connect(bind(3)).await;
    for _ in 0..5 {
        let answer = ask(&mut stream, GET).await.expect("an answer").to_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(answer.contains("selvage-principal: spiffe://cluster.local/ns/shop/sa/cart"), "{answer}");
    }
    assert_eq!(target.proxy.connections(), 1, "five requests, one mesh connection");
    let refusal = ask(&mut target.connect(Bind::Bound(served)).await, GET).await.expect("an answer");
    assert!(refusal.starts_with("HTTP/1.1 403 ") && refusal.contains("\"reason\":\"mesh_required\""), "{refusal}");
}

#[tokio::test]
async fn an_endpoint_whose_identity_differs_is_not_sent_to() {
    let ca = Authority::new("mesh");
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let (app, reached) = application("127.77.3.4:0").await;
    let served = free("127.77.3.5:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Http, MeshMode::Permissive, &cart, &ca, app);
    target.spec.port = served.port();
    let _target = Fixture::driven(snapshot(vec![target])).await;
    let caller = Fixture::driven(outbound(bind(6), Protocol::Http, &cart, &ca, &[endpoint(served, Some(&orders))])).await;
    let answer = ask(&mut caller.connect(bind(6)).await, GET).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("upstream_connect"), "{answer}");
    assert_eq!(reached.load(std::sync::atomic::Ordering::Relaxed), 0, "no plaintext instead");
}

#[tokio::test]
async fn a_rotated_leaf_is_used_for_new_connections_without_a_failed_request() {
    let ca = Authority::new("mesh");
    let (orders, cart) = (id("spiffe://cluster.local/ns/shop/sa/orders"), id("spiffe://cluster.local/ns/shop/sa/cart"));
    let (app, _) = application("127.77.3.7:0").await;
    let served = free("127.77.3.8:0");
    let mut target = inbound("in", Bind::Bound(served), Protocol::Http, MeshMode::Strict, &orders, &ca, app);
    target.spec.port = served.port();
    let target = Fixture::driven(snapshot(vec![target])).await;
    let version = || outbound(bind(9), Protocol::Http, &cart, &ca, &[endpoint(served, Some(&orders))]);
    let caller = Fixture::driven(version()).await;
    let mut stream = caller.connect(bind(9)).await;
    for rotation in 1..=4 {
        for _ in 0..3 {
            let answer = ask(&mut stream, GET).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert_eq!(target.proxy.connections(), rotation, "a new leaf makes a new connection, the old one idles out");
        caller.swap(version()).await;
    }
}
