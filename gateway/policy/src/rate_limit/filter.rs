//! Finds keys and takes tokens.

/// The compiled limits.
#[derive(Debug)]
pub struct Filter {}
