//! JSON answers, each with the headers that reached the service.

use crate::Role;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Map, Value, json};

/// The body type of every answer: JSON, gRPC frames, or nothing.
pub type Body = tonic::body::Body;

/// Headers that show what happened on the way; each answer repeats those that came.
const SHOWN: [&str; 10] = [
    "host",
    "selvage-principal",
    "x-request-id",
    "traceparent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "forwarded",
    "selvage-attempt",
    "selvage-deadline",
];

/// A JSON answer: `{service, path, seen, …fields}`.
pub fn json(role: Role, request: &Parts, status: StatusCode, fields: Value) -> Response<Body> {
    let mut object = Map::new();
    object.insert("service".into(), json!(role.name()));
    object.insert("path".into(), json!(request.uri.path()));
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    object.insert("seen".into(), shown(request));
    let mut text = Value::Object(object).to_string();
    text.push('\n');
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text)).map_err(|never| match never {})));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// An answer for what does not exist.
pub fn not_found(role: Role, request: &Parts) -> Response<Body> {
    json(role, request, StatusCode::NOT_FOUND, json!({"error": "there is nothing here"}))
}

fn shown(request: &Parts) -> Value {
    let mut seen = Map::new();
    // HTTP/2 has its host in `:authority`.
    if let Some(authority) = request.uri.authority() {
        seen.insert("host".into(), json!(authority.as_str()));
    }
    for name in SHOWN {
        let values: Vec<_> = request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        if !values.is_empty() {
            seen.insert(name.into(), json!(values.join(", ")));
        }
    }
    Value::Object(seen)
}
