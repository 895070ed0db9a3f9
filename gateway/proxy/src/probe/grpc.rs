//! Asking by the gRPC health protocol (`grpc.health.v1.Health/Check`), without TLS, as the kubelet does.

use super::perform::connect;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request};
use std::net::SocketAddr;

/// Bytes of an answer; a good one has 7.
const MAX_ANSWER: usize = 4096;
/// `HealthCheckResponse.ServingStatus.SERVING`
const SERVING: u64 = 1;

pub(super) async fn check(address: SocketAddr, service: &str) -> Result<(), String> {
    let tcp = connect(address).await?;
    let (sender, connection) = h2::client::handshake(tcp).await.map_err(broken)?;
    let mut asking = std::pin::pin!(ask(sender, address, service));
    let mut connection = std::pin::pin!(connection);
    // Both make progress; a connection that ends in order may leave its answer behind.
    tokio::select! {
        answer = &mut asking => answer,
        ended = &mut connection => match ended {
            Ok(()) => asking.await,
            Err(error) => Err(broken(error)),
        },
    }
}

fn broken(error: h2::Error) -> String {
    format!("the container does not speak gRPC: {error}")
}

async fn ask(sender: h2::client::SendRequest<Bytes>, address: SocketAddr, service: &str) -> Result<(), String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "selvage-probe")
        .body(())
        .map_err(|error| error.to_string())?;
    let mut sender = sender.ready().await.map_err(broken)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(broken)?;
    stream.send_data(message(service), true).map_err(broken)?;
    let (head, mut body) = response.await.map_err(broken)?.into_parts();
    let mut answer = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(broken)?;
        if answer.len() + part.len() > MAX_ANSWER {
            return Err("the container's answer is longer than a health check has".into());
        }
        // Never fails for what was received.
        let _ = body.flow_control().release_capacity(part.len());
        answer.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.map_err(broken)?;
    match status(trailers.as_ref()).or_else(|| status(Some(&head.headers))) {
        Some("0") => {}
        Some(code) => return Err(format!("the container's health check ended with gRPC status {code}")),
        None => return Err(format!("the container answered {} without a gRPC status", head.status)),
    }
    match serving(&answer) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(format!("the container says that it does not serve (status {other})")),
        None => Err("the container's health check has no answer".into()),
    }
}

fn status(fields: Option<&HeaderMap>) -> Option<&str> {
    fields?.get("grpc-status")?.to_str().ok()
}

/// `HealthCheckRequest { string service = 1 }` behind the five bytes before every gRPC message.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            body.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        body.put_u8(length as u8);
        body.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    framed.unsplit(body);
    framed.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; without the field it is 0, unknown.
fn serving(answer: &[u8]) -> Option<u64> {
    let (frame, message) = answer.split_at_checked(5)?;
    let length = u32::from_be_bytes(frame[1..].try_into().ok()?);
    if frame[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status] if *status < 0x80 => Some((*status).into()),
        _ => None,
    }
}
