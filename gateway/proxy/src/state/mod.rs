//! Live state that outlives Snapshots: endpoints with their latency, rate buckets, retry budgets.
//!
//! Keyed by (key, fingerprint): what did not change keeps its state across configurations. The registry holds its entries weakly:
//! Snapshots (and requests under way) own them, so that an entry goes with the last configuration that refers to it.

pub mod balance;
pub mod budget;
pub mod clock;
pub mod places;

use balance::EndpointSet;
use budget::RetryBudget;
use parking_lot::Mutex;
use places::Places;
use selvage_policy::Key;
use selvage_policy::rate_limit::Buckets;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// State that outlives Snapshots, handed to each compile.
#[derive(Debug, Default)]
pub struct Live {
    endpoints: Registry<Key, EndpointSet>,
    places: Arc<Places>,
    buckets: Registry<(Key, u64), Buckets>,
    retries: Registry<Key, RetryBudget>,
}

impl Live {
    /// The endpoints of a Backend.
    pub fn endpoints(&self, backend: &Key) -> Arc<EndpointSet> {
        self.endpoints.entry(backend.clone(), EndpointSet::default)
    }

    /// Which backends an address serves.
    pub fn places(&self) -> Arc<Places> {
        self.places.clone()
    }

    /// The buckets of a policy whose limits have this fingerprint.
    pub fn buckets(&self, policy: &Key, fingerprint: u64) -> Arc<Buckets> {
        self.buckets.entry((policy.clone(), fingerprint), Buckets::default)
    }

    /// The retry budget of a Backend.
    pub fn retries(&self, backend: &Key) -> Arc<RetryBudget> {
        self.retries.entry(backend.clone(), RetryBudget::default)
    }

    /// Forgets what no configuration refers to any more.
    pub fn prune(&self) {
        self.endpoints.prune();
        self.buckets.prune();
        self.retries.prune();
    }
}

#[derive(Debug)]
struct Registry<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for Registry<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> Registry<K, V> {
    fn entry(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut entries = self.0.lock();
        let slot = entries.entry(key).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make());
            *slot = Arc::downgrade(&made);
            made
        })
    }

    fn prune(&self) {
        self.0.lock().retain(|_, entry| entry.strong_count() > 0);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests;
