//! Tables of verdicts: what the rules of one or more AuthorizationPolicies make of a request.

use crate::list::{Attached, Compiled, GuardSet, Invalid, Kind, Outcome, Purpose};
use crate::mesh::Posture;
use crate::reason::Reason;
use crate::sample::{Sample, attached, authorization, levels, namespace, on_service, policy, posture, service};
use crate::target::{Target, TargetKind};
use serde_json::{Value, json};

/// One rule in a policy `p`.
fn rule(action: &str, rule: Value) -> Vec<Attached> {
    vec![authorization("p", with_rule(action, rule))]
}

fn with_rule(action: &str, mut rule: Value) -> Value {
    rule["name"] = json!("r");
    rule["action"] = json!(action);
    json!({ "rules": [rule] })
}

/// A policy that allows (or denies) callers of one service account.
fn account(name: &str, action: &str, account: &str) -> Attached {
    authorization(name, with_rule(action, json!({ "from": [{ "serviceAccount": account }] })))
}

const ALLOWED: &str = "allow p r";
const NOT_ALLOWED: &str = "deny authorization_denied p";
const DENIED: &str = "deny authorization_denied p r";
const NOT_DENIED: &str = "allow";

fn storefront() -> Sample {
    Sample::get("/orders/7").from("shop/storefront")
}

/// Each condition is tried in an allow rule and in a deny rule; a known fact gives the same answer in both.
#[test]
fn a_condition_on_a_known_fact_matches_or_does_not() {
    let from = |value: Value| json!({ "from": [value] });
    let to = |value: Value| json!({ "to": [value] });
    let header = |name: &str, values: Value| json!({ "to": [{ "headers": [{ "name": name, "values": values }] }] });
    let foreign = || Sample::get("/").from("spiffe://partner.example/ns/shop/sa/storefront");
    let alias = || Sample::get("/").from("spiffe://old.example/ns/shop/sa/storefront");
    let table: Vec<(Value, Sample, bool)> = vec![
        (json!({}), storefront(), true),
        (json!({}), Sample::get("/"), true),
        (json!({}), Sample::tcp(), true),
        // Service accounts and namespaces.
        (from(json!({ "serviceAccount": "storefront" })), storefront(), true),
        (from(json!({ "serviceAccount": "storefront" })), Sample::get("/").from("shop/catalogue"), false),
        (from(json!({ "serviceAccount": "storefront" })), Sample::get("/").from("other/storefront"), false),
        (from(json!({ "serviceAccount": "storefront", "namespace": "other" })), Sample::get("/").from("other/storefront"), true),
        (from(json!({ "serviceAccount": "storefront", "namespace": "other" })), storefront(), false),
        (from(json!({ "namespace": "shop" })), storefront(), true),
        (from(json!({ "namespace": "shop" })), Sample::get("/").from("shop2/storefront"), false),
        (from(json!({ "namespace": "other" })), Sample::tcp().from("other/x"), true),
        // Trust domains: ours, an alias, a stranger's.
        (from(json!({ "serviceAccount": "storefront" })), alias(), true),
        (from(json!({ "serviceAccount": "storefront" })), foreign(), false),
        (from(json!({ "namespace": "shop" })), alias(), true),
        (from(json!({ "namespace": "shop" })), foreign(), false),
        (from(json!({ "principal": "spiffe://cluster.local/ns/shop/sa/storefront" })), storefront(), true),
        (from(json!({ "principal": "spiffe://cluster.local/ns/shop/sa/storefront" })), alias(), true),
        (from(json!({ "principal": "spiffe://old.example/ns/shop/sa/storefront" })), storefront(), true),
        (from(json!({ "principal": "spiffe://partner.example/ns/shop/sa/storefront" })), foreign(), true),
        (from(json!({ "principal": "spiffe://partner.example/ns/shop/sa/storefront" })), storefront(), false),
        // Gateways as principals.
        (from(json!({ "gateway": "public" })), Sample::get("/").from("shop/public-selvage"), true),
        (from(json!({ "gateway": "public" })), Sample::get("/").from("spiffe://old.example/ns/shop/sa/public-selvage"), true),
        (from(json!({ "gateway": "public" })), Sample::get("/").from("other/public-selvage"), false),
        (from(json!({ "gateway": "public" })), storefront(), false),
        // Addresses.
        (from(json!({ "ipBlocks": ["192.0.2.0/24"] })), storefront(), true),
        (from(json!({ "ipBlocks": ["198.51.100.0/24"] })), storefront(), false),
        (from(json!({ "ipBlocks": ["198.51.100.0/24", "192.0.2.7"] })), storefront(), true),
        (from(json!({ "ipBlocks": ["2001:db8::/32"] })), storefront().address("2001:db8::1"), true),
        (from(json!({ "ipBlocks": ["192.0.2.0/24"] })), storefront().address("::ffff:192.0.2.9"), true),
        (from(json!({ "ipBlocks": ["0.0.0.0/0"] })), storefront().address("2001:db8::1"), false),
        (from(json!({ "ipBlocks": ["192.0.2.0/24"] })), Sample::tcp(), true),
        // The fields of one item are ANDed, items are ORed.
        (from(json!({ "serviceAccount": "storefront", "ipBlocks": ["192.0.2.0/24"] })), storefront(), true),
        (from(json!({ "serviceAccount": "storefront", "ipBlocks": ["198.51.100.0/24"] })), storefront(), false),
        (json!({ "from": [{ "serviceAccount": "catalogue" }, { "serviceAccount": "storefront" }] }), storefront(), true),
        (json!({ "from": [{ "namespace": "a" }, { "namespace": "b" }] }), storefront(), false),
        // Methods, paths, hosts, ports.
        (to(json!({ "methods": ["GET", "HEAD"] })), storefront(), true),
        (to(json!({ "methods": ["POST"] })), storefront(), false),
        (to(json!({ "methods": ["GET"] })), storefront().method("get"), false),
        (to(json!({ "paths": ["/orders/7"] })), storefront(), true),
        (to(json!({ "paths": ["/orders"] })), storefront(), false),
        (to(json!({ "paths": ["/orders/*"] })), storefront(), true),
        (to(json!({ "paths": ["/orders/*"] })), Sample::get("/orders"), true),
        (to(json!({ "paths": ["/orders/*"] })), Sample::get("/orders/"), true),
        (to(json!({ "paths": ["/orders/*"] })), Sample::get("/ordersx"), false),
        (to(json!({ "paths": ["/orders/*"] })), Sample::get("/a/orders/7"), false),
        (to(json!({ "paths": ["/*"] })), Sample::get("/"), true),
        (to(json!({ "paths": ["/orders/7"] })), Sample::get("/orders/7/"), false),
        (to(json!({ "paths": ["/a", "/orders/*"] })), storefront(), true),
        (to(json!({ "hosts": ["orders.shop"] })), storefront(), true),
        (to(json!({ "hosts": ["*.shop"] })), storefront(), true),
        (to(json!({ "hosts": ["*.orders.shop"] })), storefront(), false),
        (to(json!({ "hosts": ["*.shop"] })), storefront().host("workshop"), false),
        (to(json!({ "hosts": ["shop"] })), storefront(), false),
        (to(json!({ "ports": [8080, 9090] })), storefront(), true),
        (to(json!({ "ports": [9090] })), storefront(), false),
        (to(json!({ "ports": [5432] })), Sample::tcp().port(5432), true),
        (to(json!({ "ports": [5432] })), Sample::tcp().port(5433), false),
        (to(json!({ "methods": ["GET"], "ports": [9090] })), storefront(), false),
        (to(json!({ "methods": ["GET"], "paths": ["/orders/*"], "hosts": ["orders.shop"], "ports": [8080] })), storefront(), true),
        (json!({ "to": [{ "methods": ["POST"] }, { "paths": ["/orders/*"] }] }), storefront(), true),
        // Header fields. One that is missing is known to be missing.
        (header("x-tenant", json!(["a"])), storefront().header("x-tenant", "a"), true),
        (header("X-Tenant", json!(["b", "a"])), storefront().header("x-tenant", "a"), true),
        (header("x-tenant", json!(["a"])), storefront().header("x-tenant", "A"), false),
        (header("x-tenant", json!(["a"])), storefront(), false),
        (header("x-tenant", json!([])), storefront().header("x-tenant", ""), true),
        (header("x-tenant", json!([])), storefront(), false),
        (header("x-tenant", json!(["a"])), storefront().header("x-tenant", ""), false),
        (header("x-tenant", json!(["a"])), storefront().header("x-tenant", b"a\xff"), false),
        (header("x-tenant", json!(["a"])), storefront().header("x-tenant", "a").header("x-tenant", "a"), true),
        // from, to and when are ANDed.
        (json!({ "from": [{ "serviceAccount": "storefront" }], "to": [{ "methods": ["GET"] }] }), storefront(), true),
        (json!({ "from": [{ "serviceAccount": "storefront" }], "to": [{ "methods": ["POST"] }] }), storefront(), false),
        (json!({ "from": [{ "serviceAccount": "catalogue" }], "to": [{ "methods": ["GET"] }] }), storefront(), false),
        (json!({ "when": "request.path == '/orders/7'" }), storefront(), true),
        (json!({ "when": "request.path == '/orders/8'" }), storefront(), false),
        (json!({ "from": [{ "namespace": "shop" }], "when": "principal.serviceAccount != 'storefront'" }), storefront(), false),
        (json!({ "to": [{ "methods": ["POST"] }], "when": "1 / 0 == 1" }), storefront(), false),
    ];
    assert!(table.len() >= 75);
    for (condition, sample, matches) in table {
        let allow = sample.verdict(&on_service(rule("Allow", condition.clone())));
        assert_eq!(allow, if matches { ALLOWED } else { NOT_ALLOWED }, "Allow {condition} {sample:?}");
        let deny = sample.verdict(&on_service(rule("Deny", condition.clone())));
        assert_eq!(deny, if matches { DENIED } else { NOT_DENIED }, "Deny {condition} {sample:?}");
    }
}

/// What is not known can neither allow nor slip past a deny.
#[test]
fn an_absent_fact_denies_and_never_allows() {
    let tcp = Sample::tcp;
    let plain = || Sample::get("/orders/7");
    let table: Vec<(Value, Sample)> = vec![
        (json!({ "from": [{ "serviceAccount": "storefront" }] }), plain()),
        (json!({ "from": [{ "namespace": "shop" }] }), plain()),
        (json!({ "from": [{ "gateway": "public" }] }), plain()),
        (json!({ "from": [{ "principal": "spiffe://partner.example/ns/a/sa/b" }] }), plain()),
        (json!({ "from": [{ "serviceAccount": "storefront", "ipBlocks": ["192.0.2.0/24"] }] }), plain()),
        (json!({ "from": [{ "namespace": "a" }, { "ipBlocks": ["198.51.100.0/24"] }] }), plain()),
        (json!({ "from": [{ "namespace": "shop" }], "to": [{ "methods": ["GET"] }] }), plain()),
        (json!({ "to": [{ "methods": ["GET"] }] }), tcp()),
        (json!({ "to": [{ "paths": ["/admin/*"] }] }), tcp()),
        (json!({ "to": [{ "hosts": ["a.example"] }] }), tcp()),
        (json!({ "to": [{ "headers": [{ "name": "x" }] }] }), tcp()),
        (json!({ "to": [{ "methods": ["GET"], "ports": [8080] }] }), tcp()),
        (json!({ "from": [{ "ipBlocks": ["192.0.2.0/24"] }], "to": [{ "paths": ["/a"] }] }), tcp()),
        (json!({ "when": "request.headers['x-a'] == '1'" }), plain()),
        (json!({ "when": "request.headers['x-a'] != '1'" }), plain()),
        (json!({ "when": "request.method == 'GET'" }), tcp()),
        (json!({ "when": "principal.namespace == 'shop'" }), plain()),
        (json!({ "from": [{ "namespace": "shop" }], "when": "true" }), plain()),
    ];
    for (condition, sample) in table {
        assert_eq!(sample.verdict(&on_service(rule("Allow", condition.clone()))), NOT_ALLOWED, "Allow {condition}");
        assert_eq!(sample.verdict(&on_service(rule("Deny", condition.clone()))), DENIED, "Deny {condition}");
    }
    // A known No beside an absent fact decides: the rule cannot match whatever the fact is.
    let table: Vec<(Value, Sample)> = vec![
        (json!({ "from": [{ "namespace": "shop", "ipBlocks": ["198.51.100.0/24"] }] }), plain()),
        (json!({ "from": [{ "namespace": "shop" }], "to": [{ "methods": ["POST"] }] }), plain()),
        (json!({ "to": [{ "methods": ["GET"], "ports": [1] }] }), tcp()),
        (json!({ "from": [{ "namespace": "shop" }], "when": "false" }), plain()),
    ];
    for (condition, sample) in table {
        assert_eq!(sample.verdict(&on_service(rule("Deny", condition.clone()))), NOT_DENIED, "Deny {condition}");
    }
    // And a Yes beside an absent fact allows, where either is enough.
    let either = json!({ "from": [{ "namespace": "shop" }, { "ipBlocks": ["192.0.2.0/24"] }] });
    assert_eq!(plain().verdict(&on_service(rule("Allow", either))), ALLOWED);
}

/// A sender may repeat a field, or join values with commas.
#[test]
fn several_values_of_a_header_neither_allow_nor_hide() {
    let condition = json!({ "to": [{ "headers": [{ "name": "x-role", "values": ["admin"] }] }] });
    let table = [
        (storefront().header("x-role", "admin").header("x-role", "user"), NOT_ALLOWED, DENIED),
        (storefront().header("x-role", "user").header("x-role", "admin"), NOT_ALLOWED, DENIED),
        (storefront().header("x-role", "user, admin"), NOT_ALLOWED, DENIED),
        (storefront().header("x-role", "user,\tadmin ,x"), NOT_ALLOWED, DENIED),
        (storefront().header("x-role", "administrator"), NOT_ALLOWED, NOT_DENIED),
        (storefront().header("x-role", "admin").header("x-role", ""), NOT_ALLOWED, DENIED),
        (storefront().header("x-role", " admin "), ALLOWED, DENIED),
    ];
    for (sample, allow, deny) in table {
        assert_eq!(sample.verdict(&on_service(rule("Allow", condition.clone()))), allow, "{sample:?}");
        assert_eq!(sample.verdict(&on_service(rule("Deny", condition.clone()))), deny, "{sample:?}");
    }
}

#[test]
fn a_failing_expression_denies_in_either_action() {
    for action in ["Allow", "Deny"] {
        for condition in ["1 / 0 == 1", "request.path", "request.path > 1"] {
            let set = on_service(rule(action, json!({ "when": condition })));
            assert_eq!(storefront().verdict(&set), "deny policy_error p r", "{action} {condition}");
        }
    }
    let set = on_service(vec![authorization("p", json!({ "when": "1 / 0 == 1", "rules": [{ "name": "r", "action": "Allow" }] }))]);
    assert_eq!(storefront().verdict(&set), "deny policy_error p");
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
    let audit = |name: &str, action: &str, condition: Value| {
        let mut spec = with_rule(action, condition);
        spec["mode"] = json!("Audit");
        authorization(name, spec)
    };
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
        let refusing = attached(Compiled::refusing(key(), 0, &invalid));
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
}

#[test]
fn a_filter_that_panics_denies() {
    let mut broken = policy(Kind::AuthorizationPolicy, "a", with_rule("Allow", json!({}))).unwrap();
    broken.when = Some(crate::expression::Expression::panicking());
    assert_eq!(storefront().verdict(&on_service(vec![attached(broken)])), "deny policy_error a");
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_field_and_remedy() {
    let from = |item: Value| json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "namespace": "a" }, item] }] });
    let to = |item: Value| json!({ "rules": [{ "name": "r", "action": "Allow", "to": [item] }] });
    let named = |name: &str| json!({ "rules": [{ "name": name, "action": "Allow" }] });
    let targeted = |target: Value| json!({ "targetRefs": [target], "rules": [{ "name": "r", "action": "Allow" }] });
    let table: Vec<(Value, &str, &str)> = vec![
        (json!({}), "spec", "missing field `rules`"),
        (json!({ "rules": [] }), "spec.rules", "write 1 to 64"),
        (json!({ "rules": [{ "name": "r", "action": "allow" }] }), "spec.rules[0].action", "expected `Allow` or `Deny`"),
        (json!({ "rules": [{ "name": "r", "action": "Allow", "form": [] }] }), "spec.rules[0].form", "unknown field `form`"),
        (named(""), "spec.rules[0].name", "1 to 63 letters"),
        (named("a b"), "spec.rules[0].name", "1 to 63 letters"),
        (json!({ "rules": [{ "name": "r", "action": "Allow" }, { "name": "r", "action": "Deny" }] }), "spec.rules[1].name", "unique"),
        (json!({ "when": "foo", "rules": [{ "name": "r", "action": "Allow" }] }), "spec.when", "unknown variable `foo`"),
        (json!({ "rules": [{ "name": "r", "action": "Allow", "when": "foo" }] }), "spec.rules[0].when", "unknown variable `foo`"),
        (json!({ "inheritance": "Override", "rules": [{ "name": "r", "action": "Allow" }] }), "spec.inheritance", "`Always` or `Default`"),
        (json!({ "targetRefs": [], "rules": [{ "name": "r", "action": "Allow" }] }), "spec.targetRefs", "needs a target"),
        (targeted(json!({ "kind": "Deployment", "name": "a" })), "spec.targetRefs[0].kind", "`Deployment` is not a kind"),
        (targeted(json!({ "kind": "Service", "name": "a", "group": "apps" })), "spec.targetRefs[0].group", "leave the field out"),
        (targeted(json!({ "kind": "Namespace", "name": "a", "sectionName": "b" })), "spec.targetRefs[0].sectionName", "no sections"),
        (targeted(json!({ "kind": "Service", "name": "" })), "spec.targetRefs[0].name", "1 to 253"),
        (from(json!({})), "spec.rules[0].from[1]", "leave `from` out"),
        (from(json!({ "serviceAccount": "a", "gateway": "public" })), "spec.rules[0].from[1]", "one item for each"),
        (from(json!({ "principal": "spiffe://a/ns/b/sa/c", "namespace": "b" })), "spec.rules[0].from[1]", "one item for each"),
        (from(json!({ "serviceAccount": "A" })), "spec.rules[0].from[1].serviceAccount", "lower-case"),
        (from(json!({ "namespace": "a/b" })), "spec.rules[0].from[1].namespace", "no namespace"),
        (from(json!({ "principal": "spiffe://a/sa/c" })), "spec.rules[0].from[1].principal", "spiffe://<trust-domain>"),
        (from(json!({ "ipBlocks": ["10.0.0.0/8", "ten"] })), "spec.rules[0].from[1].ipBlocks[1]", "`10.0.0.0/8`"),
        (from(json!({ "ipBlocks": ["10.1.0.0/8"] })), "spec.rules[0].from[1].ipBlocks[0]", "write `10.0.0.0/8`"),
        (from(json!({ "gateway": "nowhere" })), "spec.rules[0].from[1].gateway", "gateway:shop/nowhere does not exist"),
        (
            from(json!({ "gateway": "public", "namespace": "other" })),
            "spec.rules[0].from[1].gateway",
            "gateway:other/public does not exist",
        ),
        (to(json!({})), "spec.rules[0].to[0]", "leave `to` out"),
        (to(json!({ "methods": ["get"] })), "spec.rules[0].to[0].methods[0]", "`GET`"),
        (to(json!({ "methods": ["GE T"] })), "spec.rules[0].to[0].methods[0]", "no method"),
        (to(json!({ "paths": ["/a/../b"] })), "spec.rules[0].to[0].paths[0]", "write `/b`"),
        (to(json!({ "paths": ["/%61/*"] })), "spec.rules[0].to[0].paths[0]", "write `/a/*`"),
        (to(json!({ "paths": ["//a"] })), "spec.rules[0].to[0].paths[0]", "write `/a`"),
        (to(json!({ "paths": ["/{id}"] })), "spec.rules[0].to[0].paths[0]", "write `/%7Bid%7D`"),
        (to(json!({ "paths": ["a"] })), "spec.rules[0].to[0].paths[0]", "does not start with `/`"),
        (to(json!({ "paths": ["/a%2fb"] })), "spec.rules[0].to[0].paths[0]", "such a path is refused"),
        (to(json!({ "paths": ["/a?b=c"] })), "spec.rules[0].to[0].paths[0]", "such a path is refused"),
        (to(json!({ "paths": ["/a/*/b"] })), "spec.rules[0].to[0].paths[0]", "only at the end"),
        (to(json!({ "paths": ["/a*"] })), "spec.rules[0].to[0].paths[0]", "only at the end"),
        (to(json!({ "paths": ["*"] })), "spec.rules[0].to[0].paths[0]", "only at the end"),
        (to(json!({ "paths": [""] })), "spec.rules[0].to[0].paths[0]", "does not start with `/`"),
        (to(json!({ "hosts": ["Shop.example"] })), "spec.rules[0].to[0].hosts[0]", "write `shop.example`"),
        (to(json!({ "hosts": ["shop.example:80"] })), "spec.rules[0].to[0].hosts[0]", "write `shop.example`"),
        (to(json!({ "hosts": ["*"] })), "spec.rules[0].to[0].hosts[0]", "no host"),
        (to(json!({ "hosts": ["a b"] })), "spec.rules[0].to[0].hosts[0]", "no host"),
        (to(json!({ "ports": [0] })), "spec.rules[0].to[0].ports[0]", "1 to 65535"),
        (to(json!({ "ports": [70000] })), "spec.rules[0].to[0].ports[0]", "70000"),
        (to(json!({ "headers": [{ "name": "a b" }] })), "spec.rules[0].to[0].headers[0].name", "no field name"),
        (to(json!({ "headers": [{ "name": "a", "values": [" x"] }] })), "spec.rules[0].to[0].headers[0].values[0]", "no space at its ends"),
    ];
    for (spec, field, remedy) in table {
        let invalid = policy(Kind::AuthorizationPolicy, "p", spec.clone()).map(|policy| policy.key).expect_err(&spec.to_string());
        let text = invalid.to_string();
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(remedy), "{spec}: {text}");
    }
}

#[test]
fn references_are_named_with_their_fields() {
    let spec = json!({ "targetRefs": [{ "kind": "Service", "name": "a" }], "rules": [
        { "name": "a", "action": "Allow", "from": [{ "namespace": "x" }, { "gateway": "public" }] },
        { "name": "b", "action": "Deny", "from": [{ "gateway": "inner", "namespace": "other" }] },
    ] });
    let parsed = crate::list::PolicySpec::parse(Kind::AuthorizationPolicy, &spec).unwrap();
    let expected = [("spec.rules[0].from[1].gateway", "gateway:shop/public"), ("spec.rules[1].from[0].gateway", "gateway:other/inner")];
    assert_eq!(parsed.references("shop"), expected.map(|(field, reference)| (field.to_string(), reference.to_string())));
}
