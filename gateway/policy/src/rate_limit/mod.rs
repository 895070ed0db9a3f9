//! How much of something is allowed in a time: token buckets by key.

mod buckets;
mod compile;
mod filter;
mod spec;
#[cfg(test)]
mod tests;

pub use buckets::Buckets;
pub use filter::Filter;
pub use spec::{KeyPart, Limit, RateLimitPolicySpec, RateLimitScope};
