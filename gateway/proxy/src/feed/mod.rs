//! Where a running proxy's Resources come from, and how they become the Snapshot in force.
//!
//! ```text
//! file  ─ changed, all admitted or none ─┐
//! wire  ─ transactions, rejected singly ─┼─> Store: layers ─ compile on a blocking thread ─> Snapshot, generation, readiness
//! leaves ─ our own identity certificates ┘
//! ```

pub mod file;
mod layers;
mod leaves;
mod store;
pub mod wire;

#[cfg(test)]
mod tests;

pub use leaves::Signer;
pub use store::{Change, Readiness, Refused, Store};
