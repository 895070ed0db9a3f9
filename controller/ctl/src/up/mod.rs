//! `selvage up`: everything of a directory, running.

pub mod children;
pub mod say;
pub mod try_it;
