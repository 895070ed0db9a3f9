//! What filters ask for and need, when they run, and what a refusal consists of.

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

/// How much of a body the filters of a rule need before they decide; the largest need of all wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyNeed {
    /// Heads only: bodies stream untouched.
    #[default]
    None,
    /// Chunks as they pass.
    Stream,
    /// The whole body, up to this many bytes.
    Buffer(usize),
}

/// When a filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Once, after routing.
    Request,
    /// Once per Exchange and backend, after backend choice, before the first attempt to an endpoint without a sidecar.
    Destination,
    /// On each try.
    Attempt,
    /// After retries, on the response.
    Response,
}
