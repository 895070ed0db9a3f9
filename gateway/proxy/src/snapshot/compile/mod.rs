//! Resources to Snapshot.

use super::{Live, Rejection, Snapshot};
use selvage_config::Resource;
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the next compile may reuse.
#[derive(Debug, Default)]
pub(super) struct Parts {}

impl Snapshot {
    /// The configuration of a proxy that knows nothing: no listeners.
    pub fn empty() -> Self {
        unimplemented!("contract")
    }

    /// Compiles Resources. What cannot be used is rejected one by one: a guard refuses on its attachments, a listener, route or backend keeps
    /// the form it had in `previous`, a traffic policy is dropped.
    pub fn compile(previous: &Self, resources: &BTreeMap<Key, Arc<Resource>>, live: &Live) -> (Self, Vec<Rejection>) {
        let _ = (previous, resources, live);
        unimplemented!("contract")
    }
}
