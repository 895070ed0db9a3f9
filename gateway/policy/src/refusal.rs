//! How a refusal looks to the caller: problem+json (RFC 9457), or a gRPC status for gRPC callers. The same in every role.
//!
//! ```json
//! {"type":"about:blank","title":"Forbidden","status":403,"detail":"No rule allows this request.","reason":"authorization_denied",
//!  "policy":"AuthorizationPolicy/shop/orders-callers","requestId":"..."}
//! ```

use crate::duration::whole_seconds;
use crate::verdict::Denial;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

#[cfg(test)]
mod tests;

/// What `grpc-message` must encode: everything but printable ASCII, and `%` itself (gRPC over HTTP/2, "Responses").
const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// A response head and body to answer a refused request with.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status; 200 for gRPC callers.
    pub status: u16,
    /// Header fields.
    pub fields: Vec<(&'static str, String)>,
    /// Body; empty for gRPC callers.
    pub body: Bytes,
}

/// How the caller wants to hear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `content-type: application/grpc…`
    Grpc,
    /// Everybody else.
    Http,
}

impl Caller {
    /// Found out from the request's fields: `application/grpc`, alone or with a suffix or parameters; gRPC-Web speaks plain HTTP.
    pub fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_ascii_lowercase()).unwrap_or_default();
        match kind.strip_prefix(b"application/grpc") {
            Some([] | [b'+' | b';' | b' ', ..]) => Self::Grpc,
            _ => Self::Http,
        }
    }
}

/// Members of RFC 9457 first, ours after them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    request_id: &'a str,
}

/// Renders it. `request_id` stands in the body so that a caller can name the request.
pub fn render(denial: &Denial, caller: Caller, request_id: &str) -> Refusal {
    // At least one: an earlier try would be refused again.
    let retry = denial.retry_after.map(|wait| ("retry-after", whole_seconds(wait).max(1).to_string()));
    let policy = denial.policy.as_ref().filter(|_| !denial.hidden).map(ToString::to_string);
    let rule = denial.rule.as_deref().filter(|_| !denial.hidden);
    match caller {
        Caller::Grpc => {
            let by = policy.map(|policy| rule.map_or_else(|| format!(" ({policy})"), |rule| format!(" ({policy} {rule})")));
            let message = format!("{}: {}{}", denial.reason, denial.detail, by.unwrap_or_default());
            let fields = [
                ("content-type", "application/grpc".to_string()),
                ("grpc-status", denial.reason.grpc_status().to_string()),
                ("grpc-message", utf8_percent_encode(&message, GRPC_MESSAGE).to_string()),
            ];
            Refusal { status: 200, fields: fields.into_iter().chain(retry).collect(), body: Bytes::new() }
        }
        Caller::Http => {
            let status = denial.reason.status();
            let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
            let reason = denial.reason.as_str();
            let problem = Problem { kind: "about:blank", title, status, detail: &denial.detail, reason, policy, rule, request_id };
            let body = serde_json::to_vec(&problem).expect("a flat struct of strings and numbers is always JSON");
            let content_type = ("content-type", "application/problem+json".to_string());
            Refusal { status, fields: std::iter::once(content_type).chain(retry).collect(), body: body.into() }
        }
    }
}
