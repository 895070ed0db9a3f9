//! Tables of verdicts: what the rules of one or more AuthorizationPolicies make of a request.

use crate::list::{Attached, Kind};
use crate::sample::{Sample, authorization, on_service, policy};
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
        (from(json!({ "principal": "spiffe://cluster.local/ns/shop/sa/storefront" })), foreign(), false),
        (from(json!({ "principal": "spiffe://old.example/ns/shop/sa/storefront" })), foreign(), false),
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
        (from(json!({ "ipBlocks": ["::/0"] })), storefront().address("2001:db8::1"), true),
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
        (json!({ "from": [{ "principal": "spiffe://old.example/ns/a/sa/b" }] }), plain()),
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
        (from(json!({ "principal": "spiffe://partner.example/ns/b/sa/c" })), "spec.rules[0].from[1].principal", "`trustDomainAliases`"),
        (from(json!({ "ipBlocks": ["10.0.0.0/8", "ten"] })), "spec.rules[0].from[1].ipBlocks[1]", "`10.0.0.0/8`"),
        (from(json!({ "ipBlocks": ["10.1.0.0/8"] })), "spec.rules[0].from[1].ipBlocks[0]", "write `10.0.0.0/8`"),
        (from(json!({ "ipBlocks": ["::ffff:192.0.2.0/120"] })), "spec.rules[0].from[1].ipBlocks[0]", "write `192.0.2.0/24`"),
        (from(json!({ "ipBlocks": ["::ffff:192.0.2.7"] })), "spec.rules[0].from[1].ipBlocks[0]", "write `192.0.2.7/32`"),
        (from(json!({ "ipBlocks": ["::ffff:0:0/96"] })), "spec.rules[0].from[1].ipBlocks[0]", "write `0.0.0.0/0`"),
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
