//! Resources to Snapshot: pure but for the live endpoints, which it replaces where their slices changed.
//!
//! ```text
//! parts (one Resource each, by version) ─> attachments ─> backends ─> rules, tables by parent ─> listeners, destinations
//! ```
//!
//! Each stage takes over what the change cannot have touched: a policy touches the points whose chain has one of its targets, a backend
//! the rules that lead to it, a route its parents' tables. What cannot be used is rejected Resource by Resource.

mod backends;
mod form;
mod listeners;
mod parents;
mod parts;
mod rules;

use super::{Backend, Destination, Listener, Live, Rejection, RouteTable, Snapshot, posture};
use crate::tls::Certificate;
use form::Form;
use listeners::ListenerTls;
use parents::Attachees;
use parts::{Change, Part};
use rules::Maker;
use selvage_config::attach::Attachments;
use selvage_config::resource::keys;
use selvage_config::{ListenerSpec, MeshSpec, Resource};
use selvage_policy::list::{Attached, Body};
use selvage_policy::mesh::{MeshConfigSpec, PathHandling, Posture};
use selvage_policy::traffic::Settings;
use selvage_policy::{Key, SpiffeId, Target};
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

/// One compile under way.
struct Compile<'a> {
    previous: &'a Snapshot,
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
            places: Arc::default(),
            identities: HashMap::new(),
            parts: Parts::default(),
        }
    }

    /// What it is made of: of what cannot be used, the form it keeps; of a guard that cannot be used, that one, so that it refuses again.
    pub fn used(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.parts.list.iter().map(|part| &part.used)
    }

    /// Whether the platform's settings were told, but neither these nor any before them could be read.
    pub fn lacks_settings(&self) -> bool {
        parts::find(&self.parts.list, &keys::mesh()).is_some_and(|part| part.form.is_none())
    }

    /// Compiles Resources. What cannot be used is rejected one by one: a guard refuses on its attachments, a listener, route, backend or
    /// certificate keeps the form it had in `previous`, a traffic policy is dropped. The rejections are all that stand, not only new ones.
    pub fn compile(previous: &Self, resources: &BTreeMap<Key, Arc<Resource>>, live: &Live) -> (Self, Vec<Rejection>) {
        Compile::begin(previous, resources).finish(live)
    }

    /// What of `resources` could not be used, without touching anything: for those who take a change as a whole or not at all. What is
    /// as it was in `previous` is not parsed again.
    pub fn check(previous: &Self, resources: &BTreeMap<Key, Arc<Resource>>) -> Vec<Rejection> {
        let compile = Compile::begin(previous, resources);
        let certificates = compile.certificates();
        compile.rejections(&compile.tls(&certificates, &compile.identities(&certificates)))
    }
}

impl<'a> Compile<'a> {
    fn begin(previous: &'a Snapshot, resources: &BTreeMap<Key, Arc<Resource>>) -> Self {
        let before = &previous.parts;
        let mesh = parts::mesh(&before.list, &previous.mesh, resources);
        let context = |mesh: &MeshSpec| (mesh.trust_domain.clone(), mesh.trust_domain_aliases.clone(), mesh.paths);
        let (list, changes) = parts::parse(&before.list, resources, &mesh, context(&mesh) == context(&previous.mesh));
        let everything = !Arc::ptr_eq(&mesh, &previous.mesh);
        let mut begun = Self { previous, mesh, list, changes, everything, targets: HashSet::new() };
        begun.targets = begun.changed_targets();
        begun
    }

    fn finish(self, live: &Live) -> (Snapshot, Vec<Rejection>) {
        let attachments = self.attachments(live);
        let (backends, new_backends) = self.backends(&attachments, live);
        self.endpoints(&backends, live);
        let maker = Maker::new(&attachments, &backends);
        let certificates = self.certificates();
        let identities = self.identities(&certificates);
        let tls = self.tls(&certificates, &identities);
        let points = self.points(&attachments, &maker);
        let parents = self.parents(&points, &maker, &new_backends);
        let empty_table = Arc::new(RouteTable::default());
        let table = |key: &Key| parents.get(key).map_or_else(|| empty_table.clone(), |parent| parent.table.clone());

        let mut listeners = HashMap::new();
        for (key, point) in &points {
            let Some(made) = tls.get(key) else { continue };
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

        let rejections = self.rejections(&tls);
        let snapshot = Snapshot {
            generation: self.previous.generation + 1,
            sockets: listeners::sockets(&listeners),
            listeners,
            by_address: backends::by_address(&destinations),
            places: live.places(),
            destinations,
            identities,
            mesh: self.mesh,
            parts: Parts { list: self.list, attachments, backends, parents, tls },
        };
        live.prune();
        (snapshot, rejections)
    }

    /// Every Resource that stands rejected, by key.
    fn rejections(&self, tls: &HashMap<Key, ListenerTls>) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for Part { resource, problem, .. } in &self.list {
            let of_tls = tls.get(&resource.key).and_then(|made| made.problem.as_ref());
            for reason in problem.iter().chain(of_tls) {
                rejections.push(Rejection { key: resource.key.clone(), version: resource.version.clone(), reason: reason.clone() });
            }
        }
        rejections
    }

    fn certificates(&self) -> HashMap<&Key, &Arc<Certificate>> {
        self.list
            .iter()
            .filter_map(|part| if let Some(Form::Certificate(found)) = &part.form { Some((&part.resource.key, found)) } else { None })
            .collect()
    }

    fn identities(&self, certificates: &HashMap<&Key, &Arc<Certificate>>) -> HashMap<SpiffeId, Arc<Certificate>> {
        certificates.iter().filter_map(|(key, found)| Some((keys::identity_of(key, &self.mesh.trust_domain)?, Arc::clone(found)))).collect()
    }

    fn tls(
        &self,
        certificates: &HashMap<&Key, &Arc<Certificate>>,
        identities: &HashMap<SpiffeId, Arc<Certificate>>,
    ) -> HashMap<Key, ListenerTls> {
        let of = |part: &Part| {
            let Some(Form::Listener(spec)) = &part.form else { return None };
            let before = self.previous.parts.tls.get(&part.resource.key);
            Some((part.resource.key.clone(), ListenerTls::make(spec, certificates, identities, &self.mesh, before)))
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

    fn attachments(&self, live: &Live) -> Arc<Attachments> {
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
                    Body::RateLimit(filter) => Some(live.buckets(&part.resource.key, filter.fingerprint())),
                    Body::Authorization(_) | Body::Traffic(_) | Body::Refuse { .. } => None,
                };
                for target in &part.resource.attachments {
                    attachments.attach(target.clone(), Attached { policy: policy.clone(), buckets: buckets.clone() });
                }
            }
        }
        Arc::new(attachments)
    }

    /// Keys of changed Resources that are or were of that form.
    fn changed_keys(&self, wanted: impl Fn(&Form) -> bool) -> HashSet<Key> {
        let is = |part: &&Part| part.form.as_ref().is_some_and(&wanted);
        let parts = self.changes.iter().flat_map(|change| [change.old, change.new.map(|at| &self.list[at])]);
        parts.flatten().filter(is).map(|part| part.resource.key.clone()).collect()
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
}

/// A listener with what holds for its own chain.
struct Point<'a> {
    spec: &'a ListenerSpec,
    guards: Arc<selvage_policy::list::GuardSet>,
    settings: Arc<selvage_policy::traffic::TrafficSet>,
    reused: bool,
}

fn same_config(a: &Option<Arc<rustls::ServerConfig>>, b: &Option<Arc<rustls::ServerConfig>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
