//! How the guards of one point work together: targets, posture, inheritance, audit, explain.

use crate::list::{Attached, Compiled, GuardSet, Invalid, Kind, Outcome, Purpose};
use crate::mesh::Posture;
use crate::reason::Reason;
use crate::sample::{Sample, attached, authorization, levels, limits, namespace, on_service, policy, posture, service};
use crate::target::{Target, TargetKind};
use serde_json::{Value, json};

fn with_rule(action: &str, mut rule: Value) -> Value {
    rule["name"] = json!("r");
    rule["action"] = json!(action);
    json!({ "rules": [rule] })
}

/// A policy that allows (or denies) callers of one service account.
fn account(name: &str, action: &str, account: &str) -> Attached {
    authorization(name, with_rule(action, json!({ "from": [{ "serviceAccount": account }] })))
}

fn storefront() -> Sample {
    Sample::get("/orders/7").from("shop/storefront")
}

#[test]
fn on_one_target_any_deny_denies_and_allows_are_ored() {
    let anyone = |name: &str, action: &str| authorization(name, with_rule(action, json!({})));
    let table = [
        (vec![account("a", "Allow", "storefront"), account("b", "Allow", "catalogue")], "allow a r"),
        (vec![account("a", "Allow", "catalogue"), account("b", "Allow", "storefront")], "allow b r"),
        (vec![account("a", "Allow", "catalogue"), account("b", "Allow", "payments")], "deny authorization_denied a"),
        (vec![account("a", "Allow", "storefront"), account("b", "Deny", "storefront")], "deny authorization_denied b r"),
        (vec![account("a", "Deny", "storefront"), anyone("b", "Allow")], "deny authorization_denied a r"),
        (vec![account("a", "Deny", "catalogue")], "allow"),
        (vec![account("a", "Deny", "catalogue"), account("b", "Allow", "catalogue")], "deny authorization_denied b"),
        (vec![], "allow"),
    ];
    for (policies, expected) in table {
        let names: Vec<String> = policies.iter().map(|policy| policy.policy.key.to_string()).collect();
        assert_eq!(storefront().verdict(&on_service(policies)), expected, "{names:?}");
    }
    let both = json!({ "rules": [
        { "name": "all", "action": "Allow" },
        { "name": "not-writes", "action": "Deny", "to": [{ "methods": ["POST"] }] },
    ] });
    let set = on_service(vec![authorization("p", both)]);
    assert_eq!(storefront().verdict(&set), "allow p all");
    assert_eq!(storefront().method("POST").verdict(&set), "deny authorization_denied p not-writes");
}

#[test]
fn between_targets_all_must_agree() {
    let set = |outer: Attached, inner: Attached| levels(vec![(namespace(), vec![outer]), (service(), vec![inner])]);
    let table = [
        (set(account("a", "Allow", "storefront"), account("b", "Allow", "storefront")), "allow b r"),
        (set(account("a", "Allow", "catalogue"), account("b", "Allow", "storefront")), "deny authorization_denied a"),
        (set(account("a", "Allow", "storefront"), account("b", "Allow", "catalogue")), "deny authorization_denied b"),
        (set(account("a", "Deny", "storefront"), account("b", "Allow", "storefront")), "deny authorization_denied a r"),
        (set(account("a", "Allow", "storefront"), account("b", "Deny", "storefront")), "deny authorization_denied b r"),
        (set(account("a", "Deny", "catalogue"), account("b", "Allow", "storefront")), "allow b r"),
        (set(account("a", "Allow", "storefront"), account("b", "Deny", "catalogue")), "allow a r"),
    ];
    for (set, expected) in table {
        assert_eq!(storefront().verdict(&set), expected);
    }
}

#[test]
fn the_posture_holds_where_no_allow_rule_is_attached() {
    let (nobody, near, far) = (|| Sample::get("/"), storefront, || Sample::get("/").from("other/x"));
    let foreign = || Sample::get("/").from("spiffe://partner.example/ns/shop/sa/x");
    let alias = || Sample::get("/").from("spiffe://old.example/ns/shop/sa/x");
    let denied = "deny posture_denied";
    let table = [
        (Posture::AllowAll, nobody(), "allow"),
        (Posture::MeshOnly, nobody(), denied),
        (Posture::MeshOnly, far(), "allow"),
        (Posture::MeshOnly, foreign(), denied),
        (Posture::MeshOnly, alias(), "allow"),
        (Posture::SameNamespace, nobody(), denied),
        (Posture::SameNamespace, near(), "allow"),
        (Posture::SameNamespace, far(), denied),
        (Posture::SameNamespace, foreign(), denied),
        (Posture::SameNamespace, alias(), "allow"),
        (Posture::SameNamespace, Sample::tcp().from("shop/x"), "allow"),
        (Posture::Deny, near(), denied),
        (Posture::Deny, Sample::tcp(), denied),
    ];
    for (kind, sample, expected) in table {
        assert_eq!(sample.verdict(&posture(GuardSet::default(), kind)), expected, "{kind:?} {sample:?}");
        let beside_a_deny = posture(on_service(vec![account("a", "Deny", "nobody")]), kind);
        let expected = if sample.verdict(&on_service(vec![account("a", "Deny", "nobody")])) == "allow" { expected } else { continue };
        assert_eq!(sample.verdict(&beside_a_deny), expected, "{kind:?} beside a deny rule, {sample:?}");
    }
    let set = posture(on_service(vec![account("a", "Allow", "storefront")]), Posture::Deny);
    assert_eq!(storefront().verdict(&set), "allow a r");
    let outer = posture(levels(vec![(namespace(), vec![account("a", "Allow", "storefront")])]), Posture::Deny);
    assert_eq!(storefront().verdict(&outer), "allow a r");
}

#[test]
fn a_policy_whose_condition_is_false_does_not_count_as_attached() {
    let only = |condition: &str| {
        authorization(
            "a",
            json!({ "when": condition, "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "catalogue" }] }] }),
        )
    };
    assert_eq!(storefront().verdict(&on_service(vec![only("request.method == 'POST'")])), "allow");
    assert_eq!(storefront().method("POST").verdict(&on_service(vec![only("request.method == 'POST'")])), "deny authorization_denied a");
    let set = posture(on_service(vec![only("request.method == 'POST'")]), Posture::Deny);
    assert_eq!(storefront().verdict(&set), "deny posture_denied");

    let denying = |condition: &str| authorization("a", json!({ "when": condition, "rules": [{ "name": "r", "action": "Deny" }] }));
    assert_eq!(storefront().verdict(&on_service(vec![denying("false")])), "allow");
    assert_eq!(storefront().verdict(&on_service(vec![denying("true")])), "deny authorization_denied a r");
    // An absent fact in `when`: the denies hold, the allows do not.
    let absent = "request.headers['x-beta'] == '1'";
    assert_eq!(storefront().verdict(&on_service(vec![denying(absent)])), "deny authorization_denied a r");
    let allowing = authorization("a", json!({ "when": absent, "rules": [{ "name": "r", "action": "Allow" }] }));
    assert_eq!(storefront().verdict(&on_service(vec![allowing.clone()])), "deny authorization_denied a");
    assert_eq!(storefront().header("x-beta", "1").verdict(&on_service(vec![allowing.clone()])), "allow a r");
    assert_eq!(storefront().verdict(&on_service(vec![allowing, account("b", "Allow", "storefront")])), "allow b r");
}

#[test]
fn a_default_guard_holds_only_where_nothing_closer_is_attached() {
    let default = |name: &str| authorization(name, json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Deny" }] }));
    let closer = || account("b", "Allow", "storefront");
    let conditional = |when: &str| authorization("b", json!({ "when": when, "rules": [{ "name": "r", "action": "Allow" }] }));
    let set = |outer: Attached, inner: Vec<Attached>| levels(vec![(namespace(), vec![outer]), (service(), inner)]);

    assert_eq!(storefront().verdict(&set(default("a"), vec![])), "deny authorization_denied a r");
    assert_eq!(storefront().verdict(&set(default("a"), vec![closer()])), "allow b r");
    assert_eq!(storefront().verdict(&set(account("a", "Deny", "storefront"), vec![closer()])), "deny authorization_denied a r");
    // What is not attached displaces nothing.
    assert_eq!(storefront().verdict(&set(default("a"), vec![conditional("request.method == 'POST'")])), "deny authorization_denied a r");
    assert_eq!(storefront().method("POST").verdict(&set(default("a"), vec![conditional("request.method == 'POST'")])), "allow b r");
    // Nor does what may be attached, what fails, or what only audits.
    for when in ["request.headers['x-beta'] == '1'", "1 / 0 == 1"] {
        assert_eq!(storefront().verdict(&set(default("a"), vec![conditional(when)])), "deny authorization_denied a r", "{when}");
    }
    assert_eq!(
        storefront().header("x-beta", "1").verdict(&set(default("a"), vec![conditional("request.headers['x-beta'] == '1'")])),
        "allow b r"
    );
    let auditing = authorization("b", json!({ "mode": "Audit", "rules": [{ "name": "r", "action": "Allow" }] }));
    assert_eq!(storefront().verdict(&set(default("a"), vec![auditing])), "deny authorization_denied a r");
    let limit = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["limits"] = json!([{ "name": name, "requests": 1, "per": "24h" }]);
        limits(name, spec)
    };
    let outer = || limit("outer", json!({ "inheritance": "Default" }));
    let table = [
        (json!({}), Some("inner")),
        (json!({ "when": "request.method == 'POST'" }), Some("outer")),
        // Both count: it is not known whether the inner one applies.
        (json!({ "when": "request.headers['x-beta'] == '1'" }), Some("outer")),
    ];
    for (inner, by) in table {
        let set = set(outer(), vec![limit("inner", inner.clone())]);
        assert_eq!(storefront().verdict(&set), "allow", "{inner}");
        let denial = storefront().run(&set, Purpose::Live).denial;
        assert_eq!(denial.and_then(|denial| denial.policy).map(|key| key.name.clone()).as_deref(), by, "{inner}");
    }
    // Another kind displaces nothing.
    let limit = crate::sample::limits("l", json!({ "limits": [{ "name": "x", "requests": 9, "per": "1s" }] }));
    assert_eq!(storefront().verdict(&set(default("a"), vec![limit])), "deny authorization_denied a r");
    // The innermost default stays.
    assert_eq!(storefront().verdict(&set(default("a"), vec![default("b")])), "deny authorization_denied b r");
    // A displaced allow rule does not count as attached.
    let allowing = authorization("a", json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Allow" }] }));
    let denying = account("b", "Deny", "nobody");
    assert_eq!(storefront().verdict(&posture(set(allowing, vec![denying]), Posture::Deny)), "deny posture_denied");
    // A port of the same Service is closer than the Service; a second Service over the same pods is not.
    let (port, other_port) = (service().section("http"), Target::new(TargetKind::Service, "shop", "other").section("http"));
    let on = |inner: Target| levels(vec![(service(), vec![default("a")]), (inner, vec![closer()])]);
    assert_eq!(storefront().verdict(&on(port)), "allow b r");
    assert_eq!(storefront().verdict(&on(other_port)), "deny authorization_denied a r");
    assert_eq!(storefront().verdict(&on(Target::new(TargetKind::Workload, "shop", "orders-0"))), "allow b r");
}

#[test]
fn audit_reports_and_passes() {
    // A function: rustc 1.95 passes equal arguments of a closure's calls twice when it optimises (rust-lang/rust#155241).
    fn audit(name: &str, action: &str, condition: Value) -> Attached {
        let mut spec = with_rule(action, condition);
        spec["mode"] = json!("Audit");
        authorization(name, spec)
    }
    let catalogue = || json!({ "from": [{ "serviceAccount": "catalogue" }] });
    let reported = |set: &GuardSet| {
        let decision = storefront().run(set, Purpose::Live);
        let explained = storefront().run(set, Purpose::Explain);
        assert_eq!(decision.audited, explained.audited);
        decision.audited.iter().map(|denial| format!("{} {}", denial.reason, denial.policy.as_ref().unwrap().name)).collect::<Vec<_>>()
    };
    let table = [
        (vec![audit("a", "Deny", json!({}))], "allow", vec!["authorization_denied a"]),
        (vec![audit("a", "Deny", catalogue())], "allow", vec![]),
        (vec![audit("a", "Allow", catalogue())], "allow", vec!["authorization_denied a"]),
        (vec![audit("a", "Allow", json!({}))], "allow", vec![]),
        (vec![audit("a", "Deny", json!({ "when": "1 / 0 == 1" }))], "allow", vec!["policy_error a"]),
        (
            vec![audit("a", "Deny", json!({})), account("b", "Allow", "catalogue")],
            "deny authorization_denied b",
            vec!["authorization_denied a"],
        ),
        (vec![audit("a", "Allow", catalogue()), account("b", "Allow", "storefront")], "allow b r", vec![]),
    ];
    for (policies, verdict, audited) in table {
        let set = on_service(policies);
        assert_eq!(
            (storefront().verdict(&set).as_str(), reported(&set)),
            (verdict, audited.into_iter().map(String::from).collect::<Vec<_>>())
        );
    }
    // One report a policy, however many of its rules would refuse, and wherever it is attached.
    let both = json!({ "mode": "Audit", "rules": [{ "name": "r", "action": "Deny" }, { "name": "s", "action": "Allow", "from": [{ "serviceAccount": "catalogue" }] }] });
    let both = authorization("a", both);
    assert_eq!(reported(&on_service(vec![both.clone()])), ["authorization_denied a"]);
    assert_eq!(reported(&levels(vec![(namespace(), vec![both.clone()]), (service(), vec![both])])), ["authorization_denied a"]);
    // What only audits is not attached: the posture holds beside it.
    let set = posture(on_service(vec![audit("a", "Allow", json!({}))]), Posture::Deny);
    assert_eq!(storefront().verdict(&set), "deny posture_denied");
}

#[test]
fn a_guard_that_cannot_be_enforced_refuses() {
    let key = || crate::Key::new("AuthorizationPolicy", "shop", "broken");
    let table = [
        (Invalid::field("spec.rules[0].when", "no"), "deny policy_invalid broken"),
        (
            Invalid::Unresolved { field: "spec.rules[0].from[0].gateway".into(), reference: "gateway:shop/x".into() },
            "deny policy_unresolved broken",
        ),
        (Invalid::UnknownKind("FirewallPolicy".into()), "deny policy_unknown broken"),
    ];
    for (invalid, expected) in table {
        let refusing = attached(Compiled::refusing(key(), 0, &json!({}), &invalid));
        assert_eq!(storefront().verdict(&on_service(vec![account("a", "Allow", "storefront"), refusing.clone()])), expected);
        let explained = storefront().run(&on_service(vec![refusing]), Purpose::Explain);
        assert_eq!(explained.steps[0].detail, invalid.to_string());
        assert!(!explained.denial.unwrap().detail.contains("spec."), "callers are not told how the policy is written");
    }
}

#[test]
fn explain_names_every_policy() {
    let conditional = authorization("c", json!({ "when": "request.method == 'POST'", "rules": [{ "name": "r", "action": "Deny" }] }));
    let policies = vec![
        account("a", "Allow", "catalogue"),
        account("b", "Allow", "storefront"),
        conditional,
        account("d", "Deny", "x"),
        account("e", "Allow", "y"),
    ];
    let set = levels(vec![
        (namespace(), policies),
        (service(), vec![account("f", "Deny", "storefront"), account("g", "Deny", "x")]),
        (Target::new(TargetKind::Workload, "shop", "w"), vec![account("h", "Allow", "x")]),
    ]);
    let decision = storefront().run(&set, Purpose::Explain);
    let said: Vec<(String, Outcome, Option<String>)> =
        decision.steps.into_iter().map(|step| (step.policy.name, step.outcome, step.rule)).collect();
    let rule = || Some("r".to_string());
    let expected = [
        ("a", Outcome::Passed, None),
        ("b", Outcome::Allowed, rule()),
        ("c", Outcome::NotApplicable, None),
        ("d", Outcome::Passed, None),
        ("e", Outcome::Passed, None),
        ("f", Outcome::Denied, rule()),
        ("g", Outcome::NotReached, None),
        ("h", Outcome::NotReached, None),
    ];
    assert_eq!(said, expected.map(|(name, outcome, rule)| (name.to_string(), outcome, rule)));
    let refused = storefront().run(&posture(GuardSet::default(), Posture::Deny), Purpose::Explain);
    assert_eq!((refused.steps[0].policy.to_string().as_str(), refused.steps[0].outcome), ("MeshConfig/default", Outcome::Denied));
}

#[test]
fn details_are_hidden_on_request() {
    let spec = json!({ "hideDetails": true, "rules": [{ "name": "r", "action": "Deny" }] });
    let denial = storefront().run(&on_service(vec![authorization("a", spec)]), Purpose::Live).denial.unwrap();
    assert!(denial.hidden);
    assert_eq!((denial.reason, denial.policy.unwrap().name.as_str()), (Reason::AuthorizationDenied, "a"));
    // Of a policy that cannot be enforced as well; where that cannot be read, nothing is told.
    for (spec, hidden) in [
        (json!({ "rules": [] }), false),
        (json!({ "hideDetails": false, "rules": 7 }), false),
        (json!({ "hideDetails": true, "rules": 7 }), true),
        (json!({ "hideDetails": "yes" }), true),
        (Value::Null, true),
    ] {
        let key = crate::Key::new("AuthorizationPolicy", "shop", "a");
        let refusing = attached(Compiled::refusing(key, 0, &spec, &Invalid::field("spec.rules", "no")));
        let denial = storefront().run(&on_service(vec![refusing]), Purpose::Live).denial.unwrap();
        assert_eq!((denial.hidden, denial.policy.unwrap().name.as_str()), (hidden, "a"), "{spec}");
    }
}

#[test]
fn a_filter_that_panics_denies() {
    let mut broken = policy(Kind::AuthorizationPolicy, "a", with_rule("Allow", json!({}))).unwrap();
    broken.when = Some(crate::expression::Expression::panicking());
    assert_eq!(storefront().verdict(&on_service(vec![attached(broken)])), "deny policy_error a");
}

#[test]
fn what_is_under_way_is_asked_about_authorization_and_not_counted_again() {
    let limit = || limits("l", json!({ "limits": [{ "name": "l", "requests": 1, "per": "24h" }] }));
    let set = on_service(vec![account("a", "Allow", "storefront"), limit()]);
    assert_eq!(storefront().verdict(&set), "allow a r");
    assert_eq!(storefront().run(&set, Purpose::Live).denial.expect("it is used up").reason, Reason::RateLimited);
    assert_eq!(storefront().run(&set, Purpose::Recheck).denial, None, "it was counted when it began");
    let denied = on_service(vec![account("a", "Deny", "storefront"), limit()]);
    assert_eq!(storefront().run(&denied, Purpose::Recheck).denial.expect("a deny rule").reason, Reason::AuthorizationDenied);
    let closed = posture(GuardSet::default(), Posture::Deny);
    assert_eq!(storefront().run(&closed, Purpose::Recheck).denial.expect("the posture").reason, Reason::PostureDenied);
    for (kind, reason) in
        [("RateLimitPolicy", None), ("AuthorizationPolicy", Some(Reason::PolicyInvalid)), ("Newer", Some(Reason::PolicyInvalid))]
    {
        let broken = Compiled::refusing(crate::key::Key::new(kind, "shop", "x"), 0, &json!({}), &Invalid::field("spec", "broken"));
        let decision = storefront().run(&on_service(vec![attached(broken)]), Purpose::Recheck);
        assert_eq!(decision.denial.map(|denial| denial.reason), reason, "{kind}");
    }
}
