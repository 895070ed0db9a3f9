//! How a refusal looks to the caller: problem+json (RFC 9457), or a gRPC status for gRPC callers. The same in every role.

use crate::verdict::Denial;
use bytes::Bytes;

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

/// Renders it. `request_id` stands in the body so that a caller can name the request.
pub fn render(denial: &Denial, caller: Caller, request_id: &str) -> Refusal {
    let _ = (denial, caller, request_id);
    unimplemented!("contract")
}
