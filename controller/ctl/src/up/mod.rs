//! `selvage up`: everything of a directory, running.

pub mod certificates;
pub mod children;
pub mod say;
pub mod try_it;
