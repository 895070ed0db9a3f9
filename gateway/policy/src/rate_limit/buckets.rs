//! Token buckets by key, bounded in number.

/// The live counters of one policy; they outlive configurations that do not change its limits.
#[derive(Debug, Default)]
pub struct Buckets {}
