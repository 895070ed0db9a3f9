//! Who may call what: allow and deny rules over the caller, the request and the connection.

mod compile;
mod filter;
mod spec;
#[cfg(test)]
mod tests;

pub use filter::{Filter, RuleError};
pub use spec::{Action, AuthorizationPolicySpec, HeaderTest, Mode, Rule, RuleFrom, RuleTo};
