//! Tables of counts at explicit times.

use super::{Buckets, Filter, MAX_KEYS};
use crate::list::{Attached, Body, Decision, GuardSet, Kind, Outcome, Purpose};
use crate::sample::{Sample, authorization, levels, limits, namespace, on_service, policy, service, with_buckets};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn one(limit: Value) -> GuardSet {
    on_service(vec![limits("l", json!({ "limits": [limit] }))])
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn passes(set: &GuardSet, sample: &Sample) -> bool {
    sample.run(set, Purpose::Live).denial.is_none()
}

/// How many of `tries` pass at this time.
fn count(set: &GuardSet, sample: &Sample, tries: usize) -> usize {
    (0..tries).filter(|_| passes(set, sample)).count()
}

fn field<'a>(decision: &'a Decision, name: &str) -> &'a str {
    decision.fields.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
}

/// Time in milliseconds, tries at that time, how many pass.
type Step = (u64, usize, usize);

#[test]
fn a_bucket_fills_as_time_passes() {
    let table: Vec<(Value, Vec<Step>)> = vec![
        (json!({ "requests": 20, "per": "1s" }), vec![(0, 30, 20), (49, 1, 0), (50, 2, 1), (100, 2, 1), (1100, 30, 20)]),
        (json!({ "requests": 1, "per": "1s" }), vec![(0, 2, 1), (999, 1, 0), (1000, 2, 1), (5000, 3, 1)]),
        (json!({ "requests": 3, "per": "1s" }), vec![(0, 5, 3), (333, 1, 0), (334, 2, 1), (666, 1, 0), (667, 1, 1), (1000, 2, 1)]),
        (json!({ "requests": 10, "per": "1s", "burst": 1 }), vec![(0, 2, 1), (100, 2, 1), (1000, 3, 1)]),
        (json!({ "requests": 1, "per": "10s", "burst": 5 }), vec![(0, 9, 5), (9_999, 1, 0), (10_000, 2, 1), (60_000, 9, 5)]),
        (json!({ "requests": 60, "per": "1m" }), vec![(0, 99, 60), (999, 1, 0), (1000, 2, 1)]),
        (json!({ "requests": 1_000_000_000, "per": "24h", "burst": 2 }), vec![(0, 3, 2), (1, 30, 2)]),
        (json!({ "requests": 1, "per": "24h" }), vec![(0, 2, 1), (86_399_999, 1, 0), (86_400_000, 2, 1)]),
    ];
    for (mut limit, steps) in table {
        limit["name"] = json!("x");
        let set = one(limit.clone());
        for (time, tries, expected) in steps {
            assert_eq!(count(&set, &Sample::get("/").at(millis(time)), tries), expected, "{limit} at {time} ms");
        }
    }
}

#[test]
fn counts_are_exact_over_a_long_time() {
    let set = one(json!({ "name": "x", "requests": 7, "per": "1s" }));
    let passed = (0..50_000).filter(|step| passes(&set, &Sample::get("/").at(millis(step * 20)))).count();
    assert_eq!(passed, 7 + 7 * 1000 - 1, "seven at once, then seven a second for the 999.98 seconds left");
}

#[test]
fn time_that_goes_back_gives_no_tokens() {
    let set = one(json!({ "name": "x", "requests": 2, "per": "1s" }));
    assert_eq!(count(&set, &Sample::get("/").at(millis(10_000)), 5), 2);
    assert_eq!(count(&set, &Sample::get("/").at(millis(0)), 5), 0);
    assert_eq!(count(&set, &Sample::get("/").at(millis(10_500)), 5), 1);
}

#[test]
fn each_key_has_its_own_count() {
    let client = |name: &str| Sample::get("/").header("x-client", name);
    let nothing = || Sample::get("/");
    let (long_a, long_b) = (client(&format!("{}a", "x".repeat(5000))), client(&format!("{}b", "x".repeat(5000))));
    let key = |text: &str| json!({ "name": "x", "requests": 1, "per": "1s", "key": text });
    let by = |parts: Value| json!({ "name": "x", "requests": 1, "per": "1s", "by": parts });
    let header = || key("request.headers['x-client']");
    // Whether two requests count together.
    let table: Vec<(Value, Sample, Sample, bool)> = vec![
        (json!({ "name": "x", "requests": 1, "per": "1s" }), client("a"), Sample::tcp(), true),
        (header(), client("a"), client("a"), true),
        (header(), client("a"), client("b"), false),
        (header(), client("a"), client("a").header("x-client", "b"), false),
        (header(), long_a.clone(), long_a.clone(), true),
        (header(), long_a, long_b, false),
        // A key that cannot be computed counts under one shared key, that no value is.
        (header(), nothing(), nothing(), true),
        (header(), nothing(), Sample::tcp(), true),
        (header(), nothing(), client("absent"), false),
        (header(), nothing(), client(""), false),
        (key("1 / 0"), client("a"), client("b"), true),
        (key("request.headers"), client("a"), nothing(), true),
        (key("request.path"), Sample::get("/a"), Sample::get("/b"), false),
        (key("destination.port"), Sample::tcp().port(1), Sample::tcp().port(2), false),
        (by(json!(["ClientAddress"])), nothing().address("192.0.2.1"), nothing().address("192.0.2.2"), false),
        (by(json!(["ClientAddress"])), nothing().address("192.0.2.1"), nothing().address("::ffff:192.0.2.1"), true),
        (by(json!(["ClientAddress"])), nothing().address("2001:db8:0:1::1"), nothing().address("2001:db8:0:1:ffff::2"), true),
        (by(json!(["ClientAddress"])), nothing().address("2001:db8:0:1::1"), nothing().address("2001:db8:0:2::1"), false),
        (by(json!(["ClientAddress"])), Sample::tcp().address("192.0.2.1"), nothing().address("192.0.2.1"), true),
        (by(json!(["Principal"])), nothing().from("shop/a"), nothing().from("shop/b"), false),
        (by(json!(["Principal"])), nothing().from("shop/a"), nothing().from("shop/a"), true),
        (by(json!(["Principal"])), nothing(), nothing().address("192.0.2.1"), true),
        (by(json!(["Principal"])), nothing(), nothing().from("shop/a"), false),
        (by(json!(["Host"])), nothing().host("a"), nothing().host("b"), false),
        (by(json!(["Path"])), Sample::get("/a"), Sample::get("/a?b=c"), true),
        (by(json!(["Method"])), nothing(), nothing().method("POST"), false),
        (by(json!(["Method"])), Sample::tcp(), nothing(), false),
        (by(json!(["Host", "Path"])), Sample::get("/bc").host("a"), Sample::get("/c").host("ab"), false),
        (by(json!(["Host", "Principal"])), nothing().host("a"), nothing().host("b"), true),
    ];
    for (limit, first, second, together) in table {
        let set = one(limit.clone());
        assert!(passes(&set, &first), "{limit}");
        assert_eq!(!passes(&set, &second), together, "{limit} {first:?} {second:?}");
    }
}

#[test]
fn a_request_counts_under_every_limit_or_under_none() {
    let set = on_service(vec![
        limits("a", json!({ "limits": [{ "name": "many", "requests": 5, "per": "1h" }, { "name": "few", "requests": 2, "per": "1s" }] })),
        limits("b", json!({ "limits": [{ "name": "path", "requests": 3, "per": "1h", "key": "request.path" }] })),
    ]);
    let at = |path: &str, time: u64| Sample::get(path).at(millis(time));
    assert_eq!(count(&set, &at("/a", 0), 100), 2, "few");
    // 98 refusals took nothing from `many` and `path`.
    assert_eq!(count(&set, &at("/a", 1000), 100), 1, "path: three of /a");
    assert_eq!(count(&set, &at("/b", 1000), 100), 1, "few: two in this second");
    assert_eq!(count(&set, &at("/b", 2000), 100), 1, "many: five in all");
    let decision = at("/b", 3000).run(&set, Purpose::Live);
    assert_eq!(field(&decision, "ratelimit"), "\"many\";r=0;t=3597, \"few\";r=2;t=0, \"path\";r=1;t=2398");
}

#[test]
fn a_refusal_names_the_limit_that_takes_longest() {
    let spec = json!({ "limits": [{ "name": "second", "requests": 1, "per": "1s" }, { "name": "minute", "requests": 1, "per": "1m" }] });
    let set = on_service(vec![limits("l", spec)]);
    assert!(passes(&set, &Sample::get("/")));
    let decision = Sample::get("/").at(millis(500)).run(&set, Purpose::Live);
    let denial = decision.denial.as_ref().unwrap();
    assert_eq!(
        (denial.reason, denial.rule.as_deref(), denial.retry_after),
        (crate::Reason::RateLimited, Some("minute"), Some(millis(59_500)))
    );
    let refusal = crate::refusal::render(denial, crate::refusal::Caller::Http, "1");
    assert!(refusal.fields.contains(&("retry-after", "60".to_string())) && refusal.status == 429);
    // After that time it passes.
    assert!(!passes(&set, &Sample::get("/").at(millis(59_999))));
    assert!(passes(&set, &Sample::get("/").at(millis(60_000))));
}

#[test]
fn the_fields_say_what_is_left() {
    let set = one(json!({ "name": "burst", "requests": 20, "per": "1s" }));
    let decision = Sample::get("/").run(&set, Purpose::Live);
    assert_eq!(decision.fields, [("ratelimit-policy", "\"burst\";q=20;w=1".to_string()), ("ratelimit", "\"burst\";r=19;t=1".to_string())]);
    count(&set, &Sample::get("/"), 18);
    assert_eq!(field(&Sample::get("/").run(&set, Purpose::Live), "ratelimit"), "\"burst\";r=0;t=1");
    assert_eq!(field(&Sample::get("/").run(&set, Purpose::Live), "ratelimit"), "\"burst\";r=0;t=1", "refused");
    let hidden = on_service(vec![limits("l", json!({ "hideDetails": true, "limits": [{ "name": "x", "requests": 1, "per": "1s" }] }))]);
    assert_eq!(Sample::get("/").run(&hidden, Purpose::Live).fields, []);
    let refused = Sample::get("/").run(&hidden, Purpose::Live);
    assert!(refused.fields.is_empty() && refused.denial.unwrap().hidden);
}

#[test]
fn explain_moves_no_counter() {
    let set = one(json!({ "name": "x", "requests": 1, "per": "1h" }));
    for _ in 0..5 {
        let decision = Sample::get("/").run(&set, Purpose::Explain);
        assert_eq!((decision.denial, decision.steps[0].outcome), (None, Outcome::Passed));
    }
    assert!(passes(&set, &Sample::get("/")));
    for _ in 0..5 {
        let decision = Sample::get("/").run(&set, Purpose::Explain);
        assert_eq!(decision.steps[0].outcome, Outcome::Denied);
        assert_eq!(decision.denial.unwrap().rule.as_deref(), Some("x"));
    }
}

#[test]
fn whoever_may_not_call_uses_up_nobodys_limit() {
    let limit = limits("l", json!({ "limits": [{ "name": "x", "requests": 1, "per": "1h" }] }));
    let rule = json!({ "rules": [{ "name": "r", "action": "Allow", "from": [{ "serviceAccount": "storefront" }] }] });
    // The limit stands further out, and still comes after every authorization.
    let set = levels(vec![(namespace(), vec![limit]), (service(), vec![authorization("a", rule)])]);
    for _ in 0..5 {
        let decision = Sample::get("/").run(&set, Purpose::Live);
        assert_eq!(decision.denial.unwrap().reason, crate::Reason::AuthorizationDenied);
    }
    let explained = Sample::get("/").run(&set, Purpose::Explain);
    assert_eq!(explained.steps[0].outcome, Outcome::NotReached);
    assert!(passes(&set, &Sample::get("/").from("shop/storefront")));
    assert!(!passes(&set, &Sample::get("/").from("shop/storefront")));
}

#[test]
fn a_policy_on_two_targets_of_one_path_counts_once() {
    let limit = limits("l", json!({ "limits": [{ "name": "x", "requests": 4, "per": "1h" }] }));
    let set = levels(vec![(namespace(), vec![limit.clone()]), (service(), vec![limit])]);
    assert_eq!(count(&set, &Sample::get("/"), 10), 4);
}

#[test]
fn a_condition_decides_whether_a_limit_holds() {
    let when = |when: &str| on_service(vec![limits("l", json!({ "when": when, "limits": [{ "name": "x", "requests": 1, "per": "1h" }] }))]);
    assert_eq!(count(&when("request.method == 'POST'"), &Sample::get("/"), 5), 5);
    assert_eq!(count(&when("request.method == 'GET'"), &Sample::get("/"), 5), 1);
    assert_eq!(count(&when("request.headers['x'] == '1'"), &Sample::get("/"), 5), 1, "an absent fact does not get round a limit");
    let decision = Sample::get("/").run(&when("1 / 0 == 1"), Purpose::Live);
    assert_eq!(decision.denial.unwrap().reason, crate::Reason::PolicyError);
}

#[test]
fn without_buckets_nothing_passes() {
    let mut limit = limits("l", json!({ "limits": [{ "name": "x", "requests": 1, "per": "1h" }] }));
    limit.buckets = None;
    assert_eq!(Sample::get("/").verdict(&on_service(vec![limit])), "deny policy_error l");
}

fn filter(attached: &Attached) -> &Filter {
    let Body::RateLimit(filter) = &attached.policy.body else { panic!("a RateLimitPolicy") };
    filter
}

#[test]
fn buckets_outlive_configurations_that_count_the_same_way() {
    let spec = |requests: u32, key: &str, hide: bool| {
        limits("l", json!({ "hideDetails": hide, "limits": [{ "name": "x", "requests": requests, "per": "1h", "key": key }] }))
    };
    let base = spec(2, "request.path", false);
    assert_eq!(filter(&base).fingerprint(), filter(&spec(2, "request.path", true)).fingerprint());
    assert_ne!(filter(&base).fingerprint(), filter(&spec(3, "request.path", false)).fingerprint());
    assert_ne!(filter(&base).fingerprint(), filter(&spec(2, "request.host", false)).fingerprint());

    let buckets = Arc::new(Buckets::default());
    let (old, new) = (with_buckets(&base, &buckets), with_buckets(&spec(2, "request.path", true), &buckets));
    assert!(passes(&on_service(vec![old]), &Sample::get("/")));
    assert_eq!(count(&on_service(vec![new]), &Sample::get("/"), 5), 1);
}

#[test]
fn the_number_of_keys_is_bounded_and_whoever_is_over_the_limit_is_remembered() {
    let limit = limits("l", json!({ "limits": [{ "name": "x", "requests": 3, "per": "1h", "key": "request.path" }] }));
    let buckets = limit.buckets.clone().unwrap();
    let set = on_service(vec![limit]);
    assert_eq!(count(&set, &Sample::get("/attacker"), 5), 3);
    let many = MAX_KEYS * 3 / 2;
    assert_eq!((0..many).filter(|number| passes(&set, &Sample::get(&format!("/{number}")))).count(), many);
    assert!(buckets.len() <= MAX_KEYS && buckets.len() > MAX_KEYS * 9 / 10, "{}", buckets.len());
    assert_eq!(count(&set, &Sample::get("/attacker"), 5), 0);
}

#[test]
fn full_buckets_make_room_before_memory_grows() {
    let limit = limits("l", json!({ "limits": [{ "name": "x", "requests": 1, "per": "1s", "key": "request.path" }] }));
    let buckets = limit.buckets.clone().unwrap();
    let set = on_service(vec![limit]);
    for number in 0..20_000u64 {
        assert!(passes(&set, &Sample::get(&format!("/{number}")).at(millis(number * 10))));
    }
    assert!(buckets.len() < 1000, "{} keys for a hundred live ones", buckets.len());
}

/// Threads that take from two shared limits and one of their own, in different orders, never take more than there is and lose nothing.
#[test]
fn threads_take_all_or_nothing() {
    let shared = |name: &str, requests: u32| limits(name, json!({ "limits": [{ "name": "x", "requests": requests, "per": "24h" }] }));
    let own = limits(
        "own",
        json!({ "limits": [{ "name": "x", "requests": 300, "per": "24h", "key": "request.path" }, { "name": "y", "requests": 400, "per": "24h", "key": "request.path" }] }),
    );
    let (a, b) = (shared("a", 1000), shared("b", 1500));
    let passed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let policies = if thread % 2 == 0 { vec![a.clone(), b.clone(), own.clone()] } else { vec![own.clone(), b.clone(), a.clone()] };
            let (set, passed) = (on_service(policies), &passed);
            scope.spawn(move || {
                let sample = Sample::get(&format!("/{}", thread % 4));
                passed.fetch_add(u32::try_from(count(&set, &sample, 400)).unwrap(), Ordering::Relaxed);
            });
        }
    });
    assert_eq!(passed.load(Ordering::Relaxed), 1000, "the smallest shared limit, exactly");
    let left = |attached: &Attached| {
        let decision = Sample::get("/9").run(&on_service(vec![attached.clone()]), Purpose::Explain);
        field(&decision, "ratelimit").to_string()
    };
    assert_eq!(left(&a), "\"x\";r=0;t=86400");
    assert!(left(&b).starts_with("\"x\";r=500;"), "2200 refusals took nothing: {}", left(&b));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_field_and_remedy() {
    let limit = |limit: Value| json!({ "limits": [limit] });
    let table: Vec<(Value, &str, &str)> = vec![
        (json!({}), "spec", "missing field `limits`"),
        (json!({ "limits": [] }), "spec.limits", "write 1 to 16"),
        (limit(json!({ "name": "a" })), "spec.limits[0]", "missing field `requests`"),
        (limit(json!({ "name": "a\"b", "requests": 1, "per": "1s" })), "spec.limits[0].name", "1 to 63 letters"),
        (limit(json!({ "name": "a", "requests": 0, "per": "1s" })), "spec.limits[0].requests", "write 1 to 1000000000"),
        (limit(json!({ "name": "a", "requests": 1, "per": "1s", "burst": 0 })), "spec.limits[0].burst", "write 1 to 1000000000"),
        (limit(json!({ "name": "a", "requests": 1, "per": "1 minute" })), "spec.limits[0].per", "not a duration"),
        (limit(json!({ "name": "a", "requests": 1, "per": "500ms" })), "spec.limits[0].per", "write 1s to 24h"),
        (limit(json!({ "name": "a", "requests": 1, "per": "25h" })), "spec.limits[0].per", "write 1s to 24h"),
        (limit(json!({ "name": "a", "requests": 1, "per": "1s", "key": "x" })), "spec.limits[0].key", "unknown variable `x`"),
        (
            limit(json!({ "name": "a", "requests": 1, "per": "1s", "key": "request.path", "by": ["Host"] })),
            "spec.limits[0].key",
            "not both",
        ),
        (limit(json!({ "name": "a", "requests": 1, "per": "1s", "by": ["Cookie"] })), "spec.limits[0].by[0]", "unknown variant"),
        (
            limit(json!({ "name": "a", "requests": 1, "per": "1s", "by": ["Host", "Host", "Host", "Host", "Host"] })),
            "spec.limits[0].by",
            "0 to 4",
        ),
        (
            json!({ "limits": [{ "name": "a", "requests": 1, "per": "1s" }, { "name": "a", "requests": 1, "per": "1s" }] }),
            "spec.limits[1].name",
            "unique",
        ),
        (json!({ "scope": "Shared", "limits": [{ "name": "a", "requests": 1, "per": "1s" }] }), "spec.scope", "unknown variant `Shared`"),
        (
            json!({ "inheritance": "Override", "limits": [{ "name": "a", "requests": 1, "per": "1s" }] }),
            "spec.inheritance",
            "`Always` or `Default`",
        ),
    ];
    for (spec, field, remedy) in table {
        let invalid = policy(Kind::RateLimitPolicy, "p", spec.clone()).map(|policy| policy.key).expect_err(&spec.to_string());
        let text = invalid.to_string();
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(remedy), "{spec}: {text}");
    }
}
