//! Resources by hand: what the controller would publish, in a few words.

use super::Authority;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Clients, Forward, MeshMode, Protocol};
use selvage_config::resource::route::{MatchSpec, PathMatch, RuleSpec, WeightedBackend};
use selvage_config::{
    BackendSpec, CertificateSpec, Class, Endpoint, EndpointsSpec, ListenerSpec, MeshSpec, Origin, Resource, RouteSpec, VersionKey, keys,
};
use selvage_policy::mesh::{PathHandling, Posture};
use selvage_policy::{Key, SpiffeId, Target, TargetKind};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// The trust domain of every test.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// A configuration under construction. Equal content gives equal versions, so building one twice changes nothing.
#[derive(Clone, Debug)]
pub struct Resources {
    list: BTreeMap<Key, Arc<Resource>>,
    version_key: VersionKey,
}

/// The identity of an account of a namespace.
pub fn identity(namespace: &str, account: &str) -> SpiffeId {
    format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}").parse().expect("names of tests are well formed")
}

impl Resources {
    /// The platform's settings, and nothing else.
    pub fn new(authority: &Authority) -> Self {
        let mesh = MeshSpec {
            trust_domain: TRUST_DOMAIN.to_string().try_into().expect("a trust domain"),
            trust_domain_aliases: Vec::new(),
            roots: vec![authority.root()],
            posture: Posture::AllowAll,
            paths: PathHandling::default(),
        };
        Self { list: BTreeMap::new(), version_key: VersionKey::derive(b"tests") }.with(Resource::core(keys::mesh(), &mesh, 0))
    }

    /// A configuration that was made elsewhere.
    pub fn of(list: Vec<Resource>) -> Self {
        let list = list.into_iter().map(|resource| (resource.key.clone(), Arc::new(resource))).collect();
        Self { list, version_key: VersionKey::derive(b"tests") }
    }

    /// What a proxy is given.
    pub fn list(&self) -> &BTreeMap<Key, Arc<Resource>> {
        &self.list
    }

    /// Adds or replaces a Resource.
    pub fn with(mut self, resource: Resource) -> Self {
        self.list.insert(resource.key.clone(), Arc::new(resource));
        self
    }

    /// The same without one.
    pub fn without(mut self, key: &Key) -> Self {
        self.list.remove(key);
        self
    }

    /// The same with other platform settings.
    pub fn mesh(self, change: impl FnOnce(&mut MeshSpec)) -> Self {
        let mut spec: MeshSpec = self.spec(&keys::mesh());
        change(&mut spec);
        self.with(Resource::core(keys::mesh(), &spec, 0))
    }

    /// The same with another listener.
    pub fn listener(self, key: &Key, spec: &ListenerSpec) -> Self {
        self.with(Resource::core(key.clone(), spec, 0))
    }

    /// The same with a listener changed.
    pub fn change_listener(self, key: &Key, change: impl FnOnce(&mut ListenerSpec)) -> Self {
        let mut spec: ListenerSpec = self.spec(key);
        change(&mut spec);
        self.listener(key, &spec)
    }

    /// A Service port in namespace `shop`, with nothing attached to it, and its endpoints, each with the identity of its sidecar, if it has one.
    pub fn backend(self, service: &str, port: u16, protocol: AppProtocol, endpoints: &[(SocketAddr, Option<SpiffeId>)]) -> Self {
        let spec = BackendSpec { addresses: Vec::new(), port, protocol, chain: Vec::new() };
        self.backend_of(service, &spec, endpoints)
    }

    /// A Service port in namespace `shop` and its endpoints.
    pub fn backend_of(self, service: &str, spec: &BackendSpec, endpoints: &[(SocketAddr, Option<SpiffeId>)]) -> Self {
        let key = keys::backend("shop", service, spec.port);
        let of = |(address, identity): &(SocketAddr, Option<SpiffeId>)| Endpoint {
            address: *address,
            workload: Some(Key::new("Pod", "shop", format!("{service}-0"))),
            identity: identity.clone(),
            draining: false,
            zone: None,
        };
        let slice = EndpointsSpec { backend: key.clone(), endpoints: endpoints.iter().map(of).collect() };
        self.with(Resource::core(key, spec, 0)).with(Resource::core(keys::endpoints("shop", service, spec.port), &slice, 0))
    }

    /// An HTTPRoute in namespace `shop` with one rule, `main`, for everything below `prefix`.
    pub fn route(self, name: &str, parent: &Key, prefix: &str, backend: &Key) -> Self {
        let rule = RuleSpec {
            name: Some("main".into()),
            matches: vec![MatchSpec { path: Some(PathMatch::Prefix(prefix.into())), ..MatchSpec::default() }],
            backends: vec![WeightedBackend { backend: Some(backend.clone()), weight: 1, filters: Vec::new() }],
            ..RuleSpec::default()
        };
        self.route_of(name, parent, vec![rule])
    }

    /// An HTTPRoute in namespace `shop`.
    pub fn route_of(self, name: &str, parent: &Key, rules: Vec<RuleSpec>) -> Self {
        let object = Target::new(TargetKind::HTTPRoute, "shop", name);
        let spec = RouteSpec { object, parents: vec![parent.clone()], hostnames: Vec::new(), rules };
        self.with(Resource::core(keys::route("shop", "HTTPRoute", name), &spec, 0))
    }

    /// A TCPRoute in namespace `shop` with one rule, `main`.
    pub fn tcp_route(self, name: &str, parent: &Key, backend: &Key) -> Self {
        let rule = RuleSpec {
            name: Some("main".into()),
            backends: vec![WeightedBackend { backend: Some(backend.clone()), weight: 1, filters: Vec::new() }],
            ..RuleSpec::default()
        };
        let object = Target::new(TargetKind::TCPRoute, "shop", name);
        let spec = RouteSpec { object, parents: vec![parent.clone()], hostnames: Vec::new(), rules: vec![rule] };
        self.with(Resource::core(keys::route("shop", "TCPRoute", name), &spec, 0))
    }

    /// A policy of any kind in namespace `shop`, with a spec as somebody writes it (its targets may be left out) and what it holds for.
    pub fn policy(self, kind: &str, name: &str, spec: &Value, attachments: &[Target]) -> Self {
        self.policy_of(kind, name, spec, attachments, 0, &[])
    }

    /// The same, with the time it was made and its resolved references.
    pub fn policy_of(self, kind: &str, name: &str, spec: &Value, on: &[Target], created: i64, refs: &[(&str, &str)]) -> Self {
        let mut spec = spec.clone();
        if let Value::Object(fields) = &mut spec {
            // The envelope wants a target; what holds is in the attachments.
            fields.entry("targetRefs").or_insert_with(|| serde_json::json!([{ "kind": "Service", "name": "orders" }]));
        }
        let refs = refs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let class = if kind == "TrafficPolicy" { Class::Traffic } else { Class::Guard };
        let origin = Origin { attachments: on.to_vec(), refs, created };
        self.with(Resource::new(Key::new(kind, "shop", name), class, &spec, origin))
    }

    /// The leaf of an identity this proxy speaks for.
    pub fn leaf(self, authority: &Authority, id: &SpiffeId) -> Self {
        self.certificate(&keys::identity(id), &authority.workload(id))
    }

    /// A certificate.
    pub fn certificate(self, key: &Key, spec: &CertificateSpec) -> Self {
        let resource = Resource::secret(key.clone(), spec, &self.version_key);
        self.with(resource)
    }

    fn spec<T: serde::de::DeserializeOwned>(&self, key: &Key) -> T {
        let resource = self.list.get(key).unwrap_or_else(|| panic!("{key} is not there"));
        serde_json::from_value(resource.spec.clone()).unwrap_or_else(|error| panic!("{key}: {error}"))
    }
}

/// The mesh chain of a Service's port in namespace `shop`: the section is `http`.
pub fn service_chain(service: &str) -> Vec<Target> {
    let service = Target::new(TargetKind::Service, "shop", service);
    vec![
        Target::new(TargetKind::Mesh, "", "default"),
        Target::new(TargetKind::Namespace, "", "shop"),
        service.clone(),
        service.section("http"),
    ]
}

/// A Gateway's listener: `shop/public#http`, bound to `bind`, known as `port`.
pub fn edge_listener(bind: SocketAddr, port: u16) -> ListenerSpec {
    let gateway = Target::new(TargetKind::Gateway, "shop", "public");
    ListenerSpec {
        bind: Bind::Bound(bind),
        destination: None,
        hostname: None,
        port,
        protocol: Protocol::Http,
        certificates: Vec::new(),
        mesh: None,
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain: vec![gateway.clone(), gateway.section("http")],
        posture: false,
        identity: Some(identity("shop", "public-selvage")),
        application: None,
        assertors: Vec::new(),
    }
}

/// What the sidecar of `orders` accepts for it.
pub fn inbound_listener(bind: SocketAddr, application: SocketAddr) -> ListenerSpec {
    let mut chain = service_chain("orders");
    chain.push(Target::new(TargetKind::Workload, "shop", "orders-0"));
    ListenerSpec {
        bind: Bind::Bound(bind),
        destination: None,
        hostname: None,
        port: bind.port(),
        protocol: Protocol::Detect,
        certificates: Vec::new(),
        mesh: Some(MeshMode::Permissive),
        clients: Clients::Fellows,
        forward: Forward::Local(application),
        chain,
        posture: true,
        identity: Some(identity("shop", "orders")),
        application: None,
        assertors: vec![identity("shop", "public-selvage")],
    }
}

/// A Service as the workload `web` calls it through its own sidecar.
pub fn outbound_listener(bind: SocketAddr, backend: &Key) -> ListenerSpec {
    ListenerSpec {
        bind: Bind::Bound(bind),
        destination: None,
        hostname: None,
        port: bind.port(),
        protocol: Protocol::Detect,
        certificates: Vec::new(),
        mesh: None,
        clients: Clients::Application,
        forward: Forward::Backend(backend.clone()),
        chain: Vec::new(),
        posture: false,
        identity: Some(identity("shop", "web")),
        application: None,
        assertors: Vec::new(),
    }
}
