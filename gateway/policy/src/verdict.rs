//! What a filter may ask for, and what a refusal consists of.

use crate::key::Key;
use crate::reason::Reason;
use std::sync::Arc;
use std::time::Duration;

/// A remote question of a filter: one variant a protocol (ext_authz, JWKS, shared counters). No policy of this version asks, hence there is
/// no variant and the compiler removes the branch.
#[derive(Debug)]
pub enum Call {}

/// A refusal: reason, who refused, and what the caller may know.
#[derive(Clone, Debug, PartialEq)]
pub struct Denial {
    /// Why.
    pub reason: Reason,
    /// The policy that decided, if one did.
    pub policy: Option<Arc<Key>>,
    /// The rule or limit in it.
    pub rule: Option<Arc<str>>,
    /// One sentence for the caller; no secrets, no addresses.
    pub detail: Arc<str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// `hideDetails`: the caller gets the reason alone; policy and rule stay in logs, metrics and explain.
    pub hidden: bool,
}

impl Denial {
    /// A refusal that no policy decided.
    pub fn of(reason: Reason, detail: &str) -> Self {
        Self { reason, policy: None, rule: None, detail: detail.into(), retry_after: None, hidden: false }
    }
}
