use super::*;
use crate::publish::Why::{Absent, Pending, Rejected};
use crate::translate::Reach;
use crate::translate::status::{Condition, ListenerStatus, ParentStatus, Reference, Truth};
use selvage_policy::{Target, TargetKind};
use serde_json::{Value, json};

/// What proxies said: the same of every Resource.
struct Said {
    delivery: Delivery,
    address: bool,
    asked: std::cell::RefCell<Vec<(Key, Option<BTreeSet<Key>>)>>,
}

impl Deliveries for Said {
    fn delivery(&self, key: &Key, views: Option<&BTreeSet<Key>>) -> Delivery {
        self.asked.borrow_mut().push((key.clone(), views.cloned()));
        self.delivery.clone()
    }

    fn has_address(&self, _: &Key) -> bool {
        self.address
    }
}

fn said(readers: usize, connected: usize, lagging: &[(&str, Why)]) -> Said {
    let lagging = lagging.iter().map(|(proxy, why)| Lag { proxy: (*proxy).into(), why: why.clone() }).collect();
    Said { delivery: Delivery { readers, connected, lagging }, address: true, asked: Default::default() }
}

fn key(text: &str) -> Key {
    text.parse().expect("a key")
}

fn listener(name: &str, resource: Option<&str>) -> ListenerStatus {
    ListenerStatus {
        name: name.into(),
        attached_routes: 0,
        supported_kinds: Vec::new(),
        conditions: Vec::new(),
        resource: resource.map(key),
    }
}

/// One object's status, completed.
fn completed(object: &str, status: Status, reach: BTreeMap<Target, Reach>, deliveries: &dyn Deliveries) -> Status {
    let translation = Translation { statuses: [(key(object), status)].into(), reach, ..Translation::default() };
    complete(&translation, deliveries).remove(&key(object)).expect("it stays")
}

#[track_caller]
fn is(condition: &Condition, status: Truth, reason: &str, words: &[&str]) {
    assert_eq!((condition.status, condition.reason), (status, reason), "{condition:?}");
    for word in words {
        assert!(condition.message.contains(word), "{word} is not in: {}", condition.message);
    }
}

#[test]
fn a_listener_is_programmed_when_every_connected_proxy_holds_it() {
    let rejected = || Rejected("port 10080 is in use".into());
    let table = [
        (said(2, 2, &[]), Truth::True, "Programmed", vec![]),
        (said(2, 1, &[("shop/b", Absent)]), Truth::True, "Programmed", vec![]),
        (said(0, 0, &[]), Truth::False, "Pending", vec!["no proxy", "Deployment"]),
        (said(2, 0, &[("shop/a", Absent), ("shop/b", Absent)]), Truth::False, "Pending", vec!["no proxy"]),
        (said(2, 2, &[("shop/b", Pending)]), Truth::False, "Pending", vec!["shop/b has not applied it"]),
        (said(2, 2, &[("shop/a", Pending), ("shop/b", rejected())]), Truth::False, "Invalid", vec!["shop/b", "port 10080 is in use"]),
    ];
    for (deliveries, status, reason, words) in table {
        let gateway = Status { listeners: vec![listener("http", Some("Listener/shop/public#http"))], ..Status::default() };
        let done = completed("Gateway/shop/public", gateway, BTreeMap::new(), &deliveries);
        is(&done.listeners[0].conditions[0], status, reason, &words);
        is(&done.conditions[0], status, reason, &words);
        assert_eq!(deliveries.asked.borrow()[0], (key("Listener/shop/public#http"), None));
    }
}

#[test]
fn a_gateway_is_programmed_when_what_is_valid_of_it_is() {
    let gateway = |listeners: Vec<ListenerStatus>| Status { listeners, ..Status::default() };
    let (good, bad) = (|| listener("http", Some("Listener/shop/public#http")), || listener("odd", None));
    let run = |listeners, deliveries: &Said| completed("Gateway/shop/public", gateway(listeners), BTreeMap::new(), deliveries);
    let done = run(vec![good(), bad()], &said(1, 1, &[]));
    is(&done.conditions[0], Truth::True, "Programmed", &[]);
    is(&done.listeners[1].conditions[0], Truth::False, "Invalid", &["not accepted"]);
    is(&run(vec![bad()], &said(1, 1, &[])).conditions[0], Truth::False, "Invalid", &["none of its listeners"]);
    let without = Said { address: false, ..said(1, 1, &[]) };
    is(&run(vec![good()], &without).conditions[0], Truth::False, "AddressNotAssigned", &["no address"]);
    is(&run(vec![good()], &without).listeners[0].conditions[0], Truth::True, "Programmed", &[]);
    let set = completed("ListenerSet/shop/more", gateway(vec![good()]), BTreeMap::new(), &without);
    is(&set.conditions[0], Truth::True, "Programmed", &[]);
}

#[test]
fn what_is_not_served_says_why_it_was_refused() {
    let refused = |reason| vec![Condition::fails("Accepted", reason, "")];
    let conflicted = ListenerStatus { conditions: refused("HostnameConflict"), ..listener("odd", None) };
    let status = Status { conditions: refused("ListenersNotValid"), listeners: vec![conflicted], ..Status::default() };
    for (object, reason) in [("ListenerSet/shop/more", "ListenersNotValid"), ("Gateway/shop/public", "Invalid")] {
        let done = completed(object, status.clone(), BTreeMap::new(), &said(1, 1, &[]));
        is(&done.listeners[0].conditions[1], Truth::False, "HostnameConflict", &["not accepted"]);
        is(&done.conditions[1], Truth::False, reason, &["none of its listeners"]);
    }
    let unwelcome = Status { conditions: refused("NotAllowed"), ..Status::default() };
    let done = completed("ListenerSet/shop/more", unwelcome, BTreeMap::new(), &said(1, 1, &[]));
    is(&done.conditions[1], Truth::False, "NotAllowed", &[]);
}

fn orders() -> Target {
    Target::new(TargetKind::Service, "shop", "orders")
}

fn policy(accepted: bool, targets: Vec<Target>) -> Status {
    let outcome =
        if accepted { Condition::holds("Accepted", "Accepted", "") } else { Condition::fails("Accepted", "Invalid", "spec.rules: x") };
    let reference = Reference::object("", "Service", None, "orders");
    Status { parents: vec![ParentStatus { reference, conditions: vec![outcome], targets }], ..Status::default() }
}

fn reach(at: &[&str], around: &[&str], excluded: &[&str]) -> BTreeMap<Target, Reach> {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    [(orders(), Reach { at: at.iter().map(|text| key(text)).collect(), around: texts(around), excluded: texts(excluded) })].into()
}

#[test]
fn a_guard_is_enforced_where_every_proxy_before_its_target_holds_it_and_nothing_goes_round() {
    let both = ["Pod/shop/orders-0", "Pod/shop/orders-1"];
    let table = [
        (reach(&both, &[], &[]), said(2, 2, &[]), Truth::True, "Enforced", vec![]),
        (reach(&both, &[], &[]), said(2, 2, &[("shop/orders-1", Pending)]), Truth::False, "Lagging", vec!["shop/orders-1 has not applied"]),
        (reach(&both, &[], &[]), said(2, 1, &[("shop/orders-1", Absent)]), Truth::False, "Lagging", vec!["shop/orders-1 is not connected"]),
        (
            reach(&both, &[], &[]),
            said(2, 2, &[("shop/orders-0", Pending), ("shop/orders-1", Rejected("unknown kind".into()))]),
            Truth::False,
            "Rejected",
            vec!["shop/orders-1 cannot use it: unknown kind; shop/orders-0"],
        ),
        (reach(&both, &[], &[]), said(2, 0, &[("a", Absent), ("b", Absent)]), Truth::Unknown, "Lagging", vec!["none of the 2"]),
        (
            reach(&both, &["shop/orders-old"], &[]),
            said(2, 2, &[]),
            Truth::False,
            "Bypassable",
            vec!["shop/orders-old", "give these workloads a sidecar"],
        ),
        (reach(&[], &["a", "b", "c", "d", "e"], &[]), said(0, 0, &[]), Truth::False, "Bypassable", vec!["a; b; c; and 2 more"]),
        (reach(&both, &[], &["shop/orders-0:9000"]), said(2, 2, &[]), Truth::False, "Excluded", vec!["shop/orders-0:9000"]),
        (reach(&[], &[], &[]), said(0, 0, &[]), Truth::False, "NoEnforcementPoint", vec!["no proxy"]),
        // There is a Pod with a sidecar, and its node is not known yet.
        (reach(&both, &[], &[]), said(0, 0, &[]), Truth::False, "NoEnforcementPoint", vec!["now"]),
    ];
    for (reach, deliveries, status, reason, words) in table {
        let at = reach[&orders()].at.clone();
        let done = completed("AuthorizationPolicy/shop/p", policy(true, vec![orders()]), reach, &deliveries);
        is(&done.parents[0].conditions[1], status, reason, &words);
        for (asked, views) in deliveries.asked.borrow().iter() {
            assert_eq!((asked.to_string().as_str(), views.as_ref()), ("AuthorizationPolicy/shop/p", Some(&at)), "callers do not count");
        }
    }
}

#[test]
fn a_traffic_policy_is_enforced_by_whoever_is_told_of_it() {
    for (deliveries, status, reason) in [
        (said(3, 3, &[]), Truth::True, "Enforced"),
        (said(3, 3, &[("shop/web", Pending)]), Truth::False, "Lagging"),
        (said(0, 0, &[]), Truth::False, "NoEnforcementPoint"),
    ] {
        let done = completed("TrafficPolicy/shop/p", policy(true, vec![orders()]), reach(&[], &["shop/bare"], &[]), &deliveries);
        is(&done.parents[0].conditions[1], status, reason, &[]);
        assert_eq!(deliveries.asked.borrow().as_slice(), [(key("TrafficPolicy/shop/p"), None)]);
    }
}

#[test]
fn what_is_not_accepted_is_not_said_to_be_enforced() {
    let deliveries = said(1, 1, &[]);
    let run = |kind: &str, status: Status| completed(&format!("{kind}/shop/p"), status, reach(&["Pod/shop/a"], &[], &[]), &deliveries);
    let invalid = || policy(false, vec![orders()]);
    is(&run("AuthorizationPolicy", invalid()).parents[0].conditions[1], Truth::False, "Invalid", &["its targets answer an error"]);
    is(&run("TrafficPolicy", invalid()).parents[0].conditions[1], Truth::False, "Invalid", &["served without it"]);
    is(&run("AuthorizationPolicy", policy(false, vec![])).parents[0].conditions[1], Truth::False, "NoEnforcementPoint", &["see Accepted"]);
}

#[test]
fn before_anything_runs_only_what_the_world_says_is_complained_of() {
    let run = |around: &[&str]| {
        completed("AuthorizationPolicy/shop/p", policy(true, vec![orders()]), reach(&["Pod/shop/a"], around, &[]), &Foreseen)
    };
    is(&run(&[]).parents[0].conditions[1], Truth::True, "Enforced", &[]);
    is(&run(&["shop/bare"]).parents[0].conditions[1], Truth::False, "Bypassable", &["shop/bare"]);
}

/// A Gateway and a policy, each with one condition that holds or lags.
fn two(generation: i64, programmed: Condition, enforced: Condition) -> BTreeMap<Key, Status> {
    let gateway = Status { observed_generation: generation, conditions: vec![programmed], ..Status::default() };
    let mut guard = Status { observed_generation: generation, ..policy(true, vec![orders()]) };
    guard.parents[0].conditions.push(enforced);
    [(key("Gateway/shop/public"), gateway), (key("AuthorizationPolicy/shop/p"), guard)].into()
}

/// Objects without a status.
fn nobody(_: &Key) -> Option<Value> {
    None
}

/// What is said of the two.
fn truths(said: &BTreeMap<Key, Status>) -> (Truth, Truth) {
    (said[&key("Gateway/shop/public")].conditions[0].status, said[&key("AuthorizationPolicy/shop/p")].parents[0].conditions[1].status)
}

#[test]
fn what_lags_for_a_moment_is_not_said() {
    let good = |generation| two(generation, Condition::holds("Programmed", "Programmed", ""), Condition::holds("Enforced", "Enforced", ""));
    let lagging =
        |generation| two(generation, Condition::fails("Programmed", "Pending", "x"), Condition::fails("Enforced", "Lagging", "x"));
    let wrong =
        |generation| two(generation, Condition::fails("Programmed", "Invalid", "x"), Condition::fails("Enforced", "Bypassable", "x"));
    let (fine, bad) = ((Truth::True, Truth::True), (Truth::False, Truth::False));
    let begin = std::time::Instant::now();
    let second = std::time::Duration::from_secs(1);
    let mut steady = Steady::default();
    assert_eq!(truths(&steady.say(lagging(1), begin, nobody).0), bad, "it never held");
    assert_eq!(truths(&steady.say(good(1), begin, nobody).0), fine);
    let (said, again) = steady.say(lagging(1), begin + second, nobody);
    assert_eq!((truths(&said), again), (fine, Some(begin + second + PATIENCE)));
    assert_eq!(truths(&steady.say(lagging(1), begin + PATIENCE, nobody).0), fine);
    let (said, again) = steady.say(lagging(1), begin + second + PATIENCE, nobody);
    assert_eq!((truths(&said), again), (bad, None), "it has lagged for long enough");
    // A moment of health begins it anew.
    assert_eq!(truths(&steady.say(good(1), begin + 20 * second, nobody).0), fine);
    assert_eq!(truths(&steady.say(lagging(1), begin + 21 * second, nobody).0), fine);
    assert_eq!(truths(&steady.say(good(1), begin + 22 * second, nobody).0), fine);
    assert_eq!(truths(&steady.say(lagging(1), begin + 31 * second, nobody).0), fine);
    // What is wrong, what a proxy cannot use, and what was edited, is said at once.
    let rejected = two(1, Condition::holds("Programmed", "Programmed", ""), Condition::fails("Enforced", "Rejected", "x"));
    assert_eq!(truths(&steady.say(rejected, begin + 31 * second, nobody).0), (Truth::True, Truth::False));
    assert_eq!(truths(&steady.say(good(1), begin + 31 * second, nobody).0), fine);
    assert_eq!(truths(&steady.say(wrong(1), begin + 32 * second, nobody).0), bad);
    assert_eq!(truths(&steady.say(good(1), begin + 33 * second, nobody).0), fine);
    assert_eq!(truths(&steady.say(lagging(2), begin + 34 * second, nobody).0), bad, "it held of another generation");
}

/// As the API server has it after a controller that ended.
fn written(truth: &str) -> impl Fn(&Key) -> Option<Value> {
    let condition = |kind: &str| json!({"type": kind, "status": truth, "reason": "x", "message": "x", "observedGeneration": 1});
    let ancestor = |controller: &str, name: &str, conditions: Value| json!({"ancestorRef": {"group": "", "kind": "Service", "name": name}, "controllerName": controller, "conditions": conditions});
    let gateway = json!({"conditions": [condition("Accepted"), condition("Programmed")]});
    let guard = json!({"ancestors": [
        ancestor("example.com/other", "orders", json!([])),
        ancestor("selvage.dev/controller", "orders", json!([condition("Enforced")])),
    ]});
    move |key| Some(if key.kind == "Gateway" { gateway.clone() } else { guard.clone() })
}

#[test]
fn what_was_said_before_a_controller_began_holds_until_proxies_had_time_to_come() {
    let lagging =
        |generation| two(generation, Condition::fails("Programmed", "Pending", "x"), Condition::fails("Enforced", "Lagging", "x"));
    let rejected = || two(1, Condition::fails("Programmed", "Invalid", "x"), Condition::fails("Enforced", "Rejected", "x"));
    let (fine, bad) = ((Truth::True, Truth::True), (Truth::False, Truth::False));
    let (begin, second) = (std::time::Instant::now(), std::time::Duration::from_secs(1));
    let begun = || {
        let mut steady = Steady::default();
        steady.begin(begin);
        steady
    };
    let mut steady = begun();
    let (said, again) = steady.say(lagging(1), begin + second, written("True"));
    assert_eq!((truths(&said), again), (fine, Some(begin + GRACE)));
    // A proxy that has just failed to connect waits, and takes its time then.
    let (said, _) = steady.say(lagging(1), begin + GRACE - second, nobody);
    assert_eq!(truths(&said), fine);
    let (said, again) = steady.say(lagging(1), begin + GRACE, nobody);
    assert_eq!((truths(&said), again), (bad, None));
    for (what, next, before) in [
        ("what was not said before", lagging(1), written("False")),
        ("what was said of another generation", lagging(2), written("True")),
        ("what does not only lag", rejected(), written("True")),
    ] {
        assert_eq!(truths(&begun().say(next, begin + second, before).0), bad, "{what} is said at once");
    }
    assert_eq!(truths(&begun().say(lagging(1), begin + second, nobody).0), bad, "nobody said anything");
}
