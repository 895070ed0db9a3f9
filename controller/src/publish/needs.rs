//! What the publisher has to know of Resources beside their bytes: how a Service is found, and what is of no use without what.

use selvage_config::Resource;
use selvage_config::resource::{BackendSpec, CoreKind, EndpointsSpec, RouteSpec};
use selvage_policy::Key;
use serde::Deserialize;
use std::net::SocketAddr;

/// Of one Resource. It is read once a version.
#[derive(Clone, Debug, Default)]
pub(super) struct Needs {
    /// Of a Backend: where it answers, and what it is.
    pub(super) backend: Option<BackendSpec>,
    /// Pairs of a key and what it needs beside itself: a backend's endpoints and routes, a route's backends.
    pub(super) pairs: Vec<(Key, Key)>,
}

impl Needs {
    pub(super) fn of(resource: &Resource) -> Self {
        let (key, spec) = (&resource.key, &resource.spec);
        match CoreKind::of(&key.kind) {
            Some(CoreKind::Backend) => Self { backend: BackendSpec::deserialize(spec).ok(), pairs: Vec::new() },
            Some(CoreKind::Endpoints) => {
                let backend = EndpointsSpec::deserialize(spec).map(|spec| spec.backend);
                Self { backend: None, pairs: backend.into_iter().map(|backend| (backend, key.clone())).collect() }
            }
            Some(CoreKind::Route) => {
                let Ok(spec) = RouteSpec::deserialize(spec) else { return Self::default() };
                let backends = spec.rules.iter().flat_map(|rule| &rule.backends).filter_map(|one| one.backend.clone());
                let needed = backends.map(|backend| (key.clone(), backend));
                Self { backend: None, pairs: needed.chain(spec.parents.iter().map(|parent| (parent.clone(), key.clone()))).collect() }
            }
            _ => Self::default(),
        }
    }
}

/// Whether a Service port answers at an address: its own cluster address.
pub(super) fn answers(spec: &BackendSpec, address: SocketAddr) -> bool {
    spec.port == address.port() && spec.addresses.contains(&address.ip())
}

/// Whether `host` is a name of the Service in the cluster: `service.namespace`, with or without `.svc` and the cluster's domain.
pub(super) fn is_host_of(backend: &Key, host: &str) -> bool {
    let service = backend.name.split('#').next().unwrap_or_default();
    let own = format!("{service}.{}", backend.namespace);
    host.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest == ".svc" || rest.starts_with(".svc."))
}
