//! How a target is reached: timeouts and retries where the route does not say.

mod compile;
mod settings;
mod spec;
#[cfg(test)]
mod tests;

pub use settings::{Budget, Settings, TrafficSet};
pub use spec::{RetryBudget, RetryMethods, RetryPolicy, Timeouts, TrafficPolicySpec};
