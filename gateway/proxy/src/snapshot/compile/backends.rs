//! Service ports: what can be sent to, and the live endpoints behind it.

use super::Compile;
use super::form::Form;
use super::parts::{self, Part};
use crate::snapshot::{Backend, Destination, Live};
use selvage_config::attach::Attachments;
use selvage_config::{BackendSpec, Endpoint};
use selvage_policy::Key;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

impl Compile<'_> {
    /// Every backend, and the keys of those that are new, different or gone.
    pub(super) fn backends(&self, attachments: &Attachments, live: &Live) -> (HashMap<Key, Arc<Backend>>, HashSet<Key>) {
        let mut backends = self.previous.parts.backends.clone();
        let mut new = HashSet::new();
        for key in self.changed_keys(|form| matches!(form, Form::Backend(_))) {
            backends.remove(&key);
            new.insert(key);
        }
        let hit: Vec<Key> = backends.values().filter(|known| self.hits(&known.spec.chain)).map(|known| (*known.key).clone()).collect();
        new.extend(hit);
        for key in &new {
            let Some(Part { form: Some(Form::Backend(spec)), .. }) = parts::find(&self.list, key) else { continue };
            backends.insert(key.clone(), Arc::new(backend(key, spec, attachments, live)));
        }
        (backends, new)
    }

    /// Fills the live endpoints of backends whose slices changed, and of new backends, and finds them by address.
    pub(super) fn endpoints(&self, backends: &HashMap<Key, Arc<Backend>>, live: &Live) {
        let places = live.places();
        for (key, gone) in &self.previous.parts.backends {
            if !backends.contains_key(key) {
                places.place(&gone.key, []);
            }
        }
        let mut stale: HashSet<&Key> = HashSet::new();
        for change in &self.changes {
            for part in [change.old, change.new.map(|at| &self.list[at])].into_iter().flatten() {
                if let Some(Form::Endpoints(slice)) = &part.form {
                    stale.insert(&slice.backend);
                }
            }
        }
        let is_new = |key: &&Key| !self.previous.parts.backends.contains_key(*key);
        stale.extend(backends.keys().filter(is_new));
        if stale.is_empty() {
            return;
        }
        let mut all: HashMap<&Key, Vec<Endpoint>> = stale.into_iter().map(|key| (key, Vec::new())).collect();
        for part in &self.list {
            if let Some(Form::Endpoints(slice)) = &part.form
                && let Some(endpoints) = all.get_mut(&slice.backend)
            {
                endpoints.extend(slice.endpoints.iter().cloned());
            }
        }
        for (key, endpoints) in all {
            if let Some(backend) = backends.get(key) {
                backend.endpoints.replace(&endpoints);
                let decides = |endpoint: &&Endpoint| decides_about(key, endpoint);
                places.place(&backend.key, endpoints.iter().filter(decides).map(|endpoint| endpoint.address));
            }
        }
    }
}

/// Nobody's Service decides about the workloads of another namespace, whatever endpoints it is given. Where no workload is known there is
/// none in this cluster, and whoever has the address may.
fn decides_about(backend: &Key, endpoint: &Endpoint) -> bool {
    endpoint.workload.as_ref().is_none_or(|workload| workload.namespace == backend.namespace)
}

fn backend(key: &Key, spec: &BackendSpec, attachments: &Attachments, live: &Live) -> Backend {
    Backend {
        key: Arc::new(key.clone()),
        spec: spec.clone(),
        // The posture is the target's own affair; an endpoint without a sidecar has nobody to apply it.
        guards: Arc::new(attachments.guards(&spec.chain, None)),
        endpoints: live.endpoints(key),
        retries: live.retries(key),
    }
}

/// Destinations by address; of two with one address the first by key.
pub(super) fn by_address(destinations: &HashMap<Key, Arc<Destination>>) -> HashMap<(IpAddr, u16), Arc<Destination>> {
    let mut found: HashMap<_, Arc<Destination>> = HashMap::new();
    for destination in destinations.values() {
        let backend = &destination.backend;
        for address in &backend.spec.addresses {
            let slot = found.entry((*address, backend.spec.port)).or_insert_with(|| destination.clone());
            if backend.key < slot.backend.key {
                *slot = destination.clone();
            }
        }
    }
    found
}
