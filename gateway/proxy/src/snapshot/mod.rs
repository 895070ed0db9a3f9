//! The immutable runtime form of a configuration. Swapped whole; a request sees exactly one.

use crate::state::balance::EndpointSet;
use crate::tls::Certificate;
use rustls::ServerConfig;
use selvage_config::resource::listener::Bind;
use selvage_config::resource::route::{FilterSpec, RouteSpec};
use selvage_config::{BackendSpec, ListenerSpec, MeshSpec, Resource};
use selvage_policy::list::{GuardSet, PostureAt};
use selvage_policy::traffic::TrafficSet;
use selvage_policy::{Denial, Exchange, Key, SpiffeId};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A compiled configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each swap in this process.
    pub generation: u64,
    /// Platform settings.
    pub mesh: Arc<MeshSpec>,
    /// Listeners by the socket they share, most specific first.
    pub sockets: BTreeMap<Bind, Vec<Arc<Listener>>>,
    /// Every listener.
    pub listeners: HashMap<Key, Arc<Listener>>,
    /// Every backend.
    pub backends: HashMap<Key, Arc<Backend>>,
    /// Backends by cluster address and port.
    pub by_address: HashMap<(IpAddr, u16), Arc<Backend>>,
    /// Leaf certificates of the identities this proxy speaks for.
    pub identities: HashMap<SpiffeId, Arc<Certificate>>,
}

/// A listener ready to serve.
#[derive(Debug)]
pub struct Listener {
    /// Its key.
    pub key: Arc<Key>,
    /// As it was sent.
    pub spec: ListenerSpec,
    /// TLS for clients; present for `Https` and `Tls`.
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS for the mesh hop; present where `spec.mesh` is and the identity's leaf has arrived.
    pub mesh: Option<Arc<ServerConfig>>,
    /// Guards of the listener's own chain: what holds for `Forward::Local`, for TCP without routes, and for requests no route matches.
    pub guards: Arc<GuardSet>,
    /// Routes attached to it (`Forward::Routes`).
    pub routes: Arc<RouteTable>,
    /// Traffic settings of its chain, for `Forward::Local`.
    pub settings: Arc<TrafficSet>,
}

/// A Service port ready to be chosen.
#[derive(Debug)]
pub struct Backend {
    /// Its key.
    pub key: Arc<Key>,
    /// As it was sent.
    pub spec: BackendSpec,
    /// Routes whose parent it is (mesh).
    pub routes: Arc<RouteTable>,
    /// The rule that balances over its endpoints where it has no routes.
    pub default_rule: Arc<Rule>,
    /// Guards of its chain, run at [`selvage_policy::verdict::Scope::Destination`] for endpoints without a sidecar.
    pub guards: Arc<GuardSet>,
    /// Traffic settings of its chain.
    pub settings: Arc<TrafficSet>,
    /// Its endpoints: live, outside the Snapshot.
    pub endpoints: Arc<EndpointSet>,
}

/// A rule ready to be applied.
#[derive(Debug)]
pub struct Rule {
    /// The route it is of, for logs and explain; the backend's key for a default rule.
    pub route: Arc<Key>,
    /// Its name, or its number.
    pub name: Arc<str>,
    /// Guards of the whole chain: Gateway, listener, route, rule. Empty for mesh routes.
    pub guards: Arc<GuardSet>,
    /// Traffic settings of the whole chain, the route's own fields first.
    pub settings: Arc<TrafficSet>,
    /// Changes, in order.
    pub filters: Vec<FilterSpec>,
    /// Where it goes.
    pub backends: Vec<RuleBackend>,
}

/// One weighted backend of a rule.
#[derive(Debug)]
pub struct RuleBackend {
    /// Absent: requests get `invalid_backend`.
    pub backend: Option<Arc<Backend>>,
    /// Share.
    pub weight: u32,
    /// Changes for requests that go here.
    pub filters: Vec<FilterSpec>,
}

/// Host table, then path tables.
#[derive(Debug, Default)]
pub struct RouteTable {}

/// A matched rule.
#[derive(Clone, Debug)]
pub struct Matched {
    /// The rule.
    pub rule: Arc<Rule>,
    /// Length of the matched path prefix in bytes, for prefix rewrites.
    pub prefix: Option<usize>,
}

/// A Resource that could not be used.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Which.
    pub key: Key,
    /// Which version of it.
    pub version: String,
    /// Why: names the field and the remedy.
    pub reason: String,
}

/// State that outlives Snapshots, handed to each compile: endpoint sets, buckets, budgets.
#[derive(Debug, Default)]
pub struct Live {}

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

    /// The listener for a new connection: by socket, original destination and, once known, TLS name.
    pub fn accept(&self, bind: Bind, destination: SocketAddr, server_name: Option<&str>) -> Option<&Arc<Listener>> {
        let _ = (bind, destination, server_name);
        unimplemented!("contract")
    }

    /// The listener for a request on that connection: the most specific by host (Gateway API listener isolation).
    pub fn listener(&self, bind: Bind, destination: SocketAddr, host: &str) -> Option<&Arc<Listener>> {
        let _ = (bind, destination, host);
        unimplemented!("contract")
    }

    /// The target's own posture at a listener, if it is applied there.
    pub fn posture(&self, spec: &ListenerSpec) -> Option<PostureAt> {
        let _ = spec;
        unimplemented!("contract")
    }
}

impl RouteTable {
    /// Builds the table of the routes attached to one parent. `hostname` is the listener's; mesh parents ignore host names.
    pub fn build(routes: &[(Arc<RouteSpec>, i64, Vec<Arc<Rule>>)], hostname: Option<&str>, mesh: bool) -> Self {
        let _ = (routes, hostname, mesh);
        unimplemented!("contract")
    }

    /// The rule of highest precedence that matches (Gateway API: host, then path, method, headers, query, then oldest, then name, then order).
    pub fn find(&self, exchange: &Exchange<'_>) -> Option<Matched> {
        let _ = exchange;
        unimplemented!("contract")
    }

    /// The rule for a connection without HTTP: the oldest TCPRoute's.
    pub fn tcp(&self) -> Option<Arc<Rule>> {
        unimplemented!("contract")
    }

    /// Whether no route is attached.
    pub fn is_empty(&self) -> bool {
        unimplemented!("contract")
    }
}

impl Rule {
    /// Picks a backend by weight; `random` is uniform over all of u64.
    pub fn backend(&self, random: u64) -> Result<&RuleBackend, Denial> {
        let _ = random;
        unimplemented!("contract")
    }
}
