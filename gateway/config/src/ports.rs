//! The ports and the user of a proxy in a pod: settled once, because rules, probes, manifests and proxies must agree.

/// Where an application's own connections are captured to.
pub const OUTBOUND: u16 = 15301;
/// Where connections to a pod's application are captured to.
pub const INBOUND: u16 = 15306;
/// Where `/healthz`, `/readyz` and an application's probes are answered.
pub const HEALTH: u16 = 15315;
/// Where `/metrics` is answered.
pub const METRICS: u16 = 15320;
/// Where `/config` and `/status` are answered, on loopback.
pub const ADMIN: u16 = 15390;

/// Ports of a captured pod that are the proxy's own: nothing is ever forwarded to them.
pub const PROXY: std::ops::RangeInclusive<u16> = 15300..=15399;

/// User and group of a proxy: what they send is not captured.
pub const PROXY_USER: u32 = 2173;

/// Entries of one list of what is left out of capture: each becomes a rule in the pod.
pub const MOST_EXCLUSIONS: usize = 64;

/// Socket priority of a mesh hop. It never leaves the host (and 0 and 4 are one band of the kernel's default queue); the capture rules tell by it
/// a hop to our own pod, which must come in like any other, from what we hand to the application.
pub const HOP_PRIORITY: u32 = 4;
