use super::*;
use crate::ca::Kept;
use rcgen::{CertificateParams, KeyPair, SanType};
use selvage_config::resource::Origin;
use selvage_config::resource::backend::{AppProtocol, Endpoint};
use selvage_config::resource::route::{RuleSpec, WeightedBackend};
use selvage_config::wire::Rejected;
use selvage_config::wire::server::Authenticate;
use selvage_policy::list::Class;
use selvage_policy::{Target, TargetKind, TrustDomain};

fn domain() -> TrustDomain {
    TrustDomain::try_from("cluster.local".to_string()).expect("well formed")
}

fn identity(account: &str) -> SpiffeId {
    SpiffeId::new(domain(), "shop", account).expect("well formed")
}

fn publisher() -> Arc<Publisher> {
    Publisher::new(Arc::new(Authority::new(Kept::create(&domain(), SystemTime::now()).expect("made")).expect("usable")))
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn node(uid: &str) -> Node {
    Node { uid: uid.into(), name: uid.into() }
}

fn backend(name: &str, address: &str) -> Arc<Resource> {
    let spec =
        BackendSpec { addresses: vec![address.parse().expect("an address")], port: 80, protocol: AppProtocol::Http, chain: Vec::new() };
    Arc::new(Resource::core(key(&format!("Backend/shop/{name}#80")), &spec, 0))
}

fn endpoints(name: &str, port: u16) -> Arc<Resource> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let endpoint = Endpoint { address, workload: None, identity: None, draining: false, zone: None };
    let spec = EndpointsSpec { backend: key(&format!("Backend/shop/{name}#80")), endpoints: vec![endpoint] };
    Arc::new(Resource::core(key(&format!("Endpoints/shop/{name}#80")), &spec, 0))
}

fn mesh_route(parent: &str, to: &str) -> Arc<Resource> {
    let to = WeightedBackend { backend: Some(key(&format!("Backend/shop/{to}#80"))), weight: 1, filters: Vec::new() };
    let spec = RouteSpec {
        object: Target::new(TargetKind::HTTPRoute, "shop", "r"),
        parents: vec![key(&format!("Backend/shop/{parent}#80"))],
        hostnames: Vec::new(),
        rules: vec![RuleSpec { backends: vec![to], ..RuleSpec::default() }],
    };
    Arc::new(Resource::core(key("Route/shop/HTTPRoute.r"), &spec, 0))
}

fn policy() -> Arc<Resource> {
    Arc::new(Resource::new(key("AuthorizationPolicy/shop/p"), Class::Guard, &serde_json::json!({}), Origin::default()))
}

fn publication(resources: &[Arc<Resource>], shares: &[(&str, &[&str], &[&str])]) -> Publication {
    let share = |keys: &[&str], identities: &[&str]| Share {
        keys: keys.iter().map(|text| key(text)).collect(),
        identities: identities.iter().map(|account| identity(account)).collect(),
    };
    Publication {
        resources: resources.iter().map(|one| (one.key.clone(), one.clone())).collect(),
        shares: shares.iter().map(|(proxy, keys, identities)| (key(proxy), share(keys, identities))).collect(),
    }
}

fn given(view: &watch::Receiver<View>) -> Vec<String> {
    view.borrow().given.keys().map(ToString::to_string).collect()
}

fn request(san: &[&str]) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = san.iter().map(|uri| SanType::URI((*uri).try_into().expect("ascii"))).collect();
    let key = KeyPair::generate().expect("a key");
    params.serialize_request(&key).and_then(|csr| csr.pem()).expect("a request")
}

#[tokio::test]
async fn a_node_is_given_its_share_and_nothing_else() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] = &[("Pod/shop/a", &["Backend/shop/x#80"], &[]), ("Pod/shop/b", &["Backend/shop/y#80"], &[])];
    publisher.publish(&publication(&[backend("x", "10.0.0.1"), backend("y", "10.0.0.2")], shares));
    assert_eq!(given(&publisher.subscribe(&node("Pod/shop/a"))), ["Backend/shop/x#80"]);
    assert_eq!(given(&publisher.subscribe(&node("Pod/shop/b"))), ["Backend/shop/y#80"]);
    assert!(given(&publisher.subscribe(&node("Pod/shop/stranger"))).is_empty());
}

#[tokio::test]
async fn only_proxies_whose_share_differs_are_told() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] =
        &[("Pod/shop/a", &["Endpoints/shop/x#80"], &[]), ("Pod/shop/b", &["AuthorizationPolicy/shop/p"], &[])];
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    let (mut a, mut b) = (publisher.subscribe(&node("Pod/shop/a")), publisher.subscribe(&node("Pod/shop/b")));
    a.mark_unchanged();
    b.mark_unchanged();
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    assert!(!a.has_changed().expect("open") && !b.has_changed().expect("open"), "nothing changed");
    publisher.publish(&publication(&[endpoints("x", 2), policy()], shares));
    assert!(a.has_changed().expect("open"));
}

#[tokio::test]
async fn a_proxy_that_is_gone_from_the_world_is_left_with_nothing() {
    let publisher = publisher();
    publisher.publish(&publication(&[backend("x", "10.0.0.1")], &[("Pod/shop/a", &["Backend/shop/x#80"], &["a"])]));
    let view = publisher.subscribe(&node("Pod/shop/a"));
    publisher.publish(&publication(&[backend("x", "10.0.0.1")], &[]));
    assert!(given(&view).is_empty());
    assert!(publisher.sign(&node("Pod/shop/a"), &request(&[])).await.is_err());
}

#[test]
fn want_finds_by_address_host_and_key_with_what_is_needed_beside() {
    let publisher = publisher();
    let resources =
        [backend("x", "10.0.0.1"), endpoints("x", 1), mesh_route("x", "y"), backend("y", "10.0.0.2"), endpoints("y", 2), policy()];
    publisher.publish(&publication(&resources, &[("Pod/shop/a", &[], &[])]));
    let find =
        |subject: Subject| -> Vec<String> { publisher.find(&node("Pod/shop/a"), &subject).iter().map(ToString::to_string).collect() };
    let all = ["Backend/shop/x#80", "Backend/shop/y#80", "Endpoints/shop/x#80", "Endpoints/shop/y#80", "Route/shop/HTTPRoute.r"];
    assert_eq!(find(Subject::Addr("10.0.0.1:80".parse().expect("an address"))), all);
    assert_eq!(find(Subject::Host("x.shop".into())), all);
    assert_eq!(find(Subject::Host("x.shop.svc.cluster.local".into())), all);
    assert_eq!(find(Subject::Key(key("Backend/shop/y#80"))), ["Backend/shop/y#80", "Endpoints/shop/y#80"]);
    for nothing in [
        Subject::Addr("10.0.0.1:81".parse().expect("an address")),
        Subject::Host("x.shopping".into()),
        Subject::Host("x".into()),
        Subject::Key(key("AuthorizationPolicy/shop/p")),
        Subject::Key(key("Certificate/shop/tls")),
    ] {
        assert!(find(nothing.clone()).is_empty(), "{nothing:?}");
    }
    assert!(publisher.find(&node("Pod/shop/stranger"), &Subject::Host("x.shop".into())).is_empty());
}

#[tokio::test]
async fn a_certificate_is_signed_only_for_the_nodes_own_identities() {
    let publisher = publisher();
    publisher.publish(&publication(&[], &[("Pod/shop/a", &[], &["a"]), ("Pod/shop/two", &[], &["a", "public-selvage"])]));
    let a = "spiffe://cluster.local/ns/shop/sa/a";
    let sign = async |uid: &str, san: &[&str]| publisher.sign(&node(uid), &request(san)).await;
    assert!(sign("Pod/shop/a", &[a]).await.is_ok());
    assert!(sign("Pod/shop/a", &[]).await.is_ok());
    assert!(sign("Pod/shop/two", &["spiffe://cluster.local/ns/shop/sa/public-selvage"]).await.is_ok());
    for (uid, san) in [
        ("Pod/shop/a", vec!["spiffe://cluster.local/ns/shop/sa/b"]),
        ("Pod/shop/a", vec![a, "spiffe://cluster.local/ns/shop/sa/b"]),
        ("Pod/shop/two", vec![]),
        ("Pod/shop/stranger", vec![a]),
    ] {
        let error = sign(uid, &san).await.expect_err("refused");
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test]
async fn a_token_proves_one_proxy_until_it_ends() {
    let tokens = Tokens::default();
    let peer = "127.0.0.1:1".parse().expect("an address");
    let (a, b) = (key("Pod/shop/a"), key("Pod/shop/b"));
    let (for_a, for_b) = (tokens.give(&a), tokens.give(&b));
    assert_eq!(tokens.authenticate(&for_a, peer).await.expect("known").uid, "Pod/shop/a");
    assert_eq!(tokens.authenticate(&for_b, peer).await.expect("known").uid, "Pod/shop/b");
    for wrong in ["", "x", &for_a[1..], &format!("{for_a}x")] {
        assert!(tokens.authenticate(wrong, peer).await.is_err(), "{wrong}");
    }
    let renewed = tokens.give(&a);
    assert!(tokens.authenticate(&for_a, peer).await.is_err(), "the earlier one ended");
    tokens.end(&a);
    assert!(tokens.authenticate(&renewed, peer).await.is_err());
}

#[test]
fn delivery_names_who_lags_and_who_rejected() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] =
        &[("Pod/shop/a", &["AuthorizationPolicy/shop/p"], &[]), ("Pod/shop/b", &["AuthorizationPolicy/shop/p"], &[])];
    publisher.publish(&publication(&[policy()], shares));
    let guard = key("AuthorizationPolicy/shop/p");
    let lag = |proxy: &str, rejected: Option<&str>| Lag { proxy: proxy.into(), rejected: rejected.map(Into::into) };
    assert_eq!(publisher.delivery(&guard), Delivery { readers: 2, lagging: vec![lag("Pod/shop/a", None), lag("Pod/shop/b", None)] });

    let version = policy().version.clone();
    let have = BTreeMap::from([(guard.clone(), version.clone())]);
    for uid in ["Pod/shop/a", "Pod/shop/b"] {
        publisher.presence(&node(uid), true);
    }
    publisher.acknowledged(&node("Pod/shop/a"), &have, &Ack { txn: 1, rejected: Vec::new() });
    let rejected = Rejected { key: guard.clone(), version, reason: "too new".into() };
    publisher.acknowledged(&node("Pod/shop/b"), &have, &Ack { txn: 1, rejected: vec![rejected] });
    assert_eq!(publisher.delivery(&guard), Delivery { readers: 2, lagging: vec![lag("Pod/shop/b", Some("too new"))] });

    publisher.presence(&node("Pod/shop/a"), false);
    assert_eq!(publisher.delivery(&guard).lagging.len(), 2, "a proxy that is gone cannot be said to enforce");
    assert_eq!(publisher.delivery(&key("AuthorizationPolicy/shop/none")), Delivery::default());
}
