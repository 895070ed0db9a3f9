//! What every kind has in common: parsing, the envelope, the list itself.

use super::{Class, Invalid, Kind, PolicySpec};
use crate::mesh::{MeshConfigSpec, Mtls, Posture};
use crate::sample::policy;
use crate::target::TargetKind;
use serde_json::{Value, json};

#[test]
fn kinds_parse_by_name_and_nothing_else_does() {
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert_eq!("FirewallPolicy".parse::<Kind>(), Err(Invalid::UnknownKind("FirewallPolicy".into())));
    assert_eq!(Kind::ALL.map(Kind::class), [Class::Guard, Class::Guard, Class::Traffic]);
    assert!(Kind::ALL.is_sorted(), "the list is the order of execution");
}

#[test]
fn a_spec_prints_as_it_was_read() {
    let table = [
        (
            Kind::AuthorizationPolicy,
            json!({ "targetRefs": [{ "kind": "Service", "name": "a" }], "when": "true", "rules": [{ "name": "r", "action": "Deny" }] }),
        ),
        (
            Kind::RateLimitPolicy,
            json!({ "targetSelectors": [{ "kind": "Pod", "matchLabels": { "app": "a" } }], "limits": [{ "name": "x", "requests": 1, "per": "1s" }] }),
        ),
        (
            Kind::TrafficPolicy,
            json!({ "targetRefs": [{ "kind": "Gateway", "name": "a", "sectionName": "http" }], "inheritance": "Override", "timeouts": { "request": "1s" } }),
        ),
    ];
    for (kind, spec) in table {
        let printed = match PolicySpec::parse(kind, &spec).unwrap() {
            PolicySpec::Authorization(spec) => serde_json::to_value(spec),
            PolicySpec::RateLimit(spec) => serde_json::to_value(spec),
            PolicySpec::Traffic(spec) => serde_json::to_value(spec),
        };
        assert_eq!(printed.unwrap(), spec, "unset and default fields are not written");
    }
}

#[test]
fn the_envelope_is_bounded_alike_for_every_kind() {
    let many = |count: usize| (0..count).map(|number| json!({ "kind": "Service", "name": format!("s{number}") })).collect::<Vec<_>>();
    let selector = |labels: Value| json!({ "targetSelectors": [{ "kind": "Pod", "matchLabels": labels }] });
    let table: Vec<(Value, &str)> = vec![
        (json!({ "targetRefs": many(17) }), "spec.targetRefs: "),
        (json!({ "targetRefs": [{ "kind": "Secret", "name": "a" }] }), "spec.targetRefs[0].kind: "),
        (json!({ "targetRefs": [{ "kind": "Service", "name": "a", "namespace": "b" }] }), "spec.targetRefs[0].namespace: "),
        (json!({ "targetRefs": [{ "kind": "Service", "name": "a", "sectionName": "" }] }), "spec.targetRefs[0].sectionName: "),
        (selector(json!({})), "spec.targetSelectors[0].matchLabels: "),
        (json!({ "targetSelectors": [{ "kind": "Node", "matchLabels": { "a": "b" } }] }), "spec.targetSelectors[0].kind: "),
        (json!({ "when": "x" }), "spec.when: "),
        (json!({ "inheritance": "Sometimes" }), "spec.inheritance: "),
        (json!({ "hide": true }), "spec.hide: "),
    ];
    let bodies = [
        (Kind::AuthorizationPolicy, json!({ "rules": [{ "name": "r", "action": "Allow" }] })),
        (Kind::RateLimitPolicy, json!({ "limits": [{ "name": "x", "requests": 1, "per": "1s" }] })),
        (Kind::TrafficPolicy, json!({ "timeouts": { "request": "1s" } })),
    ];
    for (kind, body) in bodies {
        let with = |extra: &Value| {
            let mut spec = body.clone();
            for (field, value) in extra.as_object().unwrap() {
                spec[field] = value.clone();
            }
            spec
        };
        for (extra, field) in &table {
            let text = policy(kind, "p", with(extra)).map(|policy| policy.key).expect_err(&extra.to_string()).to_string();
            assert!(text.starts_with(field), "{kind:?} {extra}: {text}");
        }
        for extra in [
            json!({ "targetRefs": many(16) }),
            selector(json!({ "app": "a" })),
            json!({ "targetRefs": [{ "group": "", "kind": "Service", "name": "a" }] }),
        ] {
            assert!(policy(kind, "p", with(&extra)).is_ok(), "{kind:?} {extra}");
        }
    }
}

#[test]
fn target_kinds_are_written_as_kubernetes_names_them() {
    for (text, kind) in
        [("MeshConfig", TargetKind::Mesh), ("XMesh", TargetKind::Mesh), ("Pod", TargetKind::Workload), ("HTTPRoute", TargetKind::HTTPRoute)]
    {
        assert_eq!(TargetKind::parse(text), Some(kind));
    }
    for text in ["Mesh", "Workload", "UDPRoute", "service", ""] {
        assert_eq!(TargetKind::parse(text), None, "{text}");
    }
}

#[test]
fn a_mesh_config_parses_strictly() {
    assert_eq!(MeshConfigSpec::parse(&json!({})), Ok(MeshConfigSpec::default()));
    let spec = MeshConfigSpec::parse(&json!({ "mtls": "Strict", "posture": "MeshOnly", "paths": { "encodedSlash": "Keep" } })).unwrap();
    assert_eq!((spec.mtls, spec.posture), (Mtls::Strict, Posture::MeshOnly));
    let table = [
        (json!({ "posture": "Sometimes" }), "spec.posture: "),
        (json!({ "trustDomain": "Shop" }), "spec.trustDomain: "),
        (json!({ "trustDomainAliases": ["a", "B"] }), "spec.trustDomainAliases[1]: "),
        (json!({ "trustDomainAliases": ["cluster.local"] }), "spec.trustDomainAliases[0]: "),
        (json!({ "paths": { "slash": "Keep" } }), "spec.paths.slash: "),
        (json!({ "egress": "Deny" }), "spec.egress: "),
    ];
    for (spec, field) in table {
        let text = MeshConfigSpec::parse(&spec).unwrap_err().to_string();
        assert!(text.starts_with(field), "{spec}: {text}");
    }
}
