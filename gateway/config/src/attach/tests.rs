//! Which policy comes where.

use super::{Attachments, Conflict};
use selvage_policy::list::{Attached, Context, Kind, PolicySpec, compile};
use selvage_policy::mesh::PathHandling;
use selvage_policy::traffic::Settings;
use selvage_policy::{Key, Target, TargetKind, TrustDomain};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

fn policy(kind: Kind, namespace: &str, name: &str, created: i64, mut spec: Value) -> Attached {
    spec["targetRefs"] = json!([{ "kind": "Service", "name": "orders" }]);
    let (key, trust_domain, refs) =
        (Key::new(kind.as_str(), namespace, name), TrustDomain::try_from("td".to_string()).unwrap(), BTreeMap::new());
    let context = Context { key: &key, trust_domain: &trust_domain, aliases: &[], paths: PathHandling::default(), refs: &refs };
    let compiled = compile(&PolicySpec::parse(kind, &spec).unwrap(), created, context).unwrap();
    Attached { policy: Arc::new(compiled), buckets: None }
}

fn traffic(name: &str, created: i64, spec: Value) -> Attached {
    policy(Kind::TrafficPolicy, "shop", name, created, spec)
}

fn guard(name: &str, created: i64) -> Attached {
    policy(Kind::AuthorizationPolicy, "shop", name, created, json!({ "rules": [{ "name": "r", "action": "Allow" }] }))
}

fn request(seconds: u32) -> Value {
    json!({ "timeouts": { "request": format!("{seconds}s") } })
}

fn over(seconds: u32) -> Value {
    json!({ "inheritance": "Override", "timeouts": { "request": format!("{seconds}s") } })
}

fn mesh() -> Target {
    Target::new(TargetKind::Mesh, "", "default")
}
fn namespace() -> Target {
    Target::new(TargetKind::Namespace, "", "shop")
}
fn gateway() -> Target {
    Target::new(TargetKind::Gateway, "shop", "public")
}
fn service() -> Target {
    Target::new(TargetKind::Service, "shop", "orders")
}
fn route() -> Target {
    Target::new(TargetKind::HTTPRoute, "shop", "orders")
}

/// Mesh, namespace, Service and port, then Gateway, listener, route and rule: both chains of one point.
fn chain() -> Vec<Target> {
    vec![mesh(), namespace(), service(), service().section("http"), gateway(), gateway().section("https"), route(), route().section("rule")]
}

fn attachments(policies: Vec<(Target, Attached)>) -> Attachments {
    let mut attachments = Attachments::default();
    policies.into_iter().for_each(|(target, policy)| attachments.attach(target, policy));
    attachments
}

/// Where, how many seconds, and whether it says `Override`.
type Setting = (Target, u32, bool);

#[test]
fn the_strongest_setting_wins() {
    let spec = request;
    let table: Vec<(Vec<Setting>, u64)> = vec![
        (vec![(mesh(), 1, false)], 1),
        (vec![(mesh(), 1, false), (namespace(), 2, false)], 2),
        (vec![(gateway(), 1, false), (namespace(), 2, false)], 1),
        (vec![(gateway(), 1, false), (gateway().section("https"), 2, false)], 2),
        (vec![(service(), 1, false), (gateway().section("https"), 2, false)], 1),
        (vec![(service(), 1, false), (service().section("http"), 2, false)], 2),
        (vec![(route(), 1, false), (service().section("http"), 2, false)], 1),
        (vec![(route(), 1, false), (route().section("rule"), 2, false)], 2),
        (vec![(mesh(), 1, true), (route().section("rule"), 2, false)], 1),
        (vec![(mesh(), 1, true), (namespace(), 2, true), (service(), 3, false)], 1),
        (vec![(namespace(), 2, true), (service(), 3, true), (mesh(), 4, false)], 2),
    ];
    for (policies, expected) in table {
        let named = policies.iter().enumerate().map(|(number, (target, seconds, overrides))| {
            (target.clone(), traffic(&format!("t{number}"), 0, if *overrides { over(*seconds) } else { spec(*seconds) }))
        });
        let attachments = attachments(named.collect());
        for chain in [chain(), chain().into_iter().rev().collect()] {
            let set = attachments.traffic(&chain, Settings::default());
            assert_eq!(set.base().request_timeout, Some(Duration::from_secs(expected)), "{policies:?}");
            let own = Settings { request_timeout: Some(Duration::from_secs(99)), ..Settings::default() };
            assert_eq!(attachments.traffic(&chain, own).base().request_timeout, Some(Duration::from_secs(99)), "the route's own field");
        }
    }
}

#[test]
fn fields_merge_one_by_one_and_targets_outside_the_chain_say_nothing() {
    let attachments = attachments(vec![
        (mesh(), traffic("a", 0, json!({ "timeouts": { "request": "1s", "connect": "2s" }, "retry": { "attempts": 1 } }))),
        (service(), traffic("b", 0, json!({ "retry": { "attempts": 0 } }))),
        (Target::new(TargetKind::Service, "shop", "other"), traffic("c", 0, json!({ "retry": { "backoff": "9s" } }))),
        (service(), guard("g", 0)),
    ]);
    let set = attachments.traffic(&chain(), Settings::default());
    let settings = set.base();
    assert_eq!((settings.request_timeout, settings.connect_timeout), (Some(Duration::from_secs(1)), Some(Duration::from_secs(2))));
    assert_eq!((settings.attempts, settings.backoff), (Some(0), None));
}

#[test]
fn on_one_target_the_older_wins_and_the_other_conflicts() {
    let pair = |a: Attached, b: Attached| attachments(vec![(service(), a), (service(), b)]);
    let table = [
        (pair(traffic("a", 2, request(1)), traffic("b", 1, request(2))), 2, "b", "a"),
        (pair(traffic("b", 1, request(1)), traffic("a", 1, request(2))), 2, "a", "b"),
        (pair(policy(Kind::TrafficPolicy, "b", "a", 1, request(1)), policy(Kind::TrafficPolicy, "a", "z", 1, request(2))), 2, "z", "a"),
    ];
    for (attachments, seconds, winner, loser) in table {
        assert_eq!(attachments.traffic(&chain(), Settings::default()).base().request_timeout, Some(Duration::from_secs(seconds)));
        let conflicts = attachments.conflicts();
        let found: Vec<_> = conflicts.iter().map(|c| (c.field, c.winner.name.as_str(), c.loser.name.as_str())).collect();
        assert_eq!(found, [("spec.timeouts.request", winner, loser)]);
    }
    let apart = [
        pair(traffic("a", 0, request(1)), traffic("b", 0, json!({ "retry": { "attempts": 1 } }))),
        pair(traffic("a", 0, request(1)), guard("b", 0)),
        pair(guard("a", 0), guard("b", 0)),
        pair(traffic("a", 0, request(1)), traffic("b", 0, json!({ "when": "request.method == 'GET'", "timeouts": { "request": "2s" } }))),
        attachments(vec![(service(), traffic("a", 0, request(1))), (namespace(), traffic("b", 0, request(2)))]),
    ];
    for attachments in apart {
        assert_eq!(attachments.conflicts(), Vec::<Conflict>::new());
    }
}

#[test]
fn guards_come_from_the_outside_in_and_the_older_first() {
    let attachments = attachments(vec![
        (service(), guard("c", 2)),
        (service(), guard("b", 1)),
        (service(), guard("a", 2)),
        (namespace(), guard("n", 9)),
        (mesh(), traffic("t", 0, request(1))),
        (Target::new(TargetKind::Service, "other", "orders"), guard("x", 0)),
    ]);
    let set = attachments.guards(&chain(), None);
    let found: Vec<(String, Vec<String>)> = set
        .levels
        .iter()
        .map(|level| (level.target.to_string(), level.policies.iter().map(|policy| policy.policy.key.name.clone()).collect()))
        .collect();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(found, [("Namespace shop".to_string(), names(&["n"])), ("Service shop/orders".to_string(), names(&["b", "a", "c"]))]);
    assert!(attachments.guards(&[gateway()], None).is_empty());
}
