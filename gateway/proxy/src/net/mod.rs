//! The accepting half: socket -> connection -> detect -> tls -> http session or opaque TCP.
//!
//! ```text
//! Snapshot ──> sockets (bound, kept, removed live) ──accept──> least loaded worker ──> accept::serve ──> http | l4
//! ```

pub mod accept;
pub mod closing;
pub mod conn;
pub mod detect;
pub mod http;
pub mod keepalive;
pub mod raw;
pub mod sockets;
pub mod worker;
