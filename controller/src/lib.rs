//! Placeholder.
pub mod ca;
