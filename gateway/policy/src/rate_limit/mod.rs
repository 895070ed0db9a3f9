//! How much of something is allowed in a time: token buckets by key.

mod buckets;
mod compile;
mod filter;
mod spec;
#[cfg(test)]
mod tests;

pub use buckets::{Buckets, MAX_KEYS, Rate, Standing};
pub(crate) use filter::fields;
pub use filter::{Claims, Filter, LimitStanding};
pub use spec::{KeyPart, Limit, RateLimitPolicySpec, RateLimitScope};
