//! A request that authorization lets pass costs no allocation.

#![allow(unsafe_code, clippy::unwrap_used)]

use http::{HeaderMap, Method};
use selvage_policy::exchange::Destination;
use selvage_policy::list::{Attached, Context, GuardSet, Kind, Level, PolicySpec, PostureAt, Purpose, compile};
use selvage_policy::mesh::{PathHandling, Posture};
use selvage_policy::{Exchange, Http, Key, Source, Target, TargetKind, TrustDomain, canonical};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is handed to the system allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

fn policy(name: &str, spec: serde_json::Value) -> Attached {
    let (key, trust_domain) = (Key::new("AuthorizationPolicy", "shop", name), TrustDomain::try_from("cluster.local".to_string()).unwrap());
    let refs = BTreeMap::new();
    let context = Context { key: &key, trust_domain: &trust_domain, aliases: &[], paths: PathHandling::default(), refs: &refs };
    let spec = PolicySpec::parse(Kind::AuthorizationPolicy, &spec).unwrap();
    Attached { policy: Arc::new(compile(&spec, 0, context).unwrap()), buckets: None }
}

#[test]
fn a_request_that_passes_costs_no_allocation() {
    let target_refs = serde_json::json!([{ "kind": "Service", "name": "orders" }]);
    let reads = serde_json::json!({ "targetRefs": target_refs, "rules": [
        { "name": "reads", "action": "Allow", "from": [{ "serviceAccount": "storefront" }], "to": [{ "methods": ["GET"], "paths": ["/orders/*"] }] },
        { "name": "bots", "action": "Deny", "to": [{ "headers": [{ "name": "user-agent", "values": ["bot"] }] }] },
    ] });
    let default =
        serde_json::json!({ "targetRefs": target_refs, "inheritance": "Default", "rules": [{ "name": "all", "action": "Deny" }] });
    let levels = vec![
        Level { target: Target::new(TargetKind::Namespace, "", "shop"), policies: vec![policy("default", default)] },
        Level {
            target: Target::new(TargetKind::Service, "shop", "orders"),
            policies: vec![policy("a", reads.clone()), policy("b", reads)],
        },
    ];
    let identity = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
    let posture = Some(PostureAt { posture: Posture::Deny, identity, aliases: Arc::from([]) });
    let set = GuardSet { levels, posture };

    let source =
        Source { address: "192.0.2.7".parse().unwrap(), principal: Some("spiffe://cluster.local/ns/shop/sa/storefront".parse().unwrap()) };
    let destination = Destination { address: "10.0.0.1:8080".parse().unwrap() };
    let headers = HeaderMap::from_iter([(http::header::USER_AGENT, "curl".parse().unwrap())]);
    let http = Http { method: &Method::GET, scheme: "http", host: "orders.shop", path: "/orders/7", query: None, headers: &headers };
    let exchange =
        Exchange { source: &source, destination: &destination, http: Some(http), now: Duration::ZERO, wall: SystemTime::UNIX_EPOCH };

    let mut denied = true;
    let count = allocations(|| {
        let selvage_policy::list::Progress::Done(decision) = set.run(&exchange, Purpose::Live);
        denied = decision.denial.is_some() || decision.allowed_by.is_none();
    });
    assert!(!denied);
    assert_eq!(count, 0);
    let explained = allocations(|| drop(set.run(&exchange, Purpose::Explain)));
    assert!(explained > 0, "the allocator counts");
}

#[test]
fn a_canonical_path_costs_no_allocation() {
    for path in ["/", "/orders/7", "/a/%20b;c=d/.well-known/x"] {
        assert_eq!(allocations(|| assert_eq!(canonical::path(path, PathHandling::default()).as_deref(), Ok(path))), 0, "{path}");
    }
    assert_eq!(allocations(|| assert!(canonical::authority("shop.example.com:8080").is_ok())), 0);
}
