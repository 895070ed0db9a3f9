//! Probes of silent TCP connections, so that a peer that is gone without a word does not hold its socket for ever.

use std::time::Duration;

/// Silence before the first probe.
pub const IDLE: Duration = Duration::from_secs(60);
/// Between probes.
const INTERVAL: Duration = Duration::from_secs(15);
/// Probes without an answer before the connection is given up.
const PROBES: u32 = 4;

/// For a socket of ours.
pub fn probes() -> socket2::TcpKeepalive {
    socket2::TcpKeepalive::new().with_time(IDLE).with_interval(INTERVAL).with_retries(PROBES)
}

/// For one that Pingora opens.
pub fn upstream() -> pingora_core::protocols::TcpKeepalive {
    pingora_core::protocols::TcpKeepalive { idle: IDLE, interval: INTERVAL, count: PROBES as usize, user_timeout: Duration::ZERO }
}
