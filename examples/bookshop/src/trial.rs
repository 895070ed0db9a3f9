//! What every service answers besides its own work, to try a proxy with: failures, delays, counts, WebSocket.

use crate::Role;
use crate::counters::Counters;
use crate::reply::{self, Body};
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role as Side;

/// The longest delay somebody can ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Answers one of these, or nothing if the path is not among them:
/// `/healthz`; `/counters`; `/echo`; `/slow?ms=200`; `/fail?rate=0.5&status=503` (every second request), `/fail?first=2` (the
/// first two requests to this path and query fail); `/ws`, which sends back every WebSocket message.
pub async fn answer(role: Role, request: &Parts, counters: &Counters, upgrade: Option<OnUpgrade>) -> Option<Response<Body>> {
    let whole = request.uri.path_and_query().map_or("/", |whole| whole.as_str());
    let answer = match request.uri.path() {
        "/healthz" => reply::json(role, request, StatusCode::OK, json!({"healthy": true})),
        "/counters" => reply::json(role, request, StatusCode::OK, json!({"counters": counters.all()})),
        "/echo" => {
            let all: serde_json::Map<_, _> =
                request.headers.iter().map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes())))).collect();
            reply::json(role, request, StatusCode::OK, json!({"method": request.method.as_str(), "headers": all}))
        }
        "/slow" => {
            let delay = Duration::from_millis(number(request, "ms").unwrap_or(1000.0) as u64).min(LONGEST_DELAY);
            tokio::time::sleep(delay).await;
            reply::json(role, request, StatusCode::OK, json!({"sleptMs": delay.as_millis() as u64}))
        }
        "/fail" => {
            let status = number(request, "status").and_then(|status| StatusCode::from_u16(status as u16).ok());
            let attempt = counters.count(&format!("attempts {whole}"));
            let fails = match (number(request, "first"), number(request, "rate").unwrap_or(1.0)) {
                (Some(first), _) => attempt <= first as u64,
                // Evenly spread rather than by chance: of 100 requests at rate 0.3 exactly 30 fail.
                (None, rate) => (attempt as f64 * rate).floor() > ((attempt - 1) as f64 * rate).floor(),
            };
            let status = if fails { status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE) } else { StatusCode::OK };
            reply::json(role, request, status, json!({"attempt": attempt}))
        }
        "/ws" => web_socket(role, request, upgrade),
        _ => return None,
    };
    Some(answer)
}

/// A number from the query.
fn number(request: &Parts, name: &str) -> Option<f64> {
    let pairs = request.uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok())
}

/// Switches to WebSocket (RFC 6455) and sends every message back.
fn web_socket(role: Role, request: &Parts, upgrade: Option<OnUpgrade>) -> Response<Body> {
    let (Some(key), Some(upgrade)) = (request.headers.get("sec-websocket-key"), upgrade) else {
        return reply::json(role, request, StatusCode::UPGRADE_REQUIRED, json!({"error": "this is a WebSocket"}));
    };
    let accept = derive_accept_key(key.as_bytes());
    // Ends with its connection, which the server owns.
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Side::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || ((message.is_text() || message.is_binary()) && socket.send(message).await.is_err()) {
                break;
            }
        }
        // The peer may be gone already; then there is nobody to say goodbye to.
        let _ = socket.close(None).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
