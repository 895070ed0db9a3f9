//! The user's command line: up, render, check, explain.

pub mod cli;
pub mod expand;
pub mod output;
pub mod up;
