//! An explanation for people.

use super::{Explained, ProxyHop, short};
use selvage_policy::list::{Outcome, Step};
use selvage_proxy::explain::{TrafficSettings, Verdict};
use std::fmt::Write;

/// Writes it: the request, each proxy with what it decided, the verdict.
pub fn write(explained: &Explained) -> String {
    let mut text = format!("{}\n", explained.request);
    for (number, hop) in explained.hops.iter().enumerate() {
        text.push_str(&proxy(number + 1, hop));
    }
    let verdict = match (explained.verdict, &explained.reason) {
        ("Denied", Some(reason)) => {
            let by = explained.policy.as_ref().map(|policy| format!(" by {policy}")).unwrap_or_default();
            let rule = explained.rule.as_ref().map(|rule| format!(", {rule}")).unwrap_or_default();
            let status = explained.status.map(|status| format!(", answered {status}")).unwrap_or_default();
            format!("\nDenied: {reason}{by}{rule}{status}\n")
        }
        _ => "\nAllowed\n".to_string(),
    };
    text + &verdict
}

fn proxy(number: usize, hop: &ProxyHop) -> String {
    let explanation = &hop.explanation;
    let role = if hop.proxy.kind == "Gateway" { "edge of" } else { "sidecar of" };
    let mut lines = vec![format!("\n{number}. {role} {}", hop.proxy)];
    let mut line = |label: &str, value: String| lines.push(format!("   {label:<10} {value}"));
    let caller = match &explanation.principal {
        Some(principal) => format!("{} (proved by its certificate)", short(principal)),
        None => format!("nobody known, from {}", explanation.source),
    };
    line("caller", caller);
    if let Some(listener) = &explanation.listener {
        line("listener", listener.to_string());
    }
    if let Some(route) = &explanation.route {
        let rule = explanation.rule.as_ref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
        line("route", format!("{route}{rule}"));
    }
    for step in explanation.guards.iter().chain(&explanation.target_guards) {
        line("policy", outcome(step));
    }
    if explanation.guards.is_empty() && explanation.target_guards.is_empty() {
        line("policy", "none attached here".into());
    }
    if let Some(settings) = explanation.settings.as_ref().map(traffic).filter(|text| !text.is_empty()) {
        line("traffic", settings);
    }
    if let Some(redirect) = &explanation.redirect {
        line("redirect", format!("{} {}", redirect.status, redirect.location));
    }
    if let Some(next) = &explanation.next {
        let to = explanation.backend.as_ref().map_or_else(|| "the application".to_string(), ToString::to_string);
        let how = match (&next.identity, &next.workload) {
            (Some(identity), _) => format!(", mutual TLS with {}", short(identity)),
            (None, Some(workload)) => format!(" ({workload}, no sidecar)"),
            (None, None) => String::new(),
        };
        line("sent to", format!("{to} at {}{how}", next.address));
    }
    match &explanation.verdict {
        Verdict::Allowed => line("result", "allowed".into()),
        Verdict::Denied { reason, status, detail, .. } => line("result", format!("denied: {reason} ({status}): {detail}")),
    }
    lines.join("\n") + "\n"
}

fn outcome(step: &Step) -> String {
    let word = match step.outcome {
        Outcome::Allowed => "allows",
        Outcome::Passed => "has nothing against it",
        Outcome::Denied => "DENIES",
        Outcome::Audited => "would deny, but only audits",
        Outcome::NotApplicable => "does not apply (`when` is false)",
        Outcome::NotReached => "was not reached",
    };
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write!(text, "{} on {}: {word}", step.policy, step.target);
    if let Some(rule) = &step.rule {
        let _ = write!(text, ", {rule}");
    }
    if !step.detail.is_empty() {
        let _ = write!(text, " ({})", step.detail);
    }
    text
}

fn traffic(settings: &TrafficSettings) -> String {
    let millis = |name: &str, value: Option<u64>| value.map(|value| format!("{name} {value} ms"));
    let retries = settings.attempts.map(|attempts| match &settings.codes {
        Some(codes) => format!("{attempts} retries on {}", codes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        None => format!("{attempts} retries"),
    });
    let parts = [
        millis("request timeout", settings.request_timeout_ms),
        millis("try timeout", settings.backend_timeout_ms),
        millis("connect timeout", settings.connect_timeout_ms),
        retries,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
