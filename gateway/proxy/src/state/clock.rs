//! The one monotonic clock of guards: buckets are shared by the HTTP driver and opaque TCP, so both must count from the same start.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since this process first asked; never goes back.
pub fn now() -> Duration {
    START.elapsed()
}
