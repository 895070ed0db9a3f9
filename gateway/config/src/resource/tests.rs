use super::listener::{Bind, Clients, Forward, Protocol};
use super::route::{MatchSpec, PathMatch, RuleSpec, WeightedBackend};
use super::text::{HostPattern, Pattern};
use super::*;
use selvage_policy::mesh::Posture;
use selvage_policy::{SpiffeId, TargetKind};
use serde_json::json;

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn domain() -> selvage_policy::TrustDomain {
    "cluster.local".to_string().try_into().expect("a trust domain")
}

fn mesh_spec() -> MeshSpec {
    MeshSpec {
        trust_domain: domain(),
        trust_domain_aliases: vec![],
        roots: vec!["PEM".into()],
        posture: Posture::default(),
        paths: Default::default(),
    }
}

fn certificate(private_key: &str) -> CertificateSpec {
    CertificateSpec { chain: "CHAIN".into(), private_key: Secret::new(private_key.into()) }
}

#[test]
fn keys_are_spelled_as_documented_and_read_back() {
    let orders: SpiffeId = "spiffe://cluster.local/ns/shop/sa/orders".parse().expect("an identity");
    let table = [
        (keys::mesh(), "Mesh/default"),
        (keys::listener("shop", "public", "http"), "Listener/shop/public#http"),
        (keys::inbound("shop", "orders-0", 8080), "Listener/shop/orders-0#in:8080"),
        (keys::inbound_any("shop", "orders-0"), "Listener/shop/orders-0#in:any"),
        (keys::outbound_any("shop", "orders-0"), "Listener/shop/orders-0#out:any"),
        (keys::outbound("shop", "orders-0", "stock", "catalogue", 80), "Listener/shop/orders-0#out:stock.catalogue-80"),
        (keys::route("shop", "HTTPRoute", "orders"), "Route/shop/HTTPRoute.orders"),
        (keys::backend("shop", "orders", 80), "Backend/shop/orders#80"),
        (keys::endpoints("shop", "orders-x1", 80), "Endpoints/shop/orders-x1#80"),
        (keys::certificate("shop", "tls"), "Certificate/shop/tls"),
        (keys::identity(&orders), "Certificate/shop/identity:orders"),
        (keys::policy(selvage_policy::list::Kind::RateLimitPolicy, "shop", "burst"), "RateLimitPolicy/shop/burst"),
    ];
    for (made, text) in table {
        assert_eq!(made.to_string(), text);
        assert_eq!(key(text), made, "{text}");
    }
    assert_eq!(keys::identity_of(&keys::identity(&orders), &domain()), Some(orders.clone()));
    assert!(keys::is_identity(&keys::identity(&orders)));
    assert_eq!(keys::identity_of(&keys::certificate("shop", "tls"), &domain()), None);
    assert!(!keys::is_identity(&key("Listener/shop/identity:orders")));
}

#[test]
fn equal_contents_have_equal_versions_and_any_change_shows() {
    let base = || Resource::new(key("TrafficPolicy/shop/a"), Class::Traffic, &json!({"a": 1, "b": [1, 2]}), Origin::default());
    assert_eq!(base().version, base().version);
    assert_eq!(base().version.len(), 32);
    let target = Target::new(TargetKind::Service, "shop", "orders");
    let changed = [
        Resource::new(key("TrafficPolicy/shop/b"), Class::Traffic, &base().spec, Origin::default()),
        Resource::new(key("TrafficPolicy/shop/a"), Class::Guard, &base().spec, Origin::default()),
        Resource::new(key("TrafficPolicy/shop/a"), Class::Traffic, &json!({"a": 1, "b": [2, 1]}), Origin::default()),
        Resource::new(key("TrafficPolicy/shop/a"), Class::Traffic, &json!({"a": "1", "b": [1, 2]}), Origin::default()),
        Resource::new(key("TrafficPolicy/shop/a"), Class::Traffic, &base().spec, Origin { created: 1, ..Origin::default() }),
        Resource::new(key("TrafficPolicy/shop/a"), Class::Traffic, &base().spec, Origin { attachments: vec![target], ..Origin::default() }),
        Resource::new(
            key("TrafficPolicy/shop/a"),
            Class::Traffic,
            &base().spec,
            Origin { refs: [("gateway:shop/public".to_string(), "x".to_string())].into(), ..Origin::default() },
        ),
    ];
    for (index, other) in changed.iter().enumerate() {
        assert_ne!(other.version, base().version, "{index}");
        assert!(changed[..index].iter().all(|earlier| earlier.version != other.version), "{index}");
    }
}

#[test]
fn the_version_of_a_secret_depends_on_the_key_it_is_made_with() {
    let [one, same, other] = [b"one".as_slice(), b"one", b"other"].map(VersionKey::derive);
    let version = |key: &VersionKey| Resource::secret(keys::certificate("shop", "tls"), &certificate("S"), key).version;
    assert_eq!(version(&one), version(&same));
    assert_ne!(version(&one), version(&other));
}

#[test]
fn a_private_key_shows_neither_in_debug_nor_redacted_nor_in_errors() {
    let secret = "-----BEGIN PRIVATE KEY-----x";
    let resource = Resource::secret(keys::certificate("shop", "tls"), &certificate(secret), &VersionKey::random());
    let spec = resource.spec().expect("well formed");
    let shown = serde_json::to_string(&resource.redacted()).expect("JSON");
    assert!(shown.contains("CHAIN") && shown.contains(REDACTED), "{shown}");
    for text in [format!("{resource:?}"), format!("{spec:?}"), shown] {
        assert!(!text.contains("BEGIN PRIVATE"), "{text}");
    }
    for spec in [json!(secret), json!({"chain": [secret], "privateKey": secret}), json!({"chain": "", "privateKey": {"x": secret}})] {
        let error = Resource { spec, ..resource.clone() }.spec().expect_err("malformed").to_string();
        assert!(!error.contains("BEGIN PRIVATE") && error.contains("Certificate/shop/tls"), "{error}");
    }
}

#[test]
fn an_unknown_or_wrong_field_is_named_by_key_and_path() {
    let rule = json!({"object": {"kind": "HTTPRoute", "name": "r"}, "parents": [], "rules": [{"matches": [{"path": {"exact": "/"}, "colour": 1}]}]});
    let table = [
        ("Route/shop/HTTPRoute.r", rule, "spec.rules[0].matches[0].colour"),
        ("Backend/shop/a#80", json!({"port": "x", "protocol": "Http", "chain": []}), "spec.port"),
        ("Mesh/default", json!({"trustDomain": "UPPER", "roots": []}), "spec.trustDomain"),
        ("Endpoints/shop/a#80", json!({"backend": "Backend", "endpoints": []}), "spec.backend"),
    ];
    for (name, spec, path) in table {
        let error = Resource::core(key(name), &spec, 0).spec().expect_err(name).to_string();
        assert!(error.starts_with(name) && error.contains(path), "{error}");
    }
    let unknown = Resource::core(key("Teapot/shop/a"), &json!({}), 0).spec().expect_err("unknown kind");
    assert_eq!(unknown, InvalidResource::UnknownKind(key("Teapot/shop/a")));
}

#[test]
fn where_a_listener_forwards_is_written_and_read_back() {
    for (forward, written) in [
        (Forward::Routes, json!("routes")),
        (Forward::Backend(key("Backend/shop/a#80")), json!({"backend": "Backend/shop/a#80"})),
        (Forward::Destination, json!("destination")),
        (Forward::Local("10.1.0.7:8080".parse().expect("an address")), json!({"local": "10.1.0.7:8080"})),
        (Forward::Own("10.1.0.7".parse().expect("an address")), json!({"own": "10.1.0.7"})),
    ] {
        assert_eq!(serde_json::to_value(&forward).expect("JSON"), written);
        assert_eq!(serde_json::from_value::<Forward>(written).expect("a Forward"), forward);
    }
    assert!(serde_json::from_value::<Forward>(json!({"own": "10.1.0.7:80"})).is_err(), "the caller chooses the port");
}

#[test]
fn a_resource_with_an_unknown_field_is_refused() {
    let mut value = serde_json::to_value(Resource::core(keys::mesh(), &mesh_spec(), 0)).expect("JSON");
    assert!(serde_json::from_value::<Resource>(value.clone()).is_ok());
    value["colour"] = json!(1);
    assert!(serde_json::from_value::<Resource>(value).is_err());
}

#[test]
fn defaults_are_not_written() {
    let listener = ListenerSpec {
        bind: Bind::Captured(15306),
        destination: None,
        hostname: None,
        port: 80,
        protocol: Protocol::Http,
        certificates: vec![],
        mesh: None,
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain: vec![],
        posture: false,
        identity: None,
        application: None,
        assertors: vec![],
    };
    let backend = WeightedBackend { backend: None, weight: 1, filters: vec![] };
    let table = [
        (serde_json::to_value(mesh_spec()), json!({"trustDomain": "cluster.local", "roots": ["PEM"]})),
        (
            serde_json::to_value(listener),
            json!({"bind": {"captured": 15306}, "port": 80, "protocol": "Http", "clients": "Outside", "forward": "routes"}),
        ),
        (serde_json::to_value(RuleSpec::default()), json!({})),
        (serde_json::to_value(MatchSpec::default()), json!({})),
        (serde_json::to_value(backend), json!({"weight": 1})),
        (
            serde_json::to_value(Endpoint {
                address: "127.0.0.1:1".parse().expect("an address"),
                workload: None,
                identity: None,
                draining: false,
                zone: None,
            }),
            json!({"address": "127.0.0.1:1"}),
        ),
    ];
    for (written, expected) in table {
        assert_eq!(written.expect("JSON"), expected);
    }
    let resource = serde_json::to_value(Resource::core(keys::mesh(), &mesh_spec(), 0)).expect("JSON");
    let fields: Vec<&String> = resource.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["class", "key", "spec", "version"]);
}

#[test]
fn a_pattern_matches_the_whole_value_only() {
    let table = [
        ("a", "a", true),
        ("a", "ab", false),
        ("a", "ba", false),
        ("a|b", "b", true),
        ("a|b", "ab", false),
        ("a", "a\n", false),
        ("(?m)^a$", "a\nb", false),
        ("(?i)A", "a", true),
        ("", "", true),
        ("", "x", false),
    ];
    for (pattern, text, expected) in table {
        let pattern = Pattern::try_from(pattern.to_string()).expect(pattern);
        assert_eq!(pattern.matches(text), expected, "{} on {text:?}", pattern.as_str());
    }
    for bad in ["a)(b", "(", "a{1000}{1000}{1000}", &"a".repeat(1025)] {
        assert!(Pattern::try_from(bad.to_string()).is_err(), "{bad}");
    }
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    fn label() -> impl Strategy<Value = String> {
        // Few letters, so that names often share suffixes.
        "[ab]{1,2}"
    }

    fn host() -> impl Strategy<Value = HostPattern> {
        (any::<bool>(), proptest::collection::vec(label(), 1..4)).prop_map(|(wild, labels)| {
            let name = labels.join(".");
            let text = if wild { format!("*.{name}") } else { name };
            text.try_into().expect("well formed")
        })
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec(label(), 1..5).prop_map(|labels| labels.join("."))
    }

    proptest! {
        #[test]
        fn the_intersection_matches_what_both_match(a in host(), b in host(), name in name()) {
            let both = a.matches(&name) && b.matches(&name);
            let joint = a.intersection(&b).is_some_and(|joint| joint.matches(&name));
            prop_assert_eq!(both, joint, "{} and {} on {}", a, b, name);
        }

        #[test]
        fn intersection_commutes_and_is_idempotent(a in host(), b in host()) {
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.intersection(&a), Some(a.clone()));
            if let Some(joint) = a.intersection(&b) {
                prop_assert_eq!(joint.intersection(&a), Some(joint.clone()));
            }
        }

        #[test]
        fn a_literal_pattern_matches_itself_alone(text in "[ -~]{0,12}", other in "[ -~]{0,12}") {
            let pattern = Pattern::try_from(regex::escape(&text)).expect("escaped");
            prop_assert!(pattern.matches(&text));
            prop_assert_eq!(pattern.matches(&other), text == other);
        }

        #[test]
        fn resources_survive_json(path in "/[a-z/]{0,20}", weight in 0u32..100, created in any::<i64>(), names in proptest::collection::vec(host(), 0..3)) {
            let spec = RouteSpec {
                object: Target::new(TargetKind::HTTPRoute, "shop", "r"),
                parents: vec![keys::listener("shop", "public", "http")],
                hostnames: names,
                rules: vec![RuleSpec {
                    matches: vec![MatchSpec { path: Some(PathMatch::Prefix(path)), ..MatchSpec::default() }],
                    backends: vec![WeightedBackend { backend: Some(keys::backend("shop", "orders", 80)), weight, filters: vec![] }],
                    ..RuleSpec::default()
                }],
            };
            let resource = Resource::core(keys::route("shop", "HTTPRoute", "r"), &spec, created);
            let text = serde_json::to_string(&resource).expect("JSON");
            let read: Resource = serde_json::from_str(&text).expect("what was written");
            prop_assert_eq!(&read, &resource);
            prop_assert_eq!(&read.clone().versioned(&VersionKey::random()).version, &resource.version);
            let Spec::Route(parsed) = read.spec().expect("valid") else { panic!("a Route") };
            prop_assert_eq!(*parsed, spec);
        }
    }
}
