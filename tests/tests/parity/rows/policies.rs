//! Several policies, unusable ones, limits, and traffic policies.

use super::*;

pub fn combinations() -> Vec<Row> {
    let rules =
        |action: &str, account: &str| json!({ "rules": [{ "name": "r", "action": action, "from": [{ "serviceAccount": account }] }] });
    vec![
        row("deny beats allow on one target")
            .authz(
                "p",
                Level::Inner,
                json!({ "rules": [{ "name": "a", "action": "Allow" }, { "name": "r", "action": "Deny", "to": [{ "paths": ["/x"] }] }] }),
            )
            .get(By::Nobody, "/x", DENIED)
            .get(By::Nobody, "/y", PASS),
        row("allows of one target are ORed")
            .authz("p", Level::Inner, rules("Allow", "web"))
            .authz("q", Level::Inner, rules("Allow", "cart"))
            .get(WEB, "/", PASS)
            .get(By::Account("shop", "cart"), "/", PASS)
            .get(EDGE, "/", UNLISTED),
        row("targets are ANDed")
            .authz("outer", Level::Outer, json!({ "rules": [{ "name": "r", "action": "Allow", "to": [{ "paths": ["/a/*"] }] }] }))
            .authz("inner", Level::Inner, rules("Allow", "web"))
            .get(WEB, "/a/1", PASS)
            .get(WEB, "/b", by("authorization_denied", "outer"))
            .get(EDGE, "/a/1", by("authorization_denied", "inner")),
        row("a section is a target of its own")
            .authz("whole", Level::Inner, json!({ "rules": [{ "name": "r", "action": "Allow" }] }))
            .authz("section", Level::Section, rules("Allow", "web"))
            .get(WEB, "/", PASS)
            .get(BATCH, "/", by("authorization_denied", "section")),
        row("the mesh's own policy")
            .authz("p", Level::Mesh, json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": ["/metrics"] }] }] }))
            .get(WEB, "/metrics", DENIED)
            .get(WEB, "/", PASS),
        row("one policy on two targets")
            .authz("p", Level::Outer, rules("Allow", "web"))
            .also_on(Level::Section)
            .get(WEB, "/", PASS)
            .get(BATCH, "/", UNLISTED),
        row("an inherited default holds where nothing else does")
            .authz(
                "p",
                Level::Outer,
                json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "web" }] }] }),
            )
            .get(WEB, "/", PASS)
            .get(BATCH, "/", UNLISTED),
        row("an inherited default gives way to what is more specific")
            .authz(
                "p",
                Level::Outer,
                json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "web" }] }] }),
            )
            .authz("inner", Level::Inner, json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "namespace": "jobs" }] }] }))
            .get(BATCH, "/", PASS)
            .get(WEB, "/", by("authorization_denied", "inner")),
        row("an inherited default gives way only where the other applies")
            .authz("p", Level::Outer, json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Deny" }] }))
            .authz("inner", Level::Inner, json!({ "when": r#"request.path == "/open""#, "rules": [{ "name": "a", "action": "Allow" }] }))
            .get(WEB, "/open", PASS)
            .get(WEB, "/", DENIED),
        row("an inherited default does not give way to what may not apply")
            .authz("p", Level::Outer, json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Deny" }] }))
            .authz(
                "inner",
                Level::Inner,
                json!({ "when": r#"request.headers["x-beta"] == "1""#, "rules": [{ "name": "a", "action": "Deny" }] }),
            )
            .get(WEB, "/", DENIED)
            .ask(WEB, Call::get("/").header("x-beta", "0"), DENIED)
            .ask(WEB, Call::get("/").header("x-beta", "1"), by_rule("authorization_denied", "inner", "a")),
        row("an inherited default does not give way to what fails")
            .authz("p", Level::Outer, json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Deny" }] }))
            .authz(
                "inner",
                Level::Inner,
                json!({ "when": r#"int(request.headers["x-n"]) > 3"#, "rules": [{ "name": "a", "action": "Allow" }] }),
            )
            .ask(WEB, Call::get("/").header("x-n", "4"), PASS)
            .ask(WEB, Call::get("/").header("x-n", "x"), DENIED),
        row("an inherited default does not give way to an audit")
            .authz("p", Level::Outer, json!({ "inheritance": "Default", "rules": [{ "name": "r", "action": "Deny" }] }))
            .authz("inner", Level::Inner, json!({ "mode": "Audit", "rules": [{ "name": "a", "action": "Allow" }] }))
            .get(WEB, "/", DENIED),
        row("an audit only reports")
            .authz("p", Level::Inner, json!({ "mode": "Audit", "rules": [{ "name": "r", "action": "Deny" }] }))
            .get(By::Nobody, "/", PASS),
        row("an auditing allow does not let pass")
            .authz("audit", Level::Inner, json!({ "mode": "Audit", "rules": [{ "name": "r", "action": "Allow" }] }))
            .authz("p", Level::Inner, rules("Allow", "web"))
            .get(BATCH, "/", UNLISTED)
            .get(WEB, "/", PASS),
        row("details hidden").authz("p", Level::Inner, json!({ "hideDetails": true, "rules": [{ "name": "r", "action": "Deny" }] })).get(
            By::Nobody,
            "/",
            refuse("authorization_denied"),
        ),
    ]
}

pub fn unusable() -> Vec<Row> {
    let one = json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "gateway": "gone" }] }] });
    vec![
        row("an invalid guard refuses")
            .rejected()
            .authz("p", Level::Inner, json!({ "rules": [{ "name": "r", "action": "Allow", "when": "request.nonsense ==" }] }))
            .get(WEB, "/", by("policy_invalid", "p"))
            .get(By::Nobody, "/x", by("policy_invalid", "p")),
        row("an unknown field refuses")
            .rejected()
            .authz("p", Level::Outer, json!({ "rules": [{ "name": "r", "action": "Allow", "fromm": [] }] }))
            .get(WEB, "/", by("policy_invalid", "p")),
        row("a path that no request has refuses")
            .rejected()
            .authz("p", Level::Inner, json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": ["/a//b"] }] }] }))
            .get(WEB, "/", by("policy_invalid", "p")),
        row("an unresolved reference refuses").rejected().authz("p", Level::Inner, one).get(WEB, "/", by("policy_unresolved", "p")),
        row("a guard of an unknown kind refuses")
            .rejected()
            .policy("FirewallPolicy", "p", Level::Inner, json!({ "anything": 1 }))
            .get(WEB, "/", by("policy_unknown", "p"))
            .get(By::Nobody, "/y", by("policy_unknown", "p")),
        row("an invalid limit refuses").rejected().limit("p", Level::Inner, json!([{ "name": "l", "requests": 0, "per": "1s" }])).get(
            WEB,
            "/",
            by("policy_invalid", "p"),
        ),
        row("an unusable guard is not displaced")
            .rejected()
            .authz("p", Level::Outer, json!({ "inheritance": "Default", "rules": [] }))
            .authz("inner", Level::Inner, json!({ "rules": [{ "name": "r", "action": "Allow" }] }))
            .get(WEB, "/", by("policy_invalid", "p")),
        row("an unusable guard hides its details too")
            .rejected()
            .authz("p", Level::Inner, json!({ "hideDetails": true, "rules": [] }))
            .get(WEB, "/", refuse("policy_invalid")),
        row("an invalid traffic policy is dropped")
            .rejected()
            .policy("TrafficPolicy", "t", Level::Inner, json!({ "nonsense": true }))
            .get(WEB, "/", PASS),
    ]
}

pub fn limits() -> Vec<Row> {
    let used_up = |rule| by_rule("rate_limited", "p", rule);
    let client = |name: &str| Call::get("/").header("x-client", name);
    vec![
        row("one count for all")
            .limit("p", Level::Inner, json!([{ "name": "l", "requests": 2, "per": "1h" }]))
            .get(WEB, "/", PASS)
            .get(By::Nobody, "/x", PASS)
            .get(WEB, "/", used_up("l"))
            .get(By::Nobody, "/", used_up("l")),
        row("a burst larger than the rate")
            .limit("p", Level::Outer, json!([{ "name": "l", "requests": 1, "per": "1h", "burst": 3 }]))
            .get(WEB, "/", PASS)
            .get(WEB, "/", PASS)
            .get(WEB, "/", PASS)
            .get(WEB, "/", used_up("l")),
        row("a key of CEL")
            .limit("p", Level::Inner, json!([{ "name": "l", "key": r#"request.headers["x-client"]"#, "requests": 1, "per": "1h" }]))
            .ask(By::Nobody, client("a"), PASS)
            .ask(By::Nobody, client("b"), PASS)
            .ask(By::Nobody, client("a"), used_up("l"))
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", used_up("l")),
        row("by principal")
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Principal"], "requests": 1, "per": "1h" }]))
            .get(WEB, "/", PASS)
            .get(BATCH, "/", PASS)
            .get(WEB, "/", used_up("l"))
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", used_up("l")),
        row("by canonical path")
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Path"], "requests": 1, "per": "1h" }]))
            .get(By::Nobody, "/a", PASS)
            .get(By::Nobody, "/%61", used_up("l"))
            .get(By::Nobody, "/x/../a", used_up("l"))
            .get(By::Nobody, "/a?b", used_up("l"))
            .get(By::Nobody, "/b", PASS),
        row("by host and client address")
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Host", "ClientAddress"], "requests": 1, "per": "1h" }]))
            .ask(By::Nobody, Call::get("/").host("a.example"), PASS)
            .ask(By::Nobody, Call::get("/").host("A.Example.:80"), used_up("l"))
            .ask(By::Nobody, Call::get("/").host("b.example"), PASS),
        row("by method")
            .by_method()
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Method"], "requests": 1, "per": "1h" }]))
            .get(By::Nobody, "/", PASS)
            .ask(By::Nobody, Call::new("PUT", "/"), PASS)
            .get(By::Nobody, "/", used_up("l")),
        row("two limits of one policy, none counted if one is used up")
            .limit(
                "p",
                Level::Inner,
                json!([{ "name": "all", "requests": 3, "per": "1h" }, { "name": "each", "by": ["Path"], "requests": 1, "per": "1h" }]),
            )
            .get(By::Nobody, "/a", PASS)
            .get(By::Nobody, "/a", used_up("each"))
            .get(By::Nobody, "/a", used_up("each"))
            .get(By::Nobody, "/b", PASS)
            .get(By::Nobody, "/c", PASS)
            .get(By::Nobody, "/d", used_up("all")),
        row("limits of two targets")
            .limit("outer", Level::Outer, json!([{ "name": "o", "requests": 2, "per": "1h" }]))
            .limit("p", Level::Inner, json!([{ "name": "l", "by": ["Path"], "requests": 1, "per": "1h" }]))
            .get(By::Nobody, "/a", PASS)
            .get(By::Nobody, "/a", used_up("l"))
            .get(By::Nobody, "/b", PASS)
            .get(By::Nobody, "/c", by_rule("rate_limited", "outer", "o")),
        row("one limit on two targets counts once")
            .limit("p", Level::Outer, json!([{ "name": "l", "requests": 2, "per": "1h" }]))
            .also_on(Level::Inner)
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", used_up("l")),
        row("whoever may not call uses up nothing")
            .allow(json!({ "from": [{ "serviceAccount": "web" }] }))
            .limit("limit", Level::Inner, json!([{ "name": "l", "requests": 1, "per": "1h" }]))
            .get(BATCH, "/", UNLISTED)
            .get(BATCH, "/", UNLISTED)
            .get(WEB, "/", PASS)
            .get(WEB, "/", by_rule("rate_limited", "limit", "l")),
        row("a limit with a condition")
            .policy(
                LIMIT,
                "p",
                Level::Inner,
                json!({ "when": r#"request.path == "/slow""#, "limits": [{ "name": "l", "requests": 1, "per": "1h" }] }),
            )
            .get(By::Nobody, "/slow", PASS)
            .get(By::Nobody, "/slow", used_up("l"))
            .get(By::Nobody, "/fast", PASS),
        row("a limit with details hidden")
            .policy(LIMIT, "p", Level::Inner, json!({ "hideDetails": true, "limits": [{ "name": "l", "requests": 1, "per": "1h" }] }))
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", refuse("rate_limited")),
        row("an inherited limit does not give way to one that may not apply")
            .policy(LIMIT, "p", Level::Outer, json!({ "inheritance": "Default", "limits": [{ "name": "l", "requests": 1, "per": "1h" }] }))
            .policy(
                LIMIT,
                "inner",
                Level::Inner,
                json!({ "when": r#"request.headers["x-beta"] == "1""#, "limits": [{ "name": "i", "requests": 9, "per": "1h" }] }),
            )
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", used_up("l"))
            .ask(By::Nobody, Call::get("/").header("x-beta", "1"), PASS),
        row("an inherited limit gives way")
            .policy(
                LIMIT,
                "outer",
                Level::Outer,
                json!({ "inheritance": "Default", "limits": [{ "name": "l", "requests": 1, "per": "1h" }] }),
            )
            .limit("p", Level::Inner, json!([{ "name": "l", "requests": 2, "per": "1h" }]))
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", PASS)
            .get(By::Nobody, "/", used_up("l")),
    ]
}

/// The first proxy on the path applies them, whichever it is.
pub fn traffic() -> Vec<Row> {
    let policy = |name, spec| row(name).policy("TrafficPolicy", "t", Level::Inner, spec);
    let slow = || Call::get("/slow/60000");
    let failing = || Call::get("/status/503");
    vec![
        // Where the machine stalls it may be too late before the application is reached.
        policy("a deadline for the whole request", json!({ "timeouts": { "request": "300ms" } }))
            .ask(By::Nobody, slow(), refuse("upstream_timeout"))
            .reaching(0..=1)
            .ask(WEB, slow(), refuse("upstream_timeout"))
            .reaching(0..=1),
        policy("a deadline for one try", json!({ "timeouts": { "backendRequest": "300ms" }, "retry": { "attempts": 0 } }))
            .ask(By::Nobody, slow(), refuse("upstream_timeout"))
            .reaching(0..=1),
        policy("retries by status", json!({ "retry": { "attempts": 2, "codes": [503], "backoff": "1ms", "methods": "All" } }))
            .ask(By::Nobody, failing(), Want::Answer(503))
            .reaching(3..=3)
            .ask(WEB, failing(), Want::Answer(503))
            .reaching(3..=3)
            .get(WEB, "/status/502", Want::Answer(502))
            .get(WEB, "/", PASS),
        policy("retries turned off", json!({ "retry": { "attempts": 0, "codes": [503] } })).ask(WEB, failing(), Want::Answer(503)),
        policy("only idempotent requests are tried again", json!({ "retry": { "attempts": 1, "codes": [503], "backoff": "1ms" } })).ask(
            WEB,
            Call::new("POST", "/status/503"),
            Want::Answer(503),
        ),
    ]
}
