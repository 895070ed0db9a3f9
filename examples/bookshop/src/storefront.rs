//! The storefront: what customers see. It asks the catalogue and orders.

use crate::Role;
use crate::client::{self, Answer, Peers};
use crate::reply::{self, Body};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

/// `GET /`, `GET /books`, `GET /books/{id}`, `GET /my/orders/{id}`, `DELETE /my/orders/{id}`, and `/call/{service}/…`, which
/// calls any path of another service and tells what came back.
pub async fn answer(peers: &Peers, request: &Parts) -> Response<Body> {
    let role = Role::Storefront;
    let path = request.uri.path();
    let none = HeaderMap::new();
    let called = match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
        [""] | ["books"] => peers.call("catalogue", Method::GET, "/books", request, &none).await,
        ["books", id] => peers.call("catalogue", Method::GET, &format!("/books/{id}"), request, &none).await,
        ["my", "orders", id] => peers.call("orders", request.method.clone(), &format!("/orders/{id}"), request, &none).await,
        ["call", service, ..] => {
            let rest = request.uri.path_and_query().map_or("", |whole| whole.as_str());
            let rest = rest.get("/call/".len() + service.len()..).filter(|rest| !rest.is_empty()).unwrap_or("/");
            peers.call(service, request.method.clone(), rest, request, &client::asked_for(request)).await
        }
        _ => return reply::not_found(role, request),
    };
    match called {
        Ok(answer) => reply::json(role, request, answer.status, json!({"answer": answer.body, "headers": headers(&answer)})),
        Err(error) => reply::json(role, request, StatusCode::BAD_GATEWAY, json!({"error": format!("{error:#}")})),
    }
}

fn headers(answer: &Answer) -> Value {
    answer.headers.iter().map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes())))).collect()
}
