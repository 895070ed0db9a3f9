//! What can be enforced on a request: the policy kernel.
//!
//! ```text
//! Spec (what somebody wrote) --compile--> Filter --run over an Exchange--> Decision
//! ```
//!
//! The kernel does no I/O: no sockets, no clock, no randomness. Time comes in with the [`Exchange`],
//! anything remote is asked for with [`list::Progress::Ask`] and answered by the driver. The same code therefore
//! serves live traffic, `selvage explain` and table tests, in every role.
//!
//! One folder a policy kind; the one ordered list of kinds is in [`list`].

pub mod canonical;
pub mod duration;
pub mod exchange;
pub mod expression;
pub mod identity;
pub mod key;
pub mod list;
pub mod reason;
pub mod refusal;
pub mod target;
pub mod verdict;

#[cfg(test)]
mod sample;

pub mod authorization;
pub mod mesh;
pub mod rate_limit;
pub mod traffic;

pub use exchange::{Exchange, Http, Source};
pub use identity::{SpiffeId, TrustDomain};
pub use key::Key;
pub use reason::Reason;
pub use target::{Envelope, Inheritance, Target, TargetKind};
pub use verdict::Denial;

/// Whether a field is what it is when it is not written: for serde.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
