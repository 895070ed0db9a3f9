//! What TrafficPolicies compile to, and how their fields merge.

use super::{Budget, RetryMethods, Settings, TrafficSet};
use crate::list::{Body, Compiled, Kind};
use crate::sample::{Sample, policy};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

fn compiled(spec: Value) -> Arc<Compiled> {
    Arc::new(policy(Kind::TrafficPolicy, "t", spec).unwrap())
}

fn settings(spec: Value) -> Settings {
    let Body::Traffic(settings) = &compiled(spec).body else { panic!("a TrafficPolicy") };
    settings.clone()
}

fn request(timeout: &str) -> Value {
    json!({ "timeouts": { "request": timeout } })
}

#[test]
fn every_field_is_compiled() {
    let spec = json!({
        "timeouts": { "request": "10s", "backendRequest": "2s", "connect": "500ms" },
        "retry": { "attempts": 0, "codes": [429, 502], "backoff": "25ms", "methods": "All", "budget": { "percent": 20, "minPerSecond": 10 } },
    });
    let expected = Settings {
        request_timeout: Some(Duration::from_secs(10)),
        backend_timeout: Some(Duration::from_secs(2)),
        connect_timeout: Some(Duration::from_millis(500)),
        attempts: Some(0),
        codes: Some(vec![429, 502]),
        backoff: Some(Duration::from_millis(25)),
        methods: Some(RetryMethods::All),
        budget: Some(Budget { percent: 20, min_per_second: 10 }),
    };
    assert_eq!(settings(spec), expected);
    let budgets = [(json!({}), 20, 10), (json!({ "percent": 5 }), 5, 10), (json!({ "minPerSecond": 0 }), 20, 0)];
    for (budget, percent, min_per_second) in budgets {
        let compiled = settings(json!({ "retry": { "budget": budget.clone() } })).budget;
        assert_eq!(compiled, Some(Budget { percent, min_per_second }), "{budget}");
    }
    assert_eq!(settings(request("0s")).request_timeout, Some(Duration::ZERO), "none, which is not the same as unset");
}

#[test]
fn settings_merge_field_by_field() {
    let inner = settings(json!({ "timeouts": { "request": "1s" }, "retry": { "attempts": 0, "codes": [] } }));
    let outer =
        settings(json!({ "timeouts": { "request": "9s", "connect": "3s" }, "retry": { "attempts": 5, "codes": [503], "backoff": "1s" } }));
    let merged = inner.clone().over(&outer);
    assert_eq!((merged.request_timeout, merged.connect_timeout), (Some(Duration::from_secs(1)), Some(Duration::from_secs(3))));
    assert_eq!((merged.attempts, merged.codes.as_deref(), merged.backoff), (Some(0), Some([].as_slice()), Some(Duration::from_secs(1))));
    assert_eq!(inner.overlap(&outer), ["spec.timeouts.request", "spec.retry.attempts", "spec.retry.codes"]);
    assert_eq!(Settings::default().over(&outer), outer);
}

#[test]
fn a_condition_is_decided_per_exchange() {
    let strong = compiled(json!({ "when": "request.method == 'POST'", "timeouts": { "request": "1s" } }));
    let failing = compiled(json!({ "when": "1 / 0 == 1", "timeouts": { "request": "2s" } }));
    let absent = compiled(json!({ "when": "request.headers.x == '1'", "timeouts": { "request": "3s" } }));
    let weak = compiled(json!({ "timeouts": { "request": "4s", "connect": "5s" } }));
    let own = Settings { attempts: Some(1), ..Settings::default() };
    let set = TrafficSet::new(own.clone(), vec![strong, failing, absent, weak.clone()]);
    let request = |sample: Sample| sample.with(|exchange| set.resolve(exchange).into_owned());
    let table = [(Sample::get("/").method("POST"), 1), (Sample::get("/"), 4), (Sample::get("/").header("x", "1"), 3), (Sample::tcp(), 4)];
    for (sample, seconds) in table {
        let settings = request(sample.clone());
        assert_eq!(settings.request_timeout, Some(Duration::from_secs(seconds)), "{sample:?}");
        assert_eq!((settings.connect_timeout, settings.attempts), (Some(Duration::from_secs(5)), Some(1)));
    }
    assert_eq!(set.base().request_timeout, Some(Duration::from_secs(4)));

    let plain = TrafficSet::new(own, vec![weak]);
    Sample::get("/").with(|exchange| assert!(matches!(plain.resolve(exchange), Cow::Borrowed(_))));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_field_and_remedy() {
    let retry = |retry: Value| json!({ "retry": retry });
    let table: Vec<(Value, &str, &str)> = vec![
        (json!({}), "spec", "sets nothing"),
        (json!({ "timeouts": {} }), "spec", "sets nothing"),
        (request("10 seconds"), "spec.timeouts.request", "not a duration"),
        (request("25h"), "spec.timeouts.request", "write 0s to 24h"),
        (json!({ "timeouts": { "connect": "0s" } }), "spec.timeouts.connect", "write 1ms to 1m"),
        (json!({ "timeouts": { "idle": "1s" } }), "spec.timeouts.idle", "unknown field `idle`"),
        (json!({ "timeouts": { "request": "1s", "backendRequest": "2s" } }), "spec.timeouts.backendRequest", "longer than `request`"),
        (retry(json!({ "attempts": 11 })), "spec.retry.attempts", "at most 10"),
        (retry(json!({ "attempts": -1 })), "spec.retry.attempts", "invalid value"),
        (retry(json!({ "codes": [503, 404] })), "spec.retry.codes[1]", "write 429 or 500 to 599"),
        (retry(json!({ "codes": vec![503; 17] })), "spec.retry.codes", "0 to 16"),
        (retry(json!({ "backoff": "2m" })), "spec.retry.backoff", "write 0s to 1m"),
        (retry(json!({ "methods": "Some" })), "spec.retry.methods", "unknown variant"),
        (retry(json!({ "budget": { "percent": 101, "minPerSecond": 1 } })), "spec.retry.budget.percent", "0 to 100"),
        (retry(json!({ "budget": { "percent": 1, "minPerSecond": 10_001 } })), "spec.retry.budget.minPerSecond", "0 to 10000"),
        (json!({ "inheritance": "Default", "timeouts": { "request": "1s" } }), "spec.inheritance", "`Always` or `Override`"),
        (json!({ "when": "(", "timeouts": { "request": "1s" } }), "spec.when", "not a CEL expression"),
    ];
    for (spec, field, remedy) in table {
        let invalid = policy(Kind::TrafficPolicy, "p", spec.clone()).map(|policy| policy.key).expect_err(&spec.to_string());
        let text = invalid.to_string();
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(remedy), "{spec}: {text}");
    }
    let ok = json!({ "timeouts": { "request": "0s", "backendRequest": "2s" } });
    assert_eq!(settings(ok).backend_timeout, Some(Duration::from_secs(2)));
}
