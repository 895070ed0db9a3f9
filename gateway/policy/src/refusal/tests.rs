//! How refusals look.

use super::{Caller, render};
use crate::key::Key;
use crate::reason::Reason;
use crate::verdict::Denial;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn denial() -> Denial {
    Denial {
        policy: Some(Arc::new(Key::new("AuthorizationPolicy", "shop", "orders-callers"))),
        rule: Some(Arc::from("not-writes")),
        ..Denial::of(Reason::AuthorizationDenied, "A rule denies this request.")
    }
}

fn problem(denial: &Denial) -> Value {
    serde_json::from_slice(&render(denial, Caller::Http, "id-1").body).unwrap()
}

#[test]
fn a_refusal_is_a_problem_document() {
    let refusal = render(&denial(), Caller::Http, "id-1");
    assert_eq!((refusal.status, refusal.fields.as_slice()), (403, [("content-type", "application/problem+json".to_string())].as_slice()));
    let expected = json!({
        "type": "about:blank", "title": "Forbidden", "status": 403, "detail": "A rule denies this request.", "reason": "authorization_denied",
        "policy": "AuthorizationPolicy/shop/orders-callers", "rule": "not-writes", "requestId": "id-1",
    });
    assert_eq!(problem(&denial()), expected);
    assert_eq!(problem(&Denial::of(Reason::NoRoute, "No route matches.")).get("policy"), None);
}

#[test]
fn hidden_details_stay_out() {
    let hidden = Denial { hidden: true, ..denial() };
    for caller in [Caller::Http, Caller::Grpc] {
        let text = format!("{:?}", render(&hidden, caller, "id-1"));
        assert!(!text.contains("orders-callers") && !text.contains("not-writes") && text.contains("authorization_denied"), "{text}");
    }
}

#[test]
fn grpc_callers_get_trailers_only() {
    let refusal = render(&Denial { detail: "100% no é\n.".into(), ..denial() }, Caller::Grpc, "id-1");
    let expected = [
        ("content-type", "application/grpc"),
        ("grpc-status", "7"),
        ("grpc-message", "authorization_denied: 100%25 no %C3%A9%0A. (AuthorizationPolicy/shop/orders-callers not-writes)"),
    ];
    assert_eq!(refusal.fields, expected.map(|(name, value)| (name, value.to_string())));
    assert!(refusal.status == 200 && refusal.body.is_empty());
}

#[test]
fn retry_after_is_in_whole_seconds_and_never_too_early() {
    for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_500, "60")] {
        let limited =
            Denial { retry_after: Some(Duration::from_millis(millis)), ..Denial::of(Reason::RateLimited, "A rate limit is used up.") };
        for caller in [Caller::Http, Caller::Grpc] {
            assert!(render(&limited, caller, "").fields.contains(&("retry-after", seconds.to_string())), "{millis} {caller:?}");
        }
    }
}

#[test]
fn every_reason_renders_for_both_callers() {
    for reason in Reason::ALL {
        let denial = Denial::of(reason, "A sentence.");
        let http = problem(&denial);
        assert_eq!((http["status"].as_u64(), http["reason"].as_str()), (Some(u64::from(reason.status())), Some(reason.as_str())));
        assert_ne!(http["title"], "Error", "{reason}");
        let grpc = render(&denial, Caller::Grpc, "");
        assert!(grpc.fields.contains(&("grpc-status", reason.grpc_status().to_string())) && reason.grpc_status() != 0);
    }
}

#[test]
fn grpc_callers_are_known_by_their_content_type() {
    let table = [
        (Some("application/grpc"), Caller::Grpc),
        (Some("application/grpc+proto"), Caller::Grpc),
        (Some("Application/gRPC; x=y"), Caller::Grpc),
        (Some("application/grpc-web"), Caller::Http),
        (Some("application/grpcx"), Caller::Http),
        (Some("application/json"), Caller::Http),
        (None, Caller::Http),
    ];
    for (kind, expected) in table {
        let headers: HeaderMap = kind.map(|kind| (http::header::CONTENT_TYPE, HeaderValue::from_static(kind))).into_iter().collect();
        assert_eq!(Caller::of(&headers), expected, "{kind:?}");
    }
}
