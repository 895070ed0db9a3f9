//! The Resources a proxy has, by where they came from.

use selvage_config::Resource;
use selvage_config::resource::keys;
use selvage_config::wire::client::Transaction;
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By key.
pub(super) type Layer = Arc<BTreeMap<Key, Arc<Resource>>>;

/// What was told, and what the proxy made for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Layers {
    /// From the controller or the file.
    pub(super) told: Layer,
    /// Certificates of our own identities; they win over told ones.
    pub(super) own: Layer,
}

impl Layers {
    /// Both together.
    pub(super) fn merged(&self) -> BTreeMap<Key, Arc<Resource>> {
        let mut merged = BTreeMap::clone(&self.told);
        merged.extend(self.own.iter().map(|(key, resource)| (key.clone(), resource.clone())));
        merged
    }

    pub(super) fn told(&self, transaction: Transaction) -> Self {
        let mut told = BTreeMap::clone(&self.told);
        for key in &transaction.removals {
            told.remove(key);
        }
        told.extend(by_key(transaction.upserts));
        Self { told: Arc::new(told), own: self.own.clone() }
    }

    pub(super) fn replaced(&self, resources: BTreeMap<Key, Resource>) -> Self {
        Self { told: Arc::new(by_key(resources.into_values()).collect()), own: self.own.clone() }
    }

    /// What was saved: our own leaves are told apart by their keys.
    pub(super) fn restored(resources: Vec<Resource>) -> Self {
        let (own, told): (Vec<_>, Vec<_>) = resources.into_iter().partition(|resource| keys::is_identity(&resource.key));
        Self { told: Arc::new(by_key(told).collect()), own: Arc::new(by_key(own).collect()) }
    }

    pub(super) fn own(&self, put: Vec<Resource>, remove: &[Key]) -> Self {
        let mut own = BTreeMap::clone(&self.own);
        own.retain(|key, _| !remove.contains(key));
        own.extend(by_key(put));
        Self { told: self.told.clone(), own: Arc::new(own) }
    }

    /// Whether both hold the same versions of the same keys.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let same = |a: &Layer, b: &Layer| {
            Arc::ptr_eq(a, b) || (a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.0 == b.0 && a.1.version == b.1.version))
        };
        same(&self.told, &other.told) && same(&self.own, &other.own)
    }
}

fn by_key(resources: impl IntoIterator<Item = Resource>) -> impl Iterator<Item = (Key, Arc<Resource>)> {
    resources.into_iter().map(|resource| (resource.key.clone(), Arc::new(resource)))
}
