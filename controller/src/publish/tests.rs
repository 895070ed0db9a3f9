use super::*;
use crate::ca::Kept;
use rcgen::{CertificateParams, KeyPair, SanType};
use selvage_config::resource::Origin;
use selvage_config::resource::backend::{AppProtocol, Endpoint};
use selvage_config::resource::route::{RuleSpec, WeightedBackend};
use selvage_config::wire::Rejected;
use selvage_config::wire::server::Authenticate;
use selvage_config::{BackendSpec, EndpointsSpec, RouteSpec};
use selvage_policy::list::Class;
use selvage_policy::{Target, TargetKind, TrustDomain};
use std::net::SocketAddr;

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

/// A route of `object` with these parents.
fn attached(object: &str, parents: &[&str]) -> Arc<Resource> {
    let (namespace, name) = object.split_once('/').expect("namespace and name");
    let spec = RouteSpec {
        object: Target::new(TargetKind::HTTPRoute, namespace, name),
        parents: parents.iter().map(|parent| key(parent)).collect(),
        hostnames: Vec::new(),
        rules: vec![RuleSpec::default()],
    };
    Arc::new(Resource::core(key(&format!("Route/{namespace}/HTTPRoute.{name}")), &spec, 0))
}

fn policy() -> Arc<Resource> {
    Arc::new(Resource::new(key("AuthorizationPolicy/shop/p"), Class::Guard, &serde_json::json!({}), Origin::default()))
}

/// Nodes are called by their views here. What begins with `+` is shared by all.
fn publication(resources: &[Arc<Resource>], shares: &[(&str, &[&str], &[&str])]) -> Publication {
    let all = shares.iter().flat_map(|(_, keys, _)| *keys);
    let shared: Arc<BTreeSet<Key>> = Arc::new(all.filter_map(|text| text.strip_prefix('+')).map(key).collect());
    let share = |proxy: &str, keys: &[&str], identities: &[&str]| Share {
        name: proxy.into(),
        view: key(proxy),
        keys: crate::translate::View::new(
            keys.iter().filter(|text| !text.starts_with('+')).map(|text| key(text)).collect(),
            shared.clone(),
        ),
        identities: identities.iter().map(|account| identity(account)).collect(),
    };
    Publication {
        resources: resources.iter().map(|one| (one.key.clone(), one.clone())).collect(),
        shares: shares.iter().map(|(proxy, keys, identities)| (proxy.to_string(), share(proxy, keys, identities))).collect(),
    }
}

fn subscribed(publisher: &Publisher, uid: &str) -> watch::Receiver<View> {
    publisher.subscribe(&node(uid)).expect("there is a share for it")
}

fn given(view: &watch::Receiver<View>) -> Vec<String> {
    let view = view.borrow();
    view.given.keys().chain(view.shared.keys()).map(ToString::to_string).collect()
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
    assert_eq!(given(&subscribed(&publisher, "Pod/shop/a")), ["Backend/shop/x#80"]);
    assert_eq!(given(&subscribed(&publisher, "Pod/shop/b")), ["Backend/shop/y#80"]);
}

#[tokio::test]
async fn a_node_without_a_share_is_sent_away_and_never_shown_an_empty_view() {
    let publisher = publisher();
    assert!(publisher.subscribe(&node("Pod/shop/a")).is_none(), "before anything was published");
    publisher.publish(&publication(&[backend("x", "10.0.0.1")], &[("Pod/shop/a", &["Backend/shop/x#80"], &["a"])]));
    assert!(publisher.subscribe(&node("Pod/shop/stranger")).is_none());
    let view = subscribed(&publisher, "Pod/shop/a");
    publisher.publish(&publication(&[backend("x", "10.0.0.1")], &[]));
    assert!(view.has_changed().is_err(), "whoever is gone from the World is sent away");
    assert_eq!(given(&view), ["Backend/shop/x#80"]);
    assert!(publisher.subscribe(&node("Pod/shop/a")).is_none());
    assert!(publisher.sign(&node("Pod/shop/a"), &request(&[])).await.is_err());
}

#[tokio::test]
async fn only_proxies_whose_share_differs_are_told() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] =
        &[("Pod/shop/a", &["Endpoints/shop/x#80"], &[]), ("Pod/shop/b", &["AuthorizationPolicy/shop/p"], &[])];
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    let (mut a, mut b) = (subscribed(&publisher, "Pod/shop/a"), subscribed(&publisher, "Pod/shop/b"));
    a.mark_unchanged();
    b.mark_unchanged();
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    assert!(!a.has_changed().expect("open") && !b.has_changed().expect("open"), "nothing changed");
    publisher.publish(&publication(&[endpoints("x", 2), policy()], shares));
    assert!(a.has_changed().expect("open"));
}

#[test]
fn who_stands_by_sends_every_proxy_to_who_serves() {
    let publisher = publisher();
    let all = publication(&[backend("x", "10.0.0.1")], &[("Pod/shop/a", &["Backend/shop/x#80"], &["a"])]);
    publisher.publish(&all);
    let view = subscribed(&publisher, "Pod/shop/a");
    publisher.stand_by(true);
    assert!(view.has_changed().is_err(), "sent away");
    assert_eq!(given(&view), ["Backend/shop/x#80"], "with what it has");
    publisher.publish(&all);
    assert!(publisher.subscribe(&node("Pod/shop/a")).is_none());
    assert!(publisher.listing().stands_by);
    publisher.stand_by(false);
    assert_eq!(given(&subscribed(&publisher, "Pod/shop/a")), ["Backend/shop/x#80"]);
}

#[test]
fn what_did_not_change_is_not_made_anew() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] = &[("Pod/shop/a", &["+Endpoints/shop/x#80", "AuthorizationPolicy/shop/p"], &[])];
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    let view = subscribed(&publisher, "Pod/shop/a");
    let first = view.borrow().clone();
    publisher.publish(&publication(&[endpoints("x", 1), policy()], shares));
    let second = view.borrow().clone();
    assert!(Arc::ptr_eq(&first.given, &second.given) && Arc::ptr_eq(&first.shared, &second.shared));
    assert_eq!(first.generation, second.generation);
    publisher.publish(&publication(&[endpoints("x", 2), policy()], shares));
    let third = view.borrow().clone();
    assert!(Arc::ptr_eq(&second.given, &third.given) && !Arc::ptr_eq(&second.shared, &third.shared));
    assert_eq!(third.generation, second.generation + 1);
    let (before, after) = (&second.shared[&key("Endpoints/shop/x#80")], &third.shared[&key("Endpoints/shop/x#80")]);
    assert_ne!(before.version(), after.version());
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

#[test]
fn want_tells_nobody_of_routes_that_do_not_hold_for_them() {
    let publisher = publisher();
    let resources = [
        backend("x", "10.0.0.1"),
        endpoints("x", 1),
        attached("shop/producers", &["Backend/shop/x#80"]),
        attached("shop/both", &["Backend/shop/x#80", "Listener/shop/public#http"]),
        attached("stock/consumers", &["Backend/shop/x#80"]),
        attached("shop/public", &["Listener/shop/public#http"]),
    ];
    publisher.publish(&publication(&resources, &[("Pod/shop/a", &[], &[]), ("Pod/stock/b", &[], &[]), ("Gateway/other/c", &[], &[])]));
    let find =
        |uid: &str, subject: Subject| -> Vec<String> { publisher.find(&node(uid), &subject).iter().map(ToString::to_string).collect() };
    let (x, at) = (["Backend/shop/x#80", "Endpoints/shop/x#80"], "Route/shop/HTTPRoute.both Route/shop/HTTPRoute.producers");
    let everybodys: Vec<&str> = x.into_iter().chain(at.split(' ')).collect();
    let consumers = "Route/stock/HTTPRoute.consumers";
    for subject in [Subject::Host("x.shop".into()), Subject::Key(key("Backend/shop/x#80"))] {
        assert_eq!(find("Pod/shop/a", subject.clone()), everybodys);
        assert_eq!(find("Gateway/other/c", subject.clone()), everybodys);
        assert_eq!(find("Pod/stock/b", subject), [&everybodys[..], &[consumers]].concat());
    }
    for (uid, route, may) in [
        ("Pod/shop/a", "Route/shop/HTTPRoute.public", false),
        ("Pod/shop/a", consumers, false),
        ("Pod/stock/b", consumers, true),
        ("Gateway/other/c", "Route/shop/HTTPRoute.producers", true),
    ] {
        assert_eq!(find(uid, Subject::Key(key(route))).contains(&route.to_string()), may, "{uid} asks for {route}");
    }
    let view = subscribed(&publisher, "Pod/shop/a");
    assert!(!view.borrow().offered.contains_key(&key("Route/shop/HTTPRoute.public")), "a listener's route is not even offered");
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

/// What a node has once it took all it is given.
fn applied(publisher: &Publisher, uid: &str) -> View {
    subscribed(publisher, uid).borrow().clone()
}

#[test]
fn delivery_names_who_lags_and_who_rejected() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] =
        &[("Pod/shop/a", &["AuthorizationPolicy/shop/p"], &[]), ("Pod/shop/b", &["AuthorizationPolicy/shop/p"], &[])];
    publisher.publish(&publication(&[policy()], shares));
    let guard = key("AuthorizationPolicy/shop/p");
    let lag = |proxy: &str, why: Why| Lag { proxy: proxy.into(), why };
    let lagging = vec![lag("Pod/shop/a", Why::Absent), lag("Pod/shop/b", Why::Absent)];
    assert_eq!(publisher.delivery(&guard), Delivery { readers: 2, connected: 0, lagging });

    let version = policy().version.clone();
    for uid in ["Pod/shop/a", "Pod/shop/b"] {
        publisher.presence(&node(uid), true);
    }
    let lagging = vec![lag("Pod/shop/a", Why::Pending), lag("Pod/shop/b", Why::Pending)];
    assert_eq!(publisher.delivery(&guard), Delivery { readers: 2, connected: 2, lagging });
    publisher.acknowledged(&node("Pod/shop/a"), &applied(&publisher, "Pod/shop/a"), &Ack { txn: 1, rejected: Vec::new() });
    let rejected = Rejected { key: guard.clone(), version, reason: "too new".into() };
    publisher.acknowledged(&node("Pod/shop/b"), &applied(&publisher, "Pod/shop/b"), &Ack { txn: 1, rejected: vec![rejected] });
    let lagging = vec![lag("Pod/shop/b", Why::Rejected("too new".into()))];
    assert_eq!(publisher.delivery(&guard), Delivery { readers: 2, connected: 2, lagging });

    // An Ack lists all that stands rejected: what it does not list does not stand.
    publisher.acknowledged(&node("Pod/shop/b"), &applied(&publisher, "Pod/shop/b"), &Ack { txn: 2, rejected: Vec::new() });
    assert_eq!(publisher.delivery(&guard).lagging, []);

    publisher.presence(&node("Pod/shop/a"), false);
    let lagging = vec![lag("Pod/shop/a", Why::Absent)];
    assert_eq!(
        publisher.delivery(&guard),
        Delivery { readers: 2, connected: 1, lagging },
        "a proxy that is gone cannot be said to enforce"
    );
    assert_eq!(publisher.delivery(&key("AuthorizationPolicy/shop/none")), Delivery::default());
}

#[test]
fn who_shares_must_hold_what_is_shared() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] = &[("Pod/shop/a", &["+Backend/shop/x#80"], &[]), ("Pod/shop/b", &[], &[])];
    publisher.publish(&publication(&[backend("x", "10.0.0.1")], shares));
    publisher.presence(&node("Pod/shop/b"), true);
    publisher.acknowledged(&node("Pod/shop/b"), &applied(&publisher, "Pod/shop/b"), &Ack::default());
    let lagging = vec![Lag { proxy: "Pod/shop/a".into(), why: Why::Absent }];
    assert_eq!(publisher.delivery(&key("Backend/shop/x#80")), Delivery { readers: 2, connected: 1, lagging });
}

#[test]
fn the_listing_says_how_far_each_proxy_is() {
    let publisher = publisher();
    let shares: &[(&str, &[&str], &[&str])] = &[
        ("Gateway/shop/public", &["AuthorizationPolicy/shop/p"], &["public-selvage"]),
        ("Pod/shop/a", &["AuthorizationPolicy/shop/p"], &["a"]),
    ];
    publisher.publish(&publication(&[policy()], shares));
    let (edge, sidecar) = (node("Gateway/shop/public"), node("Pod/shop/a"));
    let states = || publisher.listing().proxies.iter().map(|one| (one.role, one.sync)).collect::<Vec<_>>();
    assert_eq!(states(), [(Role::Edge, SyncState::Absent), (Role::Sidecar, SyncState::Absent)]);

    let view = applied(&publisher, &sidecar.uid);
    publisher.presence(&sidecar, true);
    assert_eq!(states()[1].1, SyncState::Pending);
    publisher.acknowledged(&sidecar, &view, &Ack::default());
    publisher.reported(
        &sidecar,
        serde_json::json!({"version": "0.2.0", "certificates": {identity("a").to_string(): 1_800_000_000}, "later": 1}),
    );
    let listing = publisher.listing();
    let one = &listing.proxies[1];
    assert_eq!((one.sync, one.version.as_deref(), one.applied), (SyncState::Synced, Some("0.2.0"), Some(one.generation)));
    let certificate = Certificate { identity: identity("a").to_string(), ends: Some("2027-01-15T08:00:00Z".into()) };
    assert_eq!(one.certificates, [certificate]);
    assert_eq!(listing.proxies[0].certificates[0].ends, None, "nothing is made up");

    let rejected = Rejected { key: policy().key.clone(), version: policy().version.clone(), reason: "too new".into() };
    publisher.acknowledged(&sidecar, &view, &Ack { txn: 2, rejected: vec![rejected] });
    assert_eq!(publisher.listing().proxies[1].rejected[&policy().key], "too new");
    assert_eq!(states()[1].1, SyncState::Rejecting);
    publisher.presence(&edge, true);
    publisher.presence(&edge, false);
    publisher.publish(&publication(&[policy()], &shares[1..]));
    assert_eq!(states(), [(Role::Sidecar, SyncState::Rejecting)], "who is gone from the World is forgotten");
    publisher.acknowledged(&edge, &View::default(), &Ack::default());
    assert_eq!(states().len(), 1, "and a late word does not bring it back");
}
