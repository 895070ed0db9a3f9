//! Which backends an address serves: for connections to a pod's own address, which name no Service, and for the guards of a pod that has no
//! sidecar to run them.
//!
//! ```text
//! SocketAddr ──► keys of backends, in order          changed backend by backend, as their endpoints are replaced
//! ```
//!
//! It lives outside the Snapshot, as endpoints do: a change of one slice costs what that backend has, not what the whole mesh has.

use parking_lot::RwLock;
use selvage_policy::Key;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Keys of backends; nearly always one.
pub type Backends = SmallVec<[Arc<Key>; 1]>;

/// The index.
#[derive(Debug, Default)]
pub struct Places(RwLock<Both>);

/// Both directions, changed together.
#[derive(Debug, Default)]
struct Both {
    by_address: HashMap<SocketAddr, Backends>,
    by_backend: HashMap<Arc<Key>, HashSet<SocketAddr>>,
}

impl Places {
    /// The backends that have an endpoint there, in the order of their keys.
    pub fn at(&self, address: SocketAddr) -> Backends {
        self.0.read().by_address.get(&address).cloned().unwrap_or_default()
    }

    /// `backend` has its endpoints at `addresses` and nowhere else. What stays is there at every moment.
    pub fn place(&self, backend: &Arc<Key>, addresses: impl IntoIterator<Item = SocketAddr>) {
        let after: HashSet<SocketAddr> = addresses.into_iter().collect();
        let mut both = self.0.write();
        let before = both.by_backend.remove(backend).unwrap_or_default();
        for gone in before.difference(&after) {
            if let Some(backends) = both.by_address.get_mut(gone) {
                backends.retain(|key| key != backend);
                if backends.is_empty() {
                    both.by_address.remove(gone);
                }
            }
        }
        for new in after.difference(&before) {
            let backends = both.by_address.entry(*new).or_default();
            if let Err(place) = backends.binary_search(backend) {
                backends.insert(place, backend.clone());
            }
        }
        if !after.is_empty() {
            both.by_backend.insert(backend.clone(), after);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let both = self.0.read();
        assert_eq!(both.by_backend.values().map(HashSet::len).sum::<usize>(), both.by_address.values().map(SmallVec::len).sum::<usize>());
        both.by_address.len()
    }
}
