//! How often each path was asked for since the start.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// At most this many paths are told apart; the rest count under `other`.
const MOST_PATHS: usize = 1024;

/// Requests by path.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<String, u64>>);

impl Counters {
    /// Counts one request and returns how many there have been to this path, this one included.
    pub fn count(&self, path: &str) -> u64 {
        let mut counts = self.0.lock();
        let path = if counts.contains_key(path) || counts.len() < MOST_PATHS { path } else { "other" };
        let count = counts.entry(path.to_string()).or_default();
        *count += 1;
        *count
    }

    /// Every count.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }
}
