//! From Resources to the proxies that may read them, and what became of them there.
//!
//! ```text
//! Publication ──publish──► one View a proxy ──wire──► proxies
//!                          Delivery ◄──Ack──
//! ```
//!
//! Every Resource is encoded once, whoever reads it. Which view a connection gets follows from the node that its token proves,
//! and a certificate is signed only for the identities of that node.

mod delivery;
mod needs;
mod proxies;
mod publication;
mod server;
#[cfg(test)]
mod tests;
mod tokens;

pub use delivery::{Delivery, Lag, Why};
pub use proxies::{Certificate, Listing, Proxy, Role, SyncState};
pub use publication::{Publication, Share};
pub use server::{IDENTITY_ACCOUNT, ServerCertificate, server_identity};
pub use tokens::Tokens;

use crate::ca::Authority;
use async_trait::async_trait;
use delivery::Deliveries;
use needs::{Needs, answers, holds_for, is_host_of};
use parking_lot::Mutex;
use selvage_config::Resource;
use selvage_config::wire::server::{Layer, Node, SignRefusal, Source, View};
use selvage_config::wire::{Ack, Encoded, Standing, Subject, TooLarge};
use selvage_policy::{Key, SpiffeId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, Pem, X509CertificationRequest};

/// The one publisher of a controller.
pub struct Publisher {
    authority: Arc<Authority>,
    state: Mutex<State>,
    deliveries: Deliveries,
}

#[derive(Default)]
struct State {
    /// Counts publications that changed something.
    generation: u64,
    /// Whether another replica serves.
    stands_by: bool,
    known: BTreeMap<Key, Known>,
    /// How many proxies are given what they share with others, by what it is.
    layers: Vec<Shared>,
    offered: Layer,
    /// What is of no use without what: a backend's endpoints and routes, a route's backends.
    needs: HashMap<Key, BTreeSet<Key>>,
    /// Nodes by what each is given for itself.
    owners: HashMap<Key, Vec<String>>,
    shares: BTreeMap<String, Share>,
    /// By node; a view is here from the first time that it is asked for until its share ends.
    views: HashMap<String, watch::Sender<View>>,
}

/// A Resource as it is published.
struct Known {
    encoded: Arc<Encoded>,
    needs: Needs,
}

/// What many proxies are given.
struct Shared {
    keys: Arc<BTreeSet<Key>>,
    layer: Layer,
    nodes: Vec<String>,
}

impl Publisher {
    /// A publisher with nothing to publish yet.
    pub fn new(authority: Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { authority, state: Mutex::default(), deliveries: Deliveries::default() })
    }

    /// Publishes: every proxy whose share differs from what it has is sent the difference, every one that has none any more is sent away (and
    /// keeps what it has: whoever removed it ends it). What is too large for the wire is left as it was and returned.
    pub fn publish(&self, publication: &Publication) -> Vec<TooLarge> {
        let mut state = self.state.lock();
        let too_large = state.take_in(&publication.resources);
        state.shares.clone_from(&publication.shares);
        state.index();
        let State { known, layers, offered, shares, views, generation, .. } = &mut *state;
        // Whose sender is dropped is sent away.
        views.retain(|uid, _| shares.contains_key(uid));
        let mut changed = false;
        for (uid, sender) in views.iter() {
            let Some(share) = shares.get(uid) else { continue };
            let next = view_of(share, known, layers, offered, Some(&sender.borrow()));
            sender.send_if_modified(|present| {
                let differs = !Arc::ptr_eq(&present.given, &next.given) || !Arc::ptr_eq(&present.shared, &next.shared);
                let tell = differs || !Arc::ptr_eq(&present.offered, &next.offered);
                let before = present.generation;
                *present = next;
                present.generation = if differs { *generation + 1 } else { before };
                changed |= differs;
                tell
            });
        }
        *generation += u64::from(changed);
        self.deliveries.keep(|uid| shares.contains_key(uid));
        too_large
    }

    /// While another replica serves, every proxy is sent there: only who serves all of them knows what became of what it publishes.
    pub fn stand_by(&self, stands_by: bool) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.stands_by, stands_by) != stands_by {
            tracing::info!(stands_by, "this replica's part in serving proxies has changed");
            self.deliveries.stir();
        }
        if stands_by {
            // Whose sender is dropped is sent away.
            state.views.clear();
        }
    }

    /// Whether another replica serves the proxies.
    pub fn stands_by(&self) -> bool {
        self.state.lock().stands_by
    }

    /// Who must hold `key` at its present version, and who does.
    pub fn delivery(&self, key: &Key) -> Delivery {
        self.delivery_among(key, None)
    }

    /// The same, of those proxies alone that have one of these views.
    pub fn delivery_among(&self, key: &Key, views: Option<&BTreeSet<Key>>) -> Delivery {
        let state = self.state.lock();
        let Some(known) = state.known.get(key) else { return Delivery::default() };
        let sharing = state.layers.iter().filter(|shared| shared.keys.contains(key)).flat_map(|shared| &shared.nodes);
        let among = |uid: &&String| views.is_none_or(|views| state.shares.get(*uid).is_some_and(|share| views.contains(&share.view)));
        let readers = state.owners.get(key).into_iter().flatten().chain(sharing).filter(among);
        let mut delivery = Delivery::default();
        for uid in readers {
            delivery.readers += 1;
            let why = self.deliveries.of(uid, |heard| {
                delivery.connected += usize::from(heard.is_some_and(|heard| heard.present));
                heard.map_or(Some(Why::Absent), |heard| heard.lacks(key, known.encoded.version()))
            });
            let name = || state.shares.get(uid).map_or_else(|| uid.clone(), |share| share.name.clone());
            delivery.lagging.extend(why.map(|why| Lag { proxy: name(), why }));
        }
        delivery.lagging.sort();
        delivery
    }

    /// Changes whenever a proxy acknowledged something, came or went.
    pub fn deliveries(&self) -> watch::Receiver<u64> {
        self.deliveries.watch()
    }
}

impl State {
    /// Encodes what is new; what has not changed is taken over.
    fn take_in(&mut self, resources: &BTreeMap<Key, Arc<Resource>>) -> Vec<TooLarge> {
        let mut too_large = Vec::new();
        self.known.retain(|key, _| resources.contains_key(key));
        for (key, resource) in resources {
            if self.known.get(key).is_some_and(|known| known.encoded.version() == resource.version) {
                continue;
            }
            match Encoded::new(resource) {
                Ok(encoded) => {
                    self.known.insert(key.clone(), Known { encoded, needs: Needs::of(resource) });
                }
                Err(error) => too_large.push(error),
            }
        }
        too_large
    }

    /// What follows from Resources and shares.
    fn index(&mut self) {
        let offered = self.known.iter().filter(|(key, known)| known.needs.is_offered(key));
        self.offered = kept(&self.offered, offered.map(|(key, known)| (key.clone(), known.encoded.clone())).collect());
        self.needs.clear();
        for (of, needed) in self.known.values().flat_map(|known| &known.needs.pairs) {
            self.needs.entry(of.clone()).or_default().insert(needed.clone());
        }
        self.owners.clear();
        let mut layers: Vec<Shared> = Vec::new();
        for (uid, share) in &self.shares {
            for key in share.keys.own() {
                self.owners.entry(key.clone()).or_default().push(uid.clone());
            }
            let keys = share.keys.shared();
            match layers.iter_mut().find(|shared| Arc::ptr_eq(&shared.keys, keys)) {
                Some(shared) => shared.nodes.push(uid.clone()),
                None => layers.push(Shared { keys: keys.clone(), layer: Layer::default(), nodes: vec![uid.clone()] }),
            }
        }
        for shared in &mut layers {
            let layer: BTreeMap<_, _> =
                shared.keys.iter().filter_map(|key| Some((key.clone(), self.known.get(key)?.encoded.clone()))).collect();
            let before = self.layers.iter().find(|before| same(&before.layer, &layer));
            shared.layer = before.map_or_else(|| Arc::new(layer), |before| before.layer.clone());
        }
        self.layers = layers;
    }
}

/// Whether two layers hold the same versions.
fn same(a: &BTreeMap<Key, Arc<Encoded>>, b: &BTreeMap<Key, Arc<Encoded>>) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((left, one), (right, other))| left == right && one.version() == other.version())
}

/// Whether two views give the same.
fn same_view(a: &View, b: &View) -> bool {
    same(&a.given, &b.given) && (Arc::ptr_eq(&a.shared, &b.shared) || same(&a.shared, &b.shared))
}

/// The layer of before, if nothing of it changed: then nobody needs to look at it again.
fn kept(before: &Layer, now: BTreeMap<Key, Arc<Encoded>>) -> Layer {
    if same(before, &now) { before.clone() } else { Arc::new(now) }
}

fn view_of(share: &Share, known: &BTreeMap<Key, Known>, layers: &[Shared], offered: &Layer, before: Option<&View>) -> View {
    let given: BTreeMap<_, _> = share.keys.own().iter().filter_map(|key| Some((key.clone(), known.get(key)?.encoded.clone()))).collect();
    let shared = layers.iter().find(|shared| Arc::ptr_eq(&shared.keys, share.keys.shared())).map(|shared| shared.layer.clone());
    let given = match before {
        Some(before) => kept(&before.given, given),
        None => Arc::new(given),
    };
    View { generation: 0, given, shared: shared.unwrap_or_default(), offered: offered.clone() }
}

#[async_trait]
impl Source for Publisher {
    fn subscribe(&self, node: &Node) -> Option<watch::Receiver<View>> {
        let mut state = self.state.lock();
        let State { known, layers, offered, shares, views, generation, stands_by, .. } = &mut *state;
        let share = shares.get(&node.uid).filter(|_| !*stands_by)?;
        let first = || watch::Sender::new(View { generation: *generation, ..view_of(share, known, layers, offered, None) });
        Some(views.entry(node.uid.clone()).or_insert_with(first).subscribe())
    }

    fn find(&self, node: &Node, subject: &Subject) -> Vec<Key> {
        let state = self.state.lock();
        let Some(share) = state.shares.get(&node.uid) else { return Vec::new() };
        // Of a route, whether it holds for this node where it is attached to `parent`; anything else does.
        let holds = |key: &Key, parent: Option<&Key>| {
            let parents = state.known.get(key).map(|known| known.needs.parents.as_slice()).unwrap_or_default();
            let mut points = parents.iter().filter(|one| parent.is_none_or(|parent| *one == parent));
            parents.is_empty() || points.any(|parent| holds_for(key, parent, &share.view.namespace))
        };
        let backends = || state.known.iter().filter_map(|(key, known)| Some((key, known.needs.backend.as_ref()?)));
        let wanted: Vec<&Key> = match subject {
            Subject::Key(key) => state.offered.get_key_value(key).map(|(key, _)| key).filter(|key| holds(key, None)).into_iter().collect(),
            Subject::Addr(address) => backends().filter(|(_, spec)| answers(spec, *address)).map(|(key, _)| key).collect(),
            Subject::Host(host) => backends().filter(|(key, _)| is_host_of(key, host)).map(|(key, _)| key).collect(),
        };
        let mut found: BTreeSet<Key> = wanted.into_iter().cloned().collect();
        // A backend is of no use without its endpoints, its routes, and the backends those lead to.
        let mut open: Vec<Key> = found.iter().cloned().collect();
        while let Some(key) = open.pop() {
            let needed = state.needs.get(&key).into_iter().flatten();
            let needed = needed.filter(|needed| holds(needed, Some(&key)));
            open.extend(needed.filter(|needed| found.insert((*needed).clone())).cloned().collect::<Vec<_>>());
        }
        found.into_iter().collect()
    }

    async fn sign(&self, node: &Node, csr: &str) -> Result<String, SignRefusal> {
        let allowed = self.state.lock().shares.get(&node.uid).map(|share| share.identities.clone()).unwrap_or_default();
        let wanted = requested(csr).map_err(SignRefusal)?;
        let identity = match (&wanted, allowed.as_slice()) {
            (Some(wanted), _) => allowed.iter().find(|identity| identity.to_string() == *wanted),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let identity = identity.ok_or_else(|| {
            let wanted = wanted.as_deref().unwrap_or("no identity");
            SignRefusal(format!(
                "{} may not have a certificate for {wanted}: its own are {allowed:?}",
                node.name,
                allowed = texts(&allowed)
            ))
        })?;
        self.authority.sign(csr, identity, &node.uid, SystemTime::now()).map_err(|error| SignRefusal(error.to_string()))
    }

    fn acknowledged(&self, node: &Node, view: &View, ack: &Ack) {
        self.deliveries.acknowledged(node, view, ack);
    }

    fn reported(&self, node: &Node, report: serde_json::Value) {
        match Standing::deserialize(report) {
            Ok(standing) => self.deliveries.reported(node, standing),
            Err(error) => tracing::warn!(node = node.name, %error, "what a proxy reports is not understood"),
        }
    }

    fn presence(&self, node: &Node, present: bool) {
        self.deliveries.presence(node, present);
    }
}

fn texts(identities: &[SpiffeId]) -> Vec<String> {
    identities.iter().map(ToString::to_string).collect()
}

/// The SPIFFE id that a signing request asks for, if it asks for one.
fn requested(csr: &str) -> Result<Option<String>, String> {
    let not_one = || "what was sent is no signing request: send PEM with a PKCS#10 request".to_string();
    let block = Pem::iter_from_buffer(csr.as_bytes()).next().and_then(Result::ok).ok_or_else(not_one)?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|_| not_one())?;
    let names = request.requested_extensions().into_iter().flatten().filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
        _ => None,
    });
    let uris: Vec<String> =
        names.flatten().filter_map(|name| if let GeneralName::URI(uri) = name { Some(uri.to_string()) } else { None }).collect();
    match uris.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err("the signing request asks for several identities; one certificate holds one".into()),
    }
}
