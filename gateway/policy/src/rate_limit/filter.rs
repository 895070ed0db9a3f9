//! Finds keys and takes tokens.

/// The compiled limits.
#[derive(Debug)]
pub struct Filter {}

impl Filter {
    /// Equal for two filters that count the same way: their policy's Buckets may be kept across configurations.
    pub fn fingerprint(&self) -> u64 {
        unimplemented!("contract")
    }
}
