//! The canonical request: one idempotent function in every role, so that router, guards, limits, logs and the upstream see the same.
//!
//! Property: what is sent upstream is a fixed point: `path(path(x)) == path(x)`.

use crate::mesh::PathHandling;
use std::borrow::Cow;

/// Why a request has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// `%` without two hexadecimal digits.
    #[error("the path has a `%` that no two hexadecimal digits follow")]
    Triplet,
    /// A control character, NUL, `\` or space, plain or encoded.
    #[error("the path has a control character or a backslash")]
    Character,
    /// `%2f`, `%5c`, `//` or `..;` where the platform refuses them.
    #[error("the path has an encoded or doubled separator, or a `..;` segment")]
    Separator,
    /// More `..` than segments, or no leading `/`.
    #[error("the path does not start with `/` or climbs above its root")]
    Root,
    /// The host is missing, doubled or malformed.
    #[error("the host is missing or malformed")]
    Host,
}

/// The canonical form of a request path (without query). Borrowed when it is canonical already.
pub fn path(raw: &str, handling: PathHandling) -> Result<Cow<'_, str>, InvalidRequest> {
    let _ = (raw, handling);
    unimplemented!("contract")
}

/// The canonical host and the port of an authority: lower-case, no final dot, no userinfo. IPv6 literals keep their brackets.
pub fn authority(raw: &str) -> Result<(Cow<'_, str>, Option<u16>), InvalidRequest> {
    let _ = raw;
    unimplemented!("contract")
}
