//! Handshakes in memory: by name, by identity, by generation.

use super::certificate::chain;
use super::fixtures::{Authority, client, id};
use super::*;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use selvage_config::CertificateSpec;
use selvage_config::resource::Secret;
use selvage_policy::{SpiffeId, TrustDomain};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Pair =
    (std::io::Result<tokio_rustls::client::TlsStream<DuplexStream>>, std::io::Result<tokio_rustls::server::TlsStream<DuplexStream>>);

async fn shake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Pair {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = rustls::pki_types::ServerName::try_from(name.to_string()).expect("a name");
    let (client, server) =
        tokio::join!(TlsConnector::from(client.clone()).connect(name, near), TlsAcceptor::from(server.clone()).accept(far));
    (client, server)
}

fn parsed(spec: &CertificateSpec) -> Arc<Certificate> {
    Arc::new(certificate(spec).expect("usable"))
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::try_from(name.to_string()).expect("a trust domain")
}

#[test]
fn what_cannot_be_used_is_refused_with_field_and_remedy() {
    let ca = Authority::new("web");
    let (one, other) = (ca.web(&["one.test"]), ca.web(&["other.test"]));
    let spec = |chain: &str, key: &str| CertificateSpec { chain: chain.into(), private_key: Secret::new(key.into()) };
    let truncated = one.chain.replacen("MII", "MIJ", 1);
    let table = [
        (spec("", one.private_key.expose()), "chain: no certificate"),
        (spec("nonsense", one.private_key.expose()), "chain: no certificate"),
        (spec(&truncated, one.private_key.expose()), "chain: certificate 0 is no X.509"),
        (spec(&one.chain, ""), "privateKey: no PEM private key"),
        (spec(&one.chain, other.private_key.expose()), "privateKey: it does not belong"),
        (spec(&format!("{}{}", ca.root(), one.chain), one.private_key.expose()), "put the leaf first"),
    ];
    for (spec, expected) in table {
        let error = certificate(&spec).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn names_are_lower_case_and_the_fingerprint_is_the_leafs() {
    let ca = Authority::new("web");
    let spec = ca.web(&["Shop.Example.COM", "*.example.com"]);
    let (one, again, other) = (parsed(&spec), parsed(&spec), parsed(&ca.web(&["shop.example.com"])));
    assert_eq!(one.names, ["shop.example.com", "*.example.com"]);
    assert_eq!(one.fingerprint, again.fingerprint);
    assert_ne!(one.fingerprint, other.fingerprint);
    assert!(!format!("{one:?}").contains("PRIVATE"));
}

#[tokio::test]
async fn the_certificate_is_chosen_by_exact_name_then_wildcard_then_the_first() {
    let ca = Authority::new("web");
    let certificates = [parsed(&ca.web(&["first.test"])), parsed(&ca.web(&["*.example.com"])), parsed(&ca.web(&["shop.example.com"]))];
    let config = serve_clients(&certificates, true).expect("a configuration");
    let anyone = Arc::new(client(&[b"h2", b"http/1.1"], None));
    for (name, expected) in [
        ("shop.example.com", 2),
        ("SHOP.example.COM", 2),
        ("www.example.com", 1),
        ("a.b.example.com", 0),
        ("example.com", 0),
        ("unknown.test", 0),
        ("127.0.0.1", 0),
    ] {
        let (near, far) = shake(&config, &anyone, name).await;
        let near = near.expect(name);
        far.expect(name);
        let leaf = near.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
        assert_eq!(leaf, certificates[expected].key.cert[0], "{name}");
        assert_eq!(near.get_ref().1.alpn_protocol(), Some(ALPN_H2));
    }
}

#[tokio::test]
async fn a_terminating_listener_without_http_offers_no_protocol() {
    let config = serve_clients(&[parsed(&Authority::new("web").web(&["db.test"]))], false).expect("a configuration");
    let (near, far) = shake(&config, &Arc::new(client(&[b"postgresql"], None)), "db.test").await;
    assert_eq!(near.expect("agreed").get_ref().1.alpn_protocol(), None);
    far.expect("agreed");
    assert!(serve_clients(&[], true).expect_err("no certificate").to_string().contains("at least one"));
}

#[tokio::test]
async fn the_post_quantum_group_is_agreed_on() {
    let config = serve_clients(&[parsed(&Authority::new("web").web(&["shop.test"]))], true).expect("a configuration");
    let (near, far) = shake(&config, &Arc::new(client(&[b"h2"], None)), "shop.test").await;
    far.expect("agreed");
    let near = near.expect("agreed");
    let group = near.get_ref().1.negotiated_key_exchange_group().expect("a group").name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
}

#[tokio::test]
async fn a_session_resumes_within_a_generation_and_never_across() {
    let certificates = [parsed(&Authority::new("web").web(&["shop.test"]))];
    let generations = [0, 1].map(|_| serve_clients(&certificates, true).expect("a configuration"));
    let anyone = Arc::new(client(&[b"h2"], None));
    let mut kinds = Vec::new();
    for generation in [0, 0, 1] {
        let (near, far) = shake(&generations[generation], &anyone, "shop.test").await;
        let (mut near, mut far) = (near.expect("agreed"), far.expect("agreed"));
        kinds.push(near.get_ref().1.handshake_kind().expect("done"));
        // Tickets arrive with the first bytes.
        far.write_all(b"x").await.expect("written");
        far.flush().await.expect("flushed");
        near.read_exact(&mut [0]).await.expect("read");
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Full]);
}

#[tokio::test]
async fn the_mesh_hop_takes_one_identity_of_its_trust_domains_under_its_roots() {
    let (ca, other) = (Authority::new("mesh"), Authority::new("mesh"));
    let orders = id("spiffe://cluster.local/ns/shop/sa/orders");
    let config =
        serve_mesh(&parsed(&ca.workload(&orders)), &[ca.root()], &[domain("cluster.local"), domain("old.local")]).expect("a configuration");
    let cart = id("spiffe://cluster.local/ns/shop/sa/cart");
    let aliased = id("spiffe://old.local/ns/shop/sa/cart");
    let table: [(&str, Option<CertificateSpec>, Option<SpiffeId>); 9] = [
        ("right", Some(ca.workload(&cart)), Some(cart.clone())),
        ("alias of the trust domain", Some(ca.workload(&aliased)), Some(aliased)),
        ("no certificate", None, None),
        ("another authority of the same name", Some(other.workload(&cart)), None),
        ("foreign trust domain", Some(ca.workload(&id("spiffe://evil.local/ns/shop/sa/cart"))), None),
        ("two URI names", Some(ca.issue(&["cart"], &[&cart.to_string(), "spiffe://cluster.local/ns/shop/sa/admin"])), None),
        ("no URI name", Some(ca.web(&["cart.shop.sa.cluster.local"])), None),
        ("not of our form", Some(ca.issue(&["cart"], &["spiffe://cluster.local/ns/a/sa/b/"])), None),
        ("upper case", Some(ca.issue(&["cart"], &["spiffe://cluster.local/ns/Shop/sa/cart"])), None),
    ];
    for (case, leaf, expected) in table {
        let (_near, far) = shake(&config, &Arc::new(client(&[ALPN_TCP], leaf.as_ref())), "orders.shop.sa.cluster.local").await;
        let peer = far.ok().and_then(|far| peer_identity(&far.get_ref().1.peer_certificates()?[0]));
        assert_eq!(peer, expected, "{case}");
    }
}

#[tokio::test]
async fn the_mesh_hop_is_tls_1_3_only() {
    let ca = Authority::new("mesh");
    let orders = id("spiffe://cluster.local/ns/shop/sa/orders");
    let leaf = ca.workload(&orders);
    let config = serve_mesh(&parsed(&leaf), &[ca.root()], &[domain("cluster.local")]).expect("a configuration");
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert!(shake(&config, &Arc::new(old), "orders.shop.sa.cluster.local").await.1.is_err());
    assert!(serve_mesh(&parsed(&leaf), &[], &[]).expect_err("no roots").to_string().contains("roots: empty"));
}

#[test]
fn a_certificate_is_alive_within_its_life_only() {
    let spec = Authority::new("mesh").workload(&id("spiffe://cluster.local/ns/shop/sa/orders"));
    let leaf = &chain("chain", &spec.chain).expect("one")[0];
    assert!(peer::left(leaf, SystemTime::now()).is_some_and(|left| left > Duration::from_secs(3600)));
    assert_eq!(peer::left(leaf, SystemTime::UNIX_EPOCH + Duration::from_secs(1)), None);
    assert_eq!(peer::left(b"garbage", SystemTime::now()), None);
}

mod hops {
    use super::*;
    use crate::snapshot::Snapshot;
    use pingora_core::upstreams::peer::{HttpPeer, Peer};

    fn snapshot(roots: &[String], leaf: &CertificateSpec, owner: &SpiffeId) -> Snapshot {
        let mut snapshot = Snapshot::empty();
        let mut mesh = (*snapshot.mesh).clone();
        mesh.roots = roots.to_vec();
        snapshot.mesh = Arc::new(mesh);
        snapshot.identities.insert(owner.clone(), parsed(leaf));
        snapshot
    }

    fn group(hop: &Hop, speaks: Speaks) -> u64 {
        let mut peer = HttpPeer::new("127.0.0.1:1", true, String::new());
        hop.apply(&mut peer, speaks);
        assert!(peer.client_cert_key.is_some() && peer.options.verify_cert && peer.options.verify_hostname);
        assert_eq!(peer.get_ca().expect("roots").len(), 1);
        peer.group_key
    }

    #[test]
    fn a_hop_is_made_once_and_anew_when_leaf_or_roots_change() {
        let (ca, next) = (Authority::new("old"), Authority::new("new"));
        let (cart, orders) = (id("spiffe://cluster.local/ns/shop/sa/cart"), id("spiffe://cluster.local/ns/shop/sa/orders"));
        let leaf = ca.workload(&cart);
        let transport = MeshTransport::default();
        let first = transport.hop(&snapshot(&[ca.root()], &leaf, &cart), &cart, &orders).expect("a hop");
        let again = transport.hop(&snapshot(&[ca.root()], &leaf, &cart), &cart, &orders).expect("a hop");
        assert!(Arc::ptr_eq(&first, &again));
        let other_leaf = transport.hop(&snapshot(&[ca.root()], &ca.workload(&cart), &cart), &cart, &orders).expect("a hop");
        let other_roots = transport.hop(&snapshot(&[next.root()], &leaf, &cart), &cart, &orders).expect("a hop");
        let other_peer = transport.hop(&snapshot(&[ca.root()], &leaf, &cart), &cart, &cart).expect("a hop");
        let mut groups = vec![group(&first, Speaks::Http1)];
        groups.extend([&first, &other_leaf, &other_roots, &other_peer].map(|hop| group(hop, Speaks::Http2)));
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), 5, "every difference makes a pool of its own");
    }

    #[test]
    fn a_hop_without_a_leaf_or_roots_says_what_is_missing() {
        let ca = Authority::new("mesh");
        let (cart, orders) = (id("spiffe://cluster.local/ns/shop/sa/cart"), id("spiffe://cluster.local/ns/shop/sa/orders"));
        let transport = MeshTransport::default();
        let error = |snapshot: &Snapshot, from| transport.hop(snapshot, from, &orders).expect_err("nothing to speak with").to_string();
        assert!(error(&snapshot(&[ca.root()], &ca.workload(&cart), &cart), &orders).contains("has not arrived"));
        assert!(error(&snapshot(&[], &ca.workload(&cart), &cart), &cart).contains("roots: empty"));
        assert!(error(&snapshot(&["garbage".into()], &ca.workload(&cart), &cart), &cart).contains("roots[0]"));
    }

    #[tokio::test]
    async fn opaque_hops_reach_exactly_the_expected_identity() {
        let (ca, other) = (Authority::new("mesh"), Authority::new("mesh"));
        let (cart, orders) = (id("spiffe://cluster.local/ns/shop/sa/cart"), id("spiffe://cluster.local/ns/shop/sa/orders"));
        let hop = MeshTransport::default().hop(&snapshot(&[ca.root()], &ca.workload(&cart), &cart), &cart, &orders).expect("a hop");
        let (config, _) = hop.tcp();
        let table = [
            ("right", ca.workload(&orders), true),
            ("another authority", other.workload(&orders), false),
            ("another identity", ca.workload(&cart), false),
            ("the alias of one, the identity of another", ca.issue(&[&orders.dns_name()], &[&cart.to_string()]), false),
            ("the identity without its alias", ca.issue(&["x.test"], &[&orders.to_string()]), false),
        ];
        for (case, leaf, expected) in table {
            let server = serve_mesh(&parsed(&leaf), &[ca.root()], &[domain("cluster.local")]).expect("a configuration");
            let (near, _far) = shake(&server, &config, &orders.dns_name()).await;
            assert_eq!(near.is_ok(), expected, "{case}");
        }
    }
}
