//! Which proxy is told what: no more than its paths need.
//!
//! An edge is told of its listeners and of what their routes lead to, and of every other Service of an endpoint that has no sidecar: its
//! guards hold there too. So is a sidecar on a laptop. In a cluster a sidecar may call every Service: what all of them are told is one set
//! that they share.

use super::reach::reach;
use super::{Facts, Translation};
use selvage_config::resource::CoreKind;
use selvage_config::{Resource, keys};
use selvage_policy::{Key, Target};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The keys of the Resources that one proxy is told. No key is in both parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    own: BTreeSet<Key>,
    shared: Arc<BTreeSet<Key>>,
}

impl View {
    /// Its own keys, and those it shares with others.
    pub fn new(mut own: BTreeSet<Key>, shared: Arc<BTreeSet<Key>>) -> Self {
        own.retain(|key| !shared.contains(key));
        Self { own, shared }
    }

    /// Whether the proxy is told this one.
    pub fn contains(&self, key: &Key) -> bool {
        self.own.contains(key) || self.shared.contains(key)
    }

    /// Every key; in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.own.iter().chain(self.shared.iter())
    }

    /// Keys that this proxy has for itself.
    pub fn own(&self) -> &BTreeSet<Key> {
        &self.own
    }

    /// Keys that many proxies have.
    pub fn shared(&self) -> &Arc<BTreeSet<Key>> {
        &self.shared
    }
}

pub(super) fn translate(facts: &Facts<'_>, translation: &mut Translation) {
    let map = Map::of(translation);
    let mut views = BTreeMap::new();
    let nothing = Arc::default();
    for gateway in facts.gateways.keys().map(|name| name.key("Gateway")) {
        let view = View::new(map.keys_of(&gateway), Arc::clone(&nothing));
        views.insert(gateway, view);
    }
    let sidecars = facts.workloads.keys().map(|name| name.key("Pod"));
    if facts.world.in_cluster() {
        let shared = Arc::new(map.keys_of_services());
        let mut consumers: HashMap<String, BTreeSet<Key>> = HashMap::new();
        for pod in sidecars {
            let consumer = consumers.entry(pod.namespace.clone()).or_insert_with_key(|namespace| map.keys_of_consumers(namespace));
            let own = map.keys_of(&pod).union(consumer).cloned().collect();
            views.insert(pod, View::new(own, shared.clone()));
        }
    } else {
        views.extend(sidecars.map(|pod| (pod.clone(), View::new(map.keys_of(&pod), nothing.clone()))));
    }
    translation.views = views;
    let targets = translation.resources.values().flat_map(|resource| resource.attachments.iter().cloned()).collect();
    translation.reach = reach(facts, &map, &targets);
}

/// The few fields of Resources that say what leads to what. (Reading them whole takes far longer.)
#[derive(Deserialize)]
pub(super) struct Listener {
    #[serde(default)]
    certificates: Vec<Key>,
    #[serde(default)]
    pub(super) chain: Vec<Target>,
    forward: Value,
}

#[derive(Deserialize)]
pub(super) struct Route {
    pub(super) object: Target,
    pub(super) parents: Vec<Key>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    backends: Vec<RuleBackend>,
}

#[derive(Deserialize)]
struct RuleBackend {
    #[serde(default)]
    backend: Option<Key>,
}

#[derive(Deserialize)]
struct Backend {
    chain: Vec<Target>,
}

#[derive(Deserialize)]
struct Endpoints {
    backend: Key,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
pub(super) struct Endpoint {
    pub(super) address: String,
    #[serde(default)]
    pub(super) workload: Option<Key>,
    #[serde(default)]
    identity: Option<IgnoredAny>,
}

impl Endpoint {
    /// Whether a backend that has it may decide about it: nobody's guards hold for the workloads of another namespace.
    fn is_at_home(&self, backend: &Key) -> bool {
        self.workload.as_ref().is_none_or(|workload| workload.namespace == backend.namespace)
    }
}

/// What leads to what.
#[derive(Default)]
pub(super) struct Map {
    /// By proxy.
    pub(super) listeners: HashMap<Key, Vec<(Key, Listener)>>,
    pub(super) routes: HashMap<Key, Route>,
    /// Routes by parent.
    attached: HashMap<Key, Vec<Key>>,
    /// Chains of Backends.
    pub(super) backends: BTreeMap<Key, Vec<Target>>,
    /// By Backend.
    pub(super) endpoints: HashMap<Key, Vec<(Key, Vec<Endpoint>)>>,
    /// Backends whose guards hold at an address without a sidecar.
    guarding: HashMap<String, BTreeSet<Key>>,
    /// Policies by the objects they are attached to, sections left out.
    policies: HashMap<Target, Vec<Key>>,
}

impl Map {
    fn of(translation: &Translation) -> Self {
        let mut map = Self::default();
        for (key, resource) in &translation.resources {
            match CoreKind::of(&key.kind) {
                Some(CoreKind::Listener) => {
                    if let Some(listener) = read::<Listener>(resource) {
                        map.listeners.entry(proxy_of(key, &listener)).or_default().push((key.clone(), listener));
                    }
                }
                Some(CoreKind::Route) => {
                    if let Some(route) = read::<Route>(resource) {
                        for parent in &route.parents {
                            map.attached.entry(parent.clone()).or_default().push(key.clone());
                        }
                        map.routes.insert(key.clone(), route);
                    }
                }
                Some(CoreKind::Backend) => {
                    map.backends.insert(key.clone(), read::<Backend>(resource).map(|backend| backend.chain).unwrap_or_default());
                }
                Some(CoreKind::Endpoints) => {
                    if let Some(Endpoints { backend, endpoints }) = read::<Endpoints>(resource) {
                        for open in endpoints.iter().filter(|one| one.identity.is_none() && one.is_at_home(&backend)) {
                            map.guarding.entry(open.address.clone()).or_default().insert(backend.clone());
                        }
                        map.endpoints.entry(backend).or_default().push((key.clone(), endpoints));
                    }
                }
                Some(CoreKind::Mesh | CoreKind::Certificate) => {}
                None => {
                    for target in &resource.attachments {
                        map.policies.entry(object(target)).or_default().push(key.clone());
                    }
                }
            }
        }
        map
    }

    /// What one proxy's own listeners need.
    fn keys_of(&self, proxy: &Key) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([keys::mesh()]);
        let mut targets: BTreeSet<Target> = BTreeSet::new();
        let mut parents: BTreeSet<Key> = BTreeSet::new();
        let mut reached: BTreeSet<Key> = BTreeSet::new();
        for (key, listener) in self.listeners.get(proxy).into_iter().flatten() {
            keys.insert(key.clone());
            keys.extend(listener.certificates.iter().cloned());
            targets.extend(listener.chain.iter().map(object));
            match listener.forward.get("backend").and_then(Value::as_str).and_then(|text| text.parse::<Key>().ok()) {
                Some(backend) => {
                    reached.insert(backend.clone());
                    parents.insert(backend);
                }
                None => {
                    parents.insert(key.clone());
                }
            }
        }
        for parent in &parents {
            for key in self.attached.get(parent).into_iter().flatten() {
                // A route of a Service in another namespace (a consumer's) holds for callers of its own namespace only.
                if parent.kind != CoreKind::Backend.as_str() || parent.namespace == key.namespace || proxy.namespace == key.namespace {
                    self.route(key, &mut keys, &mut targets, &mut reached);
                }
            }
        }
        let endpoints = reached.iter().filter_map(|key| self.endpoints.get(key)).flatten().flat_map(|(_, endpoints)| endpoints);
        let open = endpoints.filter(|one| one.identity.is_none());
        let others: Vec<Key> = open.filter_map(|one| self.guarding.get(&one.address)).flatten().cloned().collect();
        reached.extend(others);
        self.backends(&reached, &mut keys, &mut targets);
        self.policies(&targets, &mut keys);
        keys
    }

    /// What every sidecar of a cluster is told: all Services, and the routes that hold for whoever calls them.
    fn keys_of_services(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::from([keys::mesh()]);
        let (mut targets, mut reached) = (BTreeSet::new(), BTreeSet::new());
        for (parent, key) in self.mesh_routes().filter(|(parent, key)| parent.namespace == key.namespace) {
            reached.insert(parent.clone());
            self.route(key, &mut keys, &mut targets, &mut reached);
        }
        reached.extend(self.backends.keys().cloned());
        self.backends(&reached, &mut keys, &mut targets);
        self.policies(&targets, &mut keys);
        keys
    }

    /// What every sidecar of a namespace is told beside: routes of that namespace for Services of others.
    fn keys_of_consumers(&self, namespace: &str) -> BTreeSet<Key> {
        let (mut keys, mut targets, mut reached) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (_, key) in self.mesh_routes().filter(|(parent, key)| key.namespace == namespace && parent.namespace != namespace) {
            self.route(key, &mut keys, &mut targets, &mut reached);
        }
        self.policies(&targets, &mut keys);
        keys
    }

    /// Backends with the routes attached to them.
    fn mesh_routes(&self) -> impl Iterator<Item = (&Key, &Key)> {
        let parents = self.attached.iter().filter(|(parent, _)| parent.kind == CoreKind::Backend.as_str());
        parents.flat_map(|(parent, routes)| routes.iter().map(move |route| (parent, route)))
    }

    fn route(&self, key: &Key, keys: &mut BTreeSet<Key>, targets: &mut BTreeSet<Target>, reached: &mut BTreeSet<Key>) {
        let Some(route) = self.routes.get(key) else { return };
        keys.insert(key.clone());
        targets.insert(object(&route.object));
        reached.extend(route.rules.iter().flat_map(|rule| &rule.backends).filter_map(|one| one.backend.clone()));
    }

    fn backends(&self, reached: &BTreeSet<Key>, keys: &mut BTreeSet<Key>, targets: &mut BTreeSet<Target>) {
        for key in reached {
            if let Some(chain) = self.backends.get(key) {
                keys.insert(key.clone());
                targets.extend(chain.iter().map(object));
            }
            keys.extend(self.endpoints.get(key).into_iter().flatten().map(|(key, _)| key.clone()));
        }
    }

    /// Policies attached to any of these, or to a section of it.
    fn policies(&self, targets: &BTreeSet<Target>, keys: &mut BTreeSet<Key>) {
        keys.extend(targets.iter().filter_map(|target| self.policies.get(target)).flatten().cloned());
    }
}

fn read<'a, T: Deserialize<'a>>(resource: &'a Resource) -> Option<T> {
    T::deserialize(&resource.spec).ok()
}

/// Whose listener it is: the Gateway in its chain, else the workload in its name.
fn proxy_of(key: &Key, listener: &Listener) -> Key {
    let gateway = listener.chain.iter().find(|target| target.kind == selvage_policy::TargetKind::Gateway);
    match gateway {
        Some(gateway) => Key::new("Gateway", gateway.namespace.clone(), gateway.name.clone()),
        None => Key::new("Pod", key.namespace.clone(), key.name.split('#').next().unwrap_or_default()),
    }
}

/// The object of a target, without its section.
pub(super) fn object(target: &Target) -> Target {
    Target { section: None, ..target.clone() }
}
