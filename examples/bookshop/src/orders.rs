//! Orders: who ordered what.

use crate::reply::{self, Body};
use crate::{Role, books};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

/// `GET /orders`, `GET /orders/{id}`, `POST /orders`, `DELETE /orders/{id}`.
pub fn answer(request: &Parts) -> Response<Body> {
    let role = Role::Orders;
    let mut segments = request.uri.path().trim_matches('/').split('/');
    let found = match (segments.next(), segments.next(), segments.next()) {
        (Some("orders"), id, None) => id,
        _ => return reply::not_found(role, request),
    };
    let order = |id: &str| books::orders().into_iter().find(|order| order.id.to_string() == id);
    match (&request.method, found) {
        (&Method::GET, None) => reply::json(role, request, StatusCode::OK, json!({"orders": books::orders()})),
        (&Method::POST, None) => reply::json(role, request, StatusCode::CREATED, json!({"order": "taken"})),
        (method, Some(id)) => match (method, order(id)) {
            (_, None) => reply::not_found(role, request),
            (&Method::GET, Some(order)) => reply::json(role, request, StatusCode::OK, json!({"order": order})),
            (&Method::DELETE, Some(order)) => reply::json(role, request, StatusCode::OK, json!({"cancelled": order.id})),
            _ => reply::json(role, request, StatusCode::METHOD_NOT_ALLOWED, json!({"error": "GET or DELETE"})),
        },
        _ => reply::json(role, request, StatusCode::METHOD_NOT_ALLOWED, json!({"error": "GET or POST"})),
    }
}
