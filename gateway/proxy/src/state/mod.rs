//! Live state that outlives Snapshots: endpoints with their latency, rate buckets, retry budgets.
//! Keyed by (key, fingerprint): what did not change keeps its state across configurations.

pub mod balance;
pub mod clock;
