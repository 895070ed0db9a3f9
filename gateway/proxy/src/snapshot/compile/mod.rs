//! Resources to Snapshot: pure but for the live endpoints, which it replaces where their slices changed.
//!
//! ```text
//! parts (one Resource each, by version) ─> attachments ─> backends ─> rules, tables by parent ─> listeners, destinations
//! ```
//!
//! Each stage takes over what the change cannot have touched: a policy touches the points whose chain has one of its targets, a backend
//! the rules that lead to it, a route its parents' tables. What cannot be used is rejected Resource by Resource.

mod form;
mod listeners;
mod parts;
mod rules;

use super::{Backend, Destination, Listener, Live, Placed, Rejection, RouteTable, Snapshot, posture};
use crate::tls::Certificate;
use form::{Form, RouteForm};
use listeners::ListenerTls;
use parts::{Change, Part};
use rules::{Maker, Parent};
use selvage_config::attach::Attachments;
use selvage_config::resource::keys;
use selvage_config::{BackendSpec, Endpoint, ListenerSpec, MeshSpec, Resource};
use selvage_policy::list::{Attached, Body};
use selvage_policy::mesh::{MeshConfigSpec, PathHandling, Posture};
use selvage_policy::traffic::Settings;
use selvage_policy::{Key, Target};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What the next compile may reuse.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Sorted by key.
    list: Vec<Part>,
    attachments: Arc<Attachments>,
    backends: HashMap<Key, Arc<Backend>>,
    parents: HashMap<Key, Arc<Attachees>>,
    tls: HashMap<Key, ListenerTls>,
}

/// The routes of one parent.
#[derive(Debug)]
struct Attachees {
    /// Sorted by the key of the route's Resource.
    routes: Vec<(Arc<Key>, Placed)>,
    table: Arc<RouteTable>,
}

/// One compile under way.
struct Compile<'a> {
    previous: &'a Snapshot,
    live: &'a Live,
    mesh: Arc<MeshSpec>,
    list: Vec<Part>,
    changes: Vec<Change<'a>>,
    /// The platform's settings changed: nothing is taken over but parsed specs.
    everything: bool,
    /// Targets whose policies changed.
    targets: HashSet<Target>,
}

fn default_mesh() -> MeshSpec {
    let config = MeshConfigSpec::default();
    MeshSpec {
        trust_domain: config.trust_domain,
        trust_domain_aliases: Vec::new(),
        roots: Vec::new(),
        posture: Posture::default(),
        paths: PathHandling::default(),
    }
}

impl Snapshot {
    /// The configuration of a proxy that knows nothing: no listeners.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            mesh: Arc::new(default_mesh()),
            sockets: BTreeMap::new(),
            listeners: HashMap::new(),
            destinations: HashMap::new(),
            by_address: HashMap::new(),
            identities: HashMap::new(),
            parts: Parts::default(),
        }
    }

    /// Compiles Resources. What cannot be used is rejected one by one: a guard refuses on its attachments, a listener, route, backend or
    /// certificate keeps the form it had in `previous`, a traffic policy is dropped. The rejections are all that stand, not only new ones.
    pub fn compile(previous: &Self, resources: &BTreeMap<Key, Arc<Resource>>, live: &Live) -> (Self, Vec<Rejection>) {
        let before = &previous.parts;
        let mesh = parts::mesh(&before.list, &previous.mesh, resources);
        let context = |mesh: &MeshSpec| (mesh.trust_domain.clone(), mesh.trust_domain_aliases.clone(), mesh.paths);
        let (list, changes) = parts::parse(&before.list, resources, &mesh, context(&mesh) == context(&previous.mesh));
        let everything = !Arc::ptr_eq(&mesh, &previous.mesh);
        let mut compile = Compile { previous, live, mesh, list, changes, everything, targets: HashSet::new() };
        compile.targets = compile.changed_targets();
        compile.finish()
    }
}

impl Compile<'_> {
    fn finish(self) -> (Snapshot, Vec<Rejection>) {
        let attachments = self.attachments();
        let (backends, new_backends) = self.backends(&attachments);
        self.endpoints(&backends);
        let maker = Maker::new(&attachments, &backends);
        let certificates: HashMap<&Key, &Arc<Certificate>> = self
            .list
            .iter()
            .filter_map(|part| if let Some(Form::Certificate(found)) = &part.form { Some((&part.resource.key, found)) } else { None })
            .collect();
        let identities: HashMap<_, _> = certificates
            .iter()
            .filter_map(|(key, found)| Some((keys::identity_of(key, &self.mesh.trust_domain)?, Arc::clone(found))))
            .collect();
        let points = self.points(&attachments, &maker);
        let parents = self.parents(&points, &maker, &new_backends);
        let empty_table = Arc::new(RouteTable::default());
        let table = |key: &Key| parents.get(key).map_or_else(|| empty_table.clone(), |parent| parent.table.clone());

        let mut tls = HashMap::new();
        let mut listeners = HashMap::new();
        for (key, point) in &points {
            let made = ListenerTls::make(point.spec, &certificates, &identities, &self.mesh, self.previous.parts.tls.get(key));
            let routes = table(key);
            let same = |before: &&Arc<Listener>| {
                point.reused
                    && (Arc::ptr_eq(&before.routes, &routes) || (before.routes.is_empty() && routes.is_empty()))
                    && same_config(&before.tls, &made.clients)
                    && same_config(&before.mesh, &made.mesh)
            };
            let listener = self.previous.listeners.get(key).filter(same).cloned().unwrap_or_else(|| {
                Arc::new(Listener {
                    key: Arc::new(key.clone()),
                    spec: point.spec.clone(),
                    tls: made.clients.clone(),
                    mesh: made.mesh.clone(),
                    guards: point.guards.clone(),
                    routes,
                    settings: point.settings.clone(),
                })
            });
            listeners.insert(key.clone(), listener);
            tls.insert(key.clone(), made);
        }

        let mut destinations = HashMap::with_capacity(backends.len());
        for (key, backend) in &backends {
            let routes = table(key);
            let same = |before: &&Arc<Destination>| {
                !new_backends.contains(key) && (Arc::ptr_eq(&before.routes, &routes) || (before.routes.is_empty() && routes.is_empty()))
            };
            let destination =
                self.previous.destinations.get(key).filter(same).cloned().unwrap_or_else(|| {
                    Arc::new(Destination { backend: backend.clone(), routes, default_rule: maker.default_rule(backend) })
                });
            destinations.insert(key.clone(), destination);
        }

        let mut rejections = self.rejections();
        rejections.extend(points.keys().filter_map(|key| {
            let part = parts::find(&self.list, key)?;
            let reason = tls.get(key)?.problem.clone()?;
            Some(Rejection { key: key.clone(), version: part.resource.version.clone(), reason })
        }));
        rejections.sort_by(|a, b| (&a.key, &a.reason).cmp(&(&b.key, &b.reason)));
        let snapshot = Snapshot {
            generation: self.previous.generation + 1,
            sockets: listeners::sockets(&listeners),
            listeners,
            by_address: by_address(&destinations),
            destinations,
            identities,
            mesh: self.mesh,
            parts: Parts { list: self.list, attachments, backends, parents, tls },
        };
        self.live.prune();
        (snapshot, rejections)
    }

    fn rejections(&self) -> Vec<Rejection> {
        let of = |part: &Part| {
            let reason = part.problem.clone()?;
            Some(Rejection { key: part.resource.key.clone(), version: part.resource.version.clone(), reason })
        };
        self.list.iter().filter_map(of).collect()
    }

    /// Targets that a changed policy is or was attached to.
    fn changed_targets(&self) -> HashSet<Target> {
        let mut targets = HashSet::new();
        for change in &self.changes {
            let new = change.new.map(|at| &self.list[at]);
            for part in change.old.into_iter().chain(new).filter(|part| matches!(part.form, Some(Form::Policy(_)))) {
                targets.extend(part.resource.attachments.iter().cloned());
            }
        }
        targets
    }

    fn hits(&self, chain: &[Target]) -> bool {
        self.everything || (!self.targets.is_empty() && chain.iter().any(|target| self.targets.contains(target)))
    }

    fn attachments(&self) -> Arc<Attachments> {
        let is_policy = |part: &Part| matches!(part.form, Some(Form::Policy(_)));
        let changed =
            self.changes.iter().any(|change| change.old.is_some_and(is_policy) || change.new.is_some_and(|at| is_policy(&self.list[at])));
        if !changed {
            return self.previous.parts.attachments.clone();
        }
        let mut attachments = Attachments::default();
        for part in &self.list {
            if let Some(Form::Policy(policy)) = &part.form {
                let buckets = match &policy.body {
                    Body::RateLimit(filter) => Some(self.live.buckets(&part.resource.key, filter.fingerprint())),
                    Body::Authorization(_) | Body::Traffic(_) | Body::Refuse(..) => None,
                };
                for target in &part.resource.attachments {
                    attachments.attach(target.clone(), Attached { policy: policy.clone(), buckets: buckets.clone() });
                }
            }
        }
        Arc::new(attachments)
    }

    /// Every backend, and the keys of those that are new, different or gone.
    fn backends(&self, attachments: &Attachments) -> (HashMap<Key, Arc<Backend>>, HashSet<Key>) {
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
            backends.insert(key.clone(), Arc::new(self.backend(key, spec, attachments)));
        }
        (backends, new)
    }

    fn backend(&self, key: &Key, spec: &BackendSpec, attachments: &Attachments) -> Backend {
        Backend {
            key: Arc::new(key.clone()),
            spec: spec.clone(),
            // The posture is the target's own affair; an endpoint without a sidecar has nobody to apply it.
            guards: Arc::new(attachments.guards(&spec.chain, None)),
            endpoints: self.live.endpoints(key),
            retries: self.live.retries(key),
        }
    }

    /// Keys of changed Resources that are or were of that form.
    fn changed_keys(&self, wanted: impl Fn(&Form) -> bool) -> HashSet<Key> {
        let is = |part: &&Part| part.form.as_ref().is_some_and(&wanted);
        let parts = self.changes.iter().flat_map(|change| [change.old, change.new.map(|at| &self.list[at])]);
        parts.flatten().filter(is).map(|part| part.resource.key.clone()).collect()
    }

    /// Fills the live endpoints of backends whose slices changed, and of new backends.
    fn endpoints(&self, backends: &HashMap<Key, Arc<Backend>>) {
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
            }
        }
    }

    /// Guards and settings of every listener's own chain.
    fn points(&self, attachments: &Attachments, maker: &Maker<'_>) -> BTreeMap<Key, Point<'_>> {
        let changed = self.changed_keys(|form| matches!(form, Form::Listener(_)));
        let mut points = BTreeMap::new();
        for part in &self.list {
            let Some(Form::Listener(spec)) = &part.form else { continue };
            let key = &part.resource.key;
            let before = self.previous.listeners.get(key).filter(|_| !changed.contains(key) && !self.hits(&spec.chain));
            let point = match before {
                Some(before) => Point { spec, guards: before.guards.clone(), settings: before.settings.clone(), reused: true },
                None => Point {
                    spec,
                    guards: Arc::new(attachments.guards(&spec.chain, posture(&self.mesh, spec))),
                    settings: maker.settings(spec.chain.iter(), Settings::default()),
                    reused: false,
                },
            };
            points.insert(key.clone(), point);
        }
        points
    }

    /// The routes of every parent that is here.
    fn parents(&self, points: &BTreeMap<Key, Point<'_>>, maker: &Maker<'_>, new_backends: &HashSet<Key>) -> HashMap<Key, Arc<Attachees>> {
        let parent = |key: &Key| match points.get(key) {
            Some(Point { spec, guards, .. }) => Some(Parent::Listener { spec, guards, posture: posture(&self.mesh, spec) }),
            None => maker.backends.get(key).map(|backend| Parent::Service(&backend.spec)),
        };
        let fresh = |key: &Key| points.get(key).map_or_else(|| new_backends.contains(key), |point| !point.reused);
        let mut parents = self.previous.parts.parents.clone();
        parents.retain(|key, _| (points.contains_key(key) || maker.backends.contains_key(key)) && !fresh(key));

        // Routes to be made anew, for each parent they have or had; whole parents where the parent itself is new or different.
        let mut touched: HashMap<&Key, Vec<Touched<'_>>> = HashMap::new();
        for change in &self.changes {
            if let Some(Part { form: Some(Form::Route(old)), .. }) = change.old {
                old.spec.parents.iter().for_each(|parent| touched.entry(parent).or_default().push(Touched::Gone(&old.key)));
            }
        }
        let changed = self.changed_keys(|form| matches!(form, Form::Route(_)));
        let any_fresh = points.values().any(|point| !point.reused) || !new_backends.is_empty();
        if any_fresh || !changed.is_empty() || !self.targets.is_empty() {
            for part in &self.list {
                let Some(Form::Route(route)) = &part.form else { continue };
                let dirty = changed.contains(&part.resource.key) || self.is_stale(route, new_backends);
                for parent in route.spec.parents.iter().filter(|parent| dirty || (any_fresh && fresh(parent))) {
                    touched.entry(parent).or_default().push(Touched::Here(route));
                }
            }
        }
        for (key, touched) in touched {
            let Some(at) = parent(key) else { continue };
            let mut routes: BTreeMap<Arc<Key>, Placed> = BTreeMap::new();
            let mut kept = parents.get(key).map(|known| known.routes.clone()).unwrap_or_default();
            let gone: HashSet<&Key> = touched.iter().map(Touched::key).collect();
            kept.retain(|(route, _)| !gone.contains(&**route));
            for one in touched {
                if let Touched::Here(route) = one {
                    let placed = Placed { matches: route.matches.clone(), created: route.created, rules: maker.rules(route, &at) };
                    routes.insert(route.key.clone(), placed);
                }
            }
            kept.extend(routes);
            kept.sort_by(|(a, _), (b, _)| a.cmp(b));
            let (hostname, mesh) = match &at {
                Parent::Listener { spec, .. } => (spec.hostname.as_ref(), false),
                Parent::Service(_) => (None, true),
            };
            let table = Arc::new(RouteTable::build(kept.iter().map(|(_, placed)| placed), hostname, mesh));
            parents.insert(key.clone(), Arc::new(Attachees { routes: kept, table }));
        }
        parents
    }

    /// Whether an unchanged route's rules are different all the same.
    fn is_stale(&self, route: &RouteForm, new_backends: &HashSet<Key>) -> bool {
        let object = &route.spec.object;
        let hit = |target: &Target| target.kind == object.kind && target.namespace == object.namespace && target.name == object.name;
        let mut backends = route.spec.rules.iter().flat_map(|rule| &rule.backends).filter_map(|backend| backend.backend.as_ref());
        self.everything || self.targets.iter().any(hit) || (!new_backends.is_empty() && backends.any(|key| new_backends.contains(key)))
    }
}

/// A listener with what holds for its own chain.
struct Point<'a> {
    spec: &'a ListenerSpec,
    guards: Arc<selvage_policy::list::GuardSet>,
    settings: Arc<selvage_policy::traffic::TrafficSet>,
    reused: bool,
}

/// A route in the table of one of its parents.
enum Touched<'a> {
    Gone(&'a Arc<Key>),
    Here(&'a Arc<RouteForm>),
}

impl Touched<'_> {
    fn key(&self) -> &Key {
        match self {
            Self::Gone(key) => key,
            Self::Here(route) => &route.key,
        }
    }
}

fn same_config(a: &Option<Arc<rustls::ServerConfig>>, b: &Option<Arc<rustls::ServerConfig>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

/// Destinations by address; of two with one address the first by key.
fn by_address(destinations: &HashMap<Key, Arc<Destination>>) -> HashMap<(std::net::IpAddr, u16), Arc<Destination>> {
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

#[cfg(test)]
mod tests;
