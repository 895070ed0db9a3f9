//! How a proxy runs: the only crate that knows Pingora.
//!
//! ```text
//! feed (file or wire) --Resources--> snapshot::compile --> Snapshot --ArcSwap--> requests
//!
//! net: socket -> connection -> detect -> tls -> http session ─┬─> driver: route, guards, endpoint, attempt, response, log
//!                                                            └─> l4: opaque TCP
//! ```
//!
//! Nothing here branches on a role: edge and sidecar differ in the Listeners they are given.

pub mod admin;
pub mod connection;
pub mod driver;
pub mod explain;
pub mod feed;
pub mod identity;
pub mod l4;
pub mod net;
pub mod observe;
pub mod permit;
pub mod probe;
pub mod program;
pub mod proxy;
pub mod running;
pub mod snapshot;
pub mod state;
pub mod tls;
