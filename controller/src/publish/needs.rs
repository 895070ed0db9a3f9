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
    /// Of a Route: the Backends it is attached to. A Gateway's listeners are no part of this: what is attached there is the edge's alone.
    pub(super) parents: Vec<Key>,
}

impl Needs {
    pub(super) fn of(resource: &Resource) -> Self {
        let (key, spec) = (&resource.key, &resource.spec);
        match CoreKind::of(&key.kind) {
            Some(CoreKind::Backend) => Self { backend: BackendSpec::deserialize(spec).ok(), ..Self::default() },
            Some(CoreKind::Endpoints) => {
                let backend = EndpointsSpec::deserialize(spec).map(|spec| spec.backend);
                Self { pairs: backend.into_iter().map(|backend| (backend, key.clone())).collect(), ..Self::default() }
            }
            Some(CoreKind::Route) => {
                let Ok(spec) = RouteSpec::deserialize(spec) else { return Self::default() };
                let backends = spec.rules.iter().flat_map(|rule| &rule.backends).filter_map(|one| one.backend.clone());
                let needed = backends.map(|backend| (key.clone(), backend));
                let parents: Vec<Key> =
                    spec.parents.into_iter().filter(|parent| CoreKind::of(&parent.kind) == Some(CoreKind::Backend)).collect();
                Self { pairs: needed.chain(parents.iter().map(|parent| (parent.clone(), key.clone()))).collect(), parents, backend: None }
            }
            _ => Self::default(),
        }
    }

    /// Whether anybody may ask for it with Want: how Services are reached, no guard and no secret, and of routes those of Services alone.
    pub(super) fn is_offered(&self, key: &Key) -> bool {
        match CoreKind::of(&key.kind) {
            Some(CoreKind::Backend | CoreKind::Endpoints) => true,
            Some(CoreKind::Route) => !self.parents.is_empty(),
            _ => false,
        }
    }
}

/// Whether a route holds for callers in `namespace` when they call the Service it is attached to: one of another namespace (a consumer's)
/// holds for callers of its own alone (GEP-1426), and is nobody else's to see.
pub(super) fn holds_for(route: &Key, parent: &Key, namespace: &str) -> bool {
    route.namespace == parent.namespace || route.namespace == namespace
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
