//! Runs the rules.

/// The compiled rules.
#[derive(Debug)]
pub struct Filter {}
