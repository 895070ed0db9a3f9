//! The catalogue: the books, over HTTP. (Over gRPC: `grpc.rs`.)

use crate::reply::{self, Body};
use crate::{Role, books};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::json;

/// `GET /books`, `GET /books/{id}`.
pub fn answer(request: &Parts) -> Response<Body> {
    let role = Role::Catalogue;
    let mut segments = request.uri.path().trim_matches('/').split('/');
    match (segments.next(), segments.next(), segments.next()) {
        (Some("books"), None, None) => reply::json(role, request, StatusCode::OK, json!({"books": books::books()})),
        (Some("books"), Some(id), None) => match books::books().into_iter().find(|book| book.id.to_string() == id) {
            Some(book) => reply::json(role, request, StatusCode::OK, json!({"book": book})),
            None => reply::not_found(role, request),
        },
        _ => reply::not_found(role, request),
    }
}
