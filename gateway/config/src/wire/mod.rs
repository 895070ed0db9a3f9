//! The stream between controller and proxy: one gRPC call, JSON both ways, transactions of Resources down and Acks up.
//!
//! ```text
//! proxy                                        controller
//!   Hello {have: key -> version}      ──►        who is it? (its token says, not its Hello)
//!                                     ◄──        Update part 0 … part n, commit: what differs
//!   apply: all or nothing, then
//!   Ack {rejected: one by one}        ──►        the next transaction, if anything changed meanwhile: the latest wins
//!   Want, Sign, Explained, Report     ──►◄──     Found / NotFound, Signed / Refused, Explain, Goaway
//! ```
//!
//! The unit of rejection is a Resource, the unit of application a transaction. Messages that one side does not know are ignored;
//! fields of a message that are not known are ignored too, those of a Resource are not.

pub mod client;
mod codec;
mod message;
pub mod server;

#[cfg(test)]
mod tests;

pub use message::{
    Ack, Explain, Explained, Found, Goaway, Hello, NotFound, Refused, Rejected, Release, Report, Sign, Signed, Standing, Subject, ToClient,
    ToServer, Update, Want,
};

use crate::resource::Resource;
use selvage_policy::Key;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The version of this protocol, told in Hello. A server refuses clients that speak a newer one.
pub const PROTOCOL: u32 = 1;

/// Bytes of Resources in one part of an Update. Small enough that nobody waits long behind it on a shared connection.
pub const PART: usize = 1 << 20;

/// Bytes of the largest message either side decodes: a part, or one Resource that is larger than a part, or a long Hello.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Bytes of the largest Resource, so that a message with it alone stays decodable.
pub const MAX_RESOURCE: usize = MAX_MESSAGE - (64 << 10);

/// Bytes of the largest transaction a client collects before it gives up: far above any real configuration, below what kills a sidecar.
pub const MAX_TRANSACTION: usize = 256 << 20;

/// The gRPC service and its one method.
const SERVICE: &str = "selvage.config.v1.Configuration";
const METHOD: &str = "/selvage.config.v1.Configuration/Stream";

/// A Resource as the wire carries it: encoded once, shared by every client.
#[derive(Clone)]
pub struct Encoded {
    key: Key,
    version: String,
    json: Arc<RawValue>,
}

/// A Resource too large for the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} has {bytes} bytes; a proxy takes at most {MAX_RESOURCE}: split it into several objects")]
pub struct TooLarge {
    /// Which.
    pub key: Key,
    /// Its size as JSON.
    pub bytes: usize,
}

impl Encoded {
    /// Encodes it.
    pub fn new(resource: &Resource) -> Result<Arc<Self>, TooLarge> {
        let json = serde_json::value::to_raw_value(resource).expect("a Resource has text keys only, so it has a JSON form");
        let bytes = json.get().len();
        if bytes > MAX_RESOURCE {
            return Err(TooLarge { key: resource.key.clone(), bytes });
        }
        Ok(Arc::new(Self { key: resource.key.clone(), version: resource.version.clone(), json: Arc::from(json) }))
    }

    /// Its name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its content may be a private key.
        write!(f, "{} {}", self.key, self.version)
    }
}
