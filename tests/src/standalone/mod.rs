//! Proxies without a controller: Resources built by hand, real proxies in this process, a backend that remembers what reached it, and clients.
//!
//! ```text
//! Caller ──plain or mesh TLS──► Standalone (edge: Routes │ sidecar: Local) ──► Recorder
//! ```

mod authority;
mod caller;
mod proxy;
mod publisher;
mod recorder;
mod resources;

pub use authority::Authority;
pub use caller::{Call, Caller, Heard, Via};
pub use proxy::Standalone;
pub use publisher::{Book, NAME, Publisher};
pub use recorder::{Recorder, Seen};
pub use resources::{Resources, TRUST_DOMAIN, edge_listener, identity, inbound_listener, outbound_listener, service_chain};

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};

/// A loopback address of this test process alone, with `port`; every call gives another one. Processes differ by their ids, and all keep away
/// from the range that `selvage up` uses.
pub fn address(port: u16) -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    loop {
        let last = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(last < 255, "a test process has 254 addresses");
        let ip = Ipv4Addr::new(127, 130 + (pid % 120) as u8, (pid / 120 % 254) as u8, last);
        // Another process may hold it still.
        if TcpListener::bind((ip, port)).is_ok() {
            return SocketAddr::from((ip, port));
        }
    }
}
