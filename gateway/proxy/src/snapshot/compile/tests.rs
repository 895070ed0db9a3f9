//! Rejections, reuse, and the property that a delta gives what a full compile gives.

mod delta;

use crate::snapshot::decide::{self, Arrival};
use crate::snapshot::fixture::{Facts, World, gateway, key, merge, service};
use crate::snapshot::*;
use selvage_config::Class;
use selvage_config::resource::listener::Bind;
use selvage_policy::list::Purpose;
use selvage_policy::{Reason, Target, TargetKind};
use serde_json::{Value, json};

fn edge() -> World {
    let mut world = World::default();
    world.listener("http", json!({})).route("r", 0, json!({})).backend("orders", json!({}), json!([{"address": "127.0.0.1:9000"}]));
    world
}

fn reason(snapshot: &Snapshot, url: &str) -> Option<Reason> {
    let edge = "127.0.0.9:10080".parse().expect("an address");
    let facts = Facts::get(url);
    let arrival = Arrival { bind: Bind::Bound(edge), destination: edge, tls: None };
    decide::request(snapshot, arrival, &facts.exchange(), Purpose::Live).next.err().map(|denial| denial.reason)
}

fn again(previous: &Snapshot, world: &World, live: &Live) -> (Snapshot, Vec<String>) {
    let (snapshot, rejections) = Snapshot::compile(previous, &world.resources, live);
    (snapshot, rejections.into_iter().map(|rejection| format!("{}: {}", rejection.key, rejection.reason)).collect())
}

#[test]
fn a_guard_that_cannot_be_used_refuses_on_its_attachments() {
    for (what, kind, class, mut spec, wanted) in [
        ("bad field", "AuthorizationPolicy", Class::Guard, json!({"rulez": []}), Reason::PolicyInvalid),
        (
            "bad expression",
            "AuthorizationPolicy",
            Class::Guard,
            json!({"when": "1 +", "rules": [{"name": "a", "action": "Allow"}]}),
            Reason::PolicyInvalid,
        ),
        (
            "unresolved reference",
            "AuthorizationPolicy",
            Class::Guard,
            json!({"rules": [{"name": "a", "action": "Allow", "from": [{"gateway": "gone"}]}]}),
            Reason::PolicyUnresolved,
        ),
        (
            "bad limit",
            "RateLimitPolicy",
            Class::Guard,
            json!({"limits": [{"name": "a", "requests": 1, "per": "never"}]}),
            Reason::PolicyInvalid,
        ),
        ("unknown kind", "FirewallPolicy", Class::Guard, json!({"anything": 1}), Reason::PolicyUnknown),
        (
            "a known guard is one whatever its class says",
            "AuthorizationPolicy",
            Class::Traffic,
            json!({"rulez": []}),
            Reason::PolicyInvalid,
        ),
    ] {
        let mut world = edge();
        world.route("free", 0, json!({"hostnames": ["free.example.com"]}));
        let target = Target::new(TargetKind::HTTPRoute, "shop", "r");
        merge(&mut spec, json!({"targetRefs": [{"kind": "HTTPRoute", "name": "r"}]}));
        world.put(&key(&format!("{kind}/shop/p")), class, vec![target], 0, spec);
        let (snapshot, rejections) = world.compile();
        assert_eq!(rejections.len(), 1, "{what}: {rejections:?}");
        assert_eq!(rejections[0].key.to_string(), format!("{kind}/shop/p"));
        assert_eq!(reason(&snapshot, "h/"), Some(wanted), "{what}");
        assert_eq!(reason(&snapshot, "free.example.com/"), None, "{what}: elsewhere nothing changes");
    }
}

#[test]
fn a_guard_that_turns_bad_refuses_although_it_was_good() {
    let (live, mut world) = (Live::default(), edge());
    world.policy("AuthorizationPolicy", "p", gateway("public"), json!({"rules": [{"name": "all", "action": "Allow"}]}));
    let (good, rejections) = again(&Snapshot::empty(), &world, &live);
    assert_eq!((reason(&good, "h/"), rejections), (None, vec![]));
    world.policy("AuthorizationPolicy", "p", gateway("public"), json!({"rules": 3}));
    let (bad, rejections) = again(&good, &world, &live);
    assert_eq!((reason(&bad, "h/"), rejections.len()), (Some(Reason::PolicyInvalid), 1));
    let (still, rejections) = again(&bad, &world, &live);
    assert_eq!((reason(&still, "h/"), rejections.len()), (Some(Reason::PolicyInvalid), 1), "what is rejected stays reported");
    world.remove("AuthorizationPolicy/shop/p");
    assert_eq!(reason(&again(&still, &world, &live).0, "h/"), None);
}

#[test]
fn traffic_and_unknown_observe_policies_are_dropped() {
    for (kind, class) in [("TrafficPolicy", Class::Traffic), ("TelemetryPolicy", Class::Observe)] {
        let mut world = edge();
        world.put(&key(&format!("{kind}/shop/p")), class, vec![gateway("public")], 0, json!({"timeoutz": 1}));
        let (snapshot, rejections) = world.compile();
        assert_eq!(rejections.len(), 1, "{kind}");
        assert_eq!(reason(&snapshot, "h/"), None);
    }
}

#[test]
fn bad_core_resources_keep_the_form_they_had() {
    let orders = json!([{"backend": "Backend/shop/orders#80", "weight": 1}]);
    let with = |filter: Value| json!({"rules": [{"filters": [filter], "backends": orders}]});
    let header = |name: &str, value: &str| with(json!({"requestHeaders": {"set": [[name, value]]}}));
    let redirected = json!({"backend": "Backend/shop/orders#80", "weight": 1, "filters": [{"redirect": {"status": 301}}]});
    let by_exact = json!({"matches": [{"path": {"exact": "/a"}}], "filters": [{"rewrite": {"path": {"prefix": "/x"}}}]});
    let strange = json!({"object": {"kind": "Service", "namespace": "shop", "name": "r"}, "parents": [], "rules": []});
    for (rejected, problem, spec) in [
        ("Listener/shop/public#http", "spec.bindz", json!({"bindz": 1})),
        ("Listener/shop/public#http", "posture: needs", json!({"posture": true})),
        ("Backend/shop/orders#80", "spec.port", json!({"port": "x"})),
        ("Endpoints/shop/orders-1#80", "spec.endpoints", json!({"backend": "Backend/shop/orders#80", "endpoints": [{"address": "?"}]})),
        ("Mesh/default", "spec.roots", json!({"trustDomain": "cluster.local", "roots": 1})),
        ("Route/shop/HTTPRoute.r", "spec.rules", json!({"rules": 1})),
        ("Route/shop/HTTPRoute.r", "rules[0].matches[0].path: `a`", json!({"rules": [{"matches": [{"path": {"exact": "a"}}]}]})),
        ("Route/shop/HTTPRoute.r", "rules[0].filters[0].requestHeaders.set: `selvage-principal`", header("selvage-principal", "me")),
        ("Route/shop/HTTPRoute.r", "requestHeaders.set: `X-Forwarded-For`", header("X-Forwarded-For", "10.0.0.1")),
        ("Route/shop/HTTPRoute.r", "requestHeaders.set: `x_forwarded_host`", header("x_forwarded_host", "h")),
        ("Route/shop/HTTPRoute.r", "requestHeaders.set: `x-real-ip`", header("x-real-ip", "10.0.0.1")),
        ("Route/shop/HTTPRoute.r", "requestHeaders.remove: `forwarded`", with(json!({"requestHeaders": {"remove": ["forwarded"]}}))),
        (
            "Route/shop/HTTPRoute.r",
            "responseHeaders.add: `selvage_origin`",
            with(json!({"responseHeaders": {"add": [["selvage_origin", "x"]]}})),
        ),
        ("Route/shop/HTTPRoute.r", "`content-length` cannot be changed", header("content-length", "0")),
        ("Route/shop/HTTPRoute.r", "`host` cannot be changed", header("host", "x")),
        ("Route/shop/HTTPRoute.r", "the value of `x-a`", header("x-a", "a\r\nb: c")),
        ("Route/shop/HTTPRoute.r", "redirect.status: 200", with(json!({"redirect": {"status": 200}}))),
        ("Route/shop/HTTPRoute.r", "redirect.scheme: `ftp`", with(json!({"redirect": {"status": 301, "scheme": "ftp"}}))),
        ("Route/shop/HTTPRoute.r", "rewrite.hostname: `a/b`", with(json!({"rewrite": {"hostname": "a/b"}}))),
        ("Route/shop/HTTPRoute.r", "rewrite.path: `/a/../../b`", with(json!({"rewrite": {"path": {"full": "/a/../../b"}}}))),
        ("Route/shop/HTTPRoute.r", "a prefix is replaced only where", json!({"rules": [by_exact]})),
        ("Route/shop/HTTPRoute.r", "a redirect belongs to the rule", json!({"rules": [{"backends": [redirected]}]})),
        ("Route/shop/HTTPRoute.r", "Service is not routed", strange),
    ] {
        let (live, mut world) = (Live::default(), edge());
        world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": []}));
        let (good, rejections) = again(&Snapshot::empty(), &world, &live);
        assert_eq!(rejections, Vec::<String>::new());
        match rejected.split('/').next() {
            Some("Listener") => world.listener("http", spec),
            Some("Route") if spec.get("object").is_none() => world.route("r", 0, spec),
            _ => world.core(rejected, spec),
        };
        let (kept, rejections) = again(&good, &world, &live);
        assert_eq!(rejections.len(), 1, "{problem}: {rejections:?}");
        assert!(rejections[0].starts_with(rejected) && rejections[0].contains(problem), "{problem}: {rejections:?}");
        assert_eq!(reason(&kept, "h/"), None, "{problem}: it serves as before");
        assert_eq!(kept.destinations[&key("Backend/shop/orders#80")].backend.endpoints.len(), 1, "{problem}");
        // Where there was none before, there is none now; everything else stands.
        let (fresh, rejections) = world.compile();
        assert_eq!(rejections.len(), 1, "{problem}");
        assert_eq!(fresh.listeners.contains_key(&key("Listener/shop/public#http")), !rejected.starts_with("Listener"));
    }
}

#[test]
fn a_certificate_that_is_missing_or_bad_is_told_and_tls_waits_for_it() {
    let (live, mut world) = (Live::default(), edge());
    let certificate = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_string()]).expect("made");
        json!({"chain": made.cert.pem(), "privateKey": made.signing_key.serialize_pem()})
    };
    world.listener("https", json!({"protocol": "Https", "certificates": ["Certificate/shop/c"], "bind": {"bound": "127.0.0.9:10443"}}));
    let at = key("Listener/shop/public#https");
    let (without, rejections) = again(&Snapshot::empty(), &world, &live);
    assert!(without.listeners[&at].tls.is_none());
    assert!(rejections[0].contains("Certificate/shop/c did not arrive"), "{rejections:?}");

    world.core("Certificate/shop/c", certificate("a.example.com"));
    let (with, rejections) = again(&without, &world, &live);
    let first = with.listeners[&at].tls.clone().expect("TLS is served");
    assert_eq!(rejections, Vec::<String>::new());

    world.route("other", 1, json!({"parents": ["Listener/shop/public#https"], "hostnames": ["x.example.com"]}));
    let (same, _) = again(&with, &world, &live);
    assert!(Arc::ptr_eq(&first, same.listeners[&at].tls.as_ref().expect("TLS is served")), "a route's change keeps clients' sessions");

    world.core("Certificate/shop/c", json!({"chain": "x", "privateKey": "y"}));
    let (kept, rejections) = again(&same, &world, &live);
    assert_eq!(rejections.len(), 1);
    assert!(!rejections[0].contains("privateKey: y"), "secrets are not shown: {rejections:?}");
    assert!(Arc::ptr_eq(&first, kept.listeners[&at].tls.as_ref().expect("the certificate it had")));

    world.core("Certificate/shop/c", certificate("a.example.com"));
    let (rotated, rejections) = again(&kept, &world, &live);
    assert_eq!(rejections, Vec::<String>::new());
    assert!(!Arc::ptr_eq(&first, rotated.listeners[&at].tls.as_ref().expect("TLS is served")));
}

#[test]
fn a_check_touches_nothing() {
    let (live, mut world) = (Live::default(), edge());
    let (good, _) = again(&Snapshot::empty(), &world, &live);
    world.backend("orders", json!({}), json!([])).route("r", 0, json!({"rules": 1}));
    let rejections = Snapshot::check(&good, &world.resources);
    assert_eq!(rejections.len(), 1, "{rejections:?}");
    assert_eq!(rejections[0].key, key("Route/shop/HTTPRoute.r"), "a form that would be kept does not make it good");
    assert_eq!(good.destinations[&key("Backend/shop/orders#80")].backend.endpoints.len(), 1);
    world.route("r", 0, json!({}));
    assert_eq!(Snapshot::check(&good, &world.resources), []);
    assert_eq!(good.destinations[&key("Backend/shop/orders#80")].backend.endpoints.len(), 1);
}

#[test]
fn identities_are_found_by_their_leaf() {
    let mut world = World::default();
    let made = rcgen::generate_simple_self_signed(vec!["orders.shop.sa.cluster.local".to_string()]).expect("made");
    let leaf = json!({"chain": made.cert.pem(), "privateKey": made.signing_key.serialize_pem()});
    world.core("Certificate/shop/identity:orders", leaf);
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": [made.cert.pem()]}));
    let identity = "spiffe://cluster.local/ns/shop/sa/orders";
    world.listener("in", json!({"mesh": "Strict", "identity": identity}));
    let snapshot = world.snapshot();
    assert!(snapshot.identities.contains_key(&identity.parse().expect("well formed")));
    let listener = &snapshot.listeners[&key("Listener/shop/public#in")];
    assert!(listener.mesh.is_some() && listener.tls.is_none());
    let bind = listener.spec.bind;
    let found = snapshot.accept(bind, "127.0.0.9:10080".parse().expect("an address"), Some("orders.shop.sa.cluster.local"));
    assert!(found.is_some_and(|found| Arc::ptr_eq(found, listener)));
}

#[test]
fn a_posture_is_the_listeners_own() {
    for (posture, on, wanted) in [("Deny", true, Some(Reason::PostureDenied)), ("Deny", false, None), ("AllowAll", true, None)] {
        let mut world = edge();
        world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": [], "posture": posture}));
        world.listener("http", json!({"posture": on, "identity": "spiffe://cluster.local/ns/shop/sa/web"}));
        assert_eq!(reason(&world.snapshot(), "h/"), wanted, "{posture} {on}");
    }
}

#[test]
fn platform_settings_that_cannot_be_read_let_nobody_in_by_default() {
    let (live, mut world) = (Live::default(), edge());
    world.listener("http", json!({"posture": true, "identity": "spiffe://cluster.local/ns/shop/sa/web"}));
    assert_eq!(reason(&world.snapshot(), "h/"), None, "without any the default holds");
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": 1}));
    let (bad, rejections) = again(&Snapshot::empty(), &world, &live);
    assert_eq!((reason(&bad, "h/"), rejections.len(), bad.lacks_settings()), (Some(Reason::PostureDenied), 1, true));
    // Nor do others that cannot be read change that; the first that can do.
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": 2}));
    let (still, _) = again(&bad, &world, &live);
    assert_eq!((reason(&still, "h/"), still.lacks_settings()), (Some(Reason::PostureDenied), true));
    assert!(Arc::ptr_eq(&bad.mesh, &still.mesh));
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": []}));
    let (good, _) = again(&still, &world, &live);
    assert_eq!((reason(&good, "h/"), good.lacks_settings()), (None, false));
    // Those that hold are kept where newer ones cannot be read.
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": 3}));
    let (kept, rejections) = again(&good, &world, &live);
    assert_eq!((reason(&kept, "h/"), rejections.len(), kept.lacks_settings()), (None, 1, false));
}

#[test]
fn settings_come_from_the_route_then_from_the_most_specific_policy() {
    let mut world = edge();
    let timeout = |text: &str| json!({"timeouts": {"request": text}});
    let seconds = |world: &World| {
        let snapshot = world.snapshot();
        let facts = Facts::get("h/");
        let matched = snapshot.listeners[&key("Listener/shop/public#http")].routes.find(&facts.exchange()).expect("matches");
        let settings = matched.rule.backends[0].settings.resolve(&facts.exchange()).into_owned();
        (settings.request_timeout.map(|timeout| timeout.as_secs()), settings.attempts)
    };
    assert_eq!(seconds(&world), (None, None));
    world.policy("TrafficPolicy", "mesh", Target::new(TargetKind::Mesh, "", "default"), timeout("1s"));
    assert_eq!(seconds(&world), (Some(1), None));
    world.policy("TrafficPolicy", "gateway", gateway("public"), timeout("2s"));
    assert_eq!(seconds(&world), (Some(2), None), "the Gateway beats the mesh");
    world.policy("TrafficPolicy", "service", service("orders"), timeout("3s"));
    assert_eq!(seconds(&world), (Some(3), None), "the Service beats the Gateway");
    world.policy(
        "TrafficPolicy",
        "never",
        gateway("public"),
        json!({"when": "request.method == 'PUT'", "inheritance": "Override", "timeouts": {"request": "9s"}}),
    );
    assert_eq!(seconds(&world), (Some(3), None), "a condition that does not hold leaves its policy out");
    world.policy("TrafficPolicy", "route", Target::new(TargetKind::HTTPRoute, "shop", "r"), timeout("4s"));
    assert_eq!(seconds(&world), (Some(4), None));
    let orders = json!([{"backend": "Backend/shop/orders#80", "weight": 1}]);
    world.route("r", 0, json!({"rules": [{"backends": orders, "requestTimeoutMs": 5000, "retry": {}}]}));
    assert_eq!(seconds(&world), (Some(5), Some(1)), "the route's own field beats every policy; a retry without a number is one");
}

#[test]
fn counters_survive_configurations_that_do_not_change_their_limits() {
    let (live, mut world) = (Live::default(), edge());
    let limit = |requests: u32| json!({"limits": [{"name": "l", "requests": requests, "per": "1h"}]});
    world.policy("RateLimitPolicy", "p", gateway("public"), limit(2));
    let (first, _) = again(&Snapshot::empty(), &world, &live);
    assert_eq!((reason(&first, "h/"), reason(&first, "h/"), reason(&first, "h/")), (None, None, Some(Reason::RateLimited)));
    world.route("other", 1, json!({"hostnames": ["x.example.com"]}));
    world.core("Mesh/default", json!({"trustDomain": "other.local", "roots": []}));
    let (second, _) = again(&first, &world, &live);
    assert_eq!(reason(&second, "h/"), Some(Reason::RateLimited));
    world.policy("RateLimitPolicy", "p", gateway("public"), limit(3));
    let (third, _) = again(&second, &world, &live);
    assert_eq!(reason(&third, "h/"), None, "new limits count anew");
}

#[test]
fn one_changed_route_of_ten_thousand_touches_nothing_else() {
    const ROUTES: usize = 10_000;
    let (live, mut world) = (Live::default(), edge());
    world.remove("Route/shop/HTTPRoute.r");
    let orders = json!([{"backend": "Backend/shop/orders#80", "weight": 1}]);
    let rule = |number: usize| json!({"hostnames": [format!("h{}.example.com", number % 100)], "rules": [{"matches": [{"path": {"prefix": format!("/p{number}")}}], "backends": orders}]});
    for number in 0..ROUTES {
        world.route(&format!("r{number}"), 0, rule(number));
    }
    let (first, rejections) = again(&Snapshot::empty(), &world, &live);
    assert_eq!(rejections, Vec::<String>::new());
    world.route("r77", 0, json!({"hostnames": ["new.example.com"]}));
    let (second, _) = again(&first, &world, &live);
    let at = key("Listener/shop/public#http");
    let find =
        |snapshot: &Snapshot, url: &str| snapshot.listeners[&at].routes.find(&Facts::get(url).exchange()).map(|matched| matched.rule);
    for number in (0..ROUTES).step_by(37) {
        let url = format!("h{}.example.com/p{number}/x", number % 100);
        let (before, after) = (find(&first, &url).expect("matches"), find(&second, &url).expect("matches"));
        assert_eq!(before.route.name, format!("r{number}"));
        assert!(Arc::ptr_eq(&before, &after), "{url}: its rule is taken over");
    }
    assert!(find(&first, "h77.example.com/p77").is_some() && find(&second, "h77.example.com/p77").is_none());
    assert!(find(&first, "new.example.com/").is_none() && find(&second, "new.example.com/").is_some());
    assert!(Arc::ptr_eq(&first.destinations[&key("Backend/shop/orders#80")], &second.destinations[&key("Backend/shop/orders#80")]));
    let (third, _) = again(&second, &world, &live);
    assert!(Arc::ptr_eq(&second.listeners[&at], &third.listeners[&at]), "nothing new, nothing made");
    assert_eq!(third.generation, 3);
}
