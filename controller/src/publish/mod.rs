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
mod server;
#[cfg(test)]
mod tests;
mod tokens;

pub use delivery::{Delivery, Lag};
pub use server::{IDENTITY_ACCOUNT, ServerCertificate, server_identity};
pub use tokens::Tokens;

use crate::ca::Authority;
use async_trait::async_trait;
use delivery::Deliveries;
use parking_lot::Mutex;
use selvage_config::Resource;
use selvage_config::resource::{BackendSpec, CoreKind, EndpointsSpec, RouteSpec};
use selvage_config::wire::server::{Node, SignRefusal, Source, View};
use selvage_config::wire::{Ack, Encoded, Subject, TooLarge};
use selvage_policy::{Key, SpiffeId};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, Pem, X509CertificationRequest};

/// What one proxy is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// Keys of the Resources it is sent.
    pub keys: BTreeSet<Key>,
    /// Identities it may have certificates for.
    pub identities: Vec<SpiffeId>,
}

/// Everything there is to publish at one moment.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Every Resource.
    pub resources: BTreeMap<Key, Arc<Resource>>,
    /// By proxy: `Gateway/<namespace>/<name>` or `Pod/<namespace>/<name>`.
    pub shares: BTreeMap<Key, Share>,
}

/// Kinds that anybody may ask for with Want: how Services are reached, no guard and no secret.
const OFFERED: [CoreKind; 3] = [CoreKind::Backend, CoreKind::Route, CoreKind::Endpoints];

/// The one publisher of a controller.
pub struct Publisher {
    authority: Arc<Authority>,
    state: Mutex<State>,
    deliveries: Deliveries,
}

#[derive(Default)]
struct State {
    encoded: Arc<BTreeMap<Key, Arc<Encoded>>>,
    offered: Arc<BTreeMap<Key, Arc<Encoded>>>,
    backends: Vec<(Key, BackendSpec)>,
    /// What is of no use without what: a backend's endpoints and routes, a route's backends.
    needs: BTreeMap<Key, BTreeSet<Key>>,
    shares: BTreeMap<String, Share>,
    /// By node UID; kept while anybody listens or the share exists.
    views: HashMap<String, watch::Sender<View>>,
}

impl Publisher {
    /// A publisher with nothing to publish yet.
    pub fn new(authority: Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { authority, state: Mutex::default(), deliveries: Deliveries::default() })
    }

    /// Publishes: every proxy whose share differs from what it has is sent the difference. What is too large for the wire is left as it was and returned.
    pub fn publish(&self, publication: &Publication) -> Vec<TooLarge> {
        let mut too_large = Vec::new();
        let mut state = self.state.lock();
        let mut encoded = BTreeMap::new();
        for (key, resource) in &publication.resources {
            let before = state.encoded.get(key);
            match before.filter(|before| before.version() == resource.version) {
                Some(same) => {
                    encoded.insert(key.clone(), same.clone());
                }
                None => match Encoded::new(resource) {
                    Ok(new) => {
                        encoded.insert(key.clone(), new);
                    }
                    Err(error) => {
                        encoded.extend(before.map(|before| (key.clone(), before.clone())));
                        too_large.push(error);
                    }
                },
            }
        }
        let is = |key: &Key, kind: CoreKind| key.kind == kind.as_str();
        let offered = encoded.iter().filter(|(key, _)| OFFERED.iter().any(|kind| is(key, *kind)));
        state.offered = Arc::new(offered.map(|(key, one)| (key.clone(), one.clone())).collect());
        let backends = publication.resources.values().filter(|resource| is(&resource.key, CoreKind::Backend));
        state.backends = backends.filter_map(|one| Some((one.key.clone(), BackendSpec::deserialize(&one.spec).ok()?))).collect();
        state.needs = needs(publication);
        state.encoded = Arc::new(encoded);
        state.shares = publication.shares.iter().map(|(proxy, share)| (proxy.to_string(), share.clone())).collect();
        let State { encoded, offered, shares, views, .. } = &mut *state;
        // A proxy that is no longer there: its stream ends with the sender.
        views.retain(|uid, sender| shares.contains_key(uid) || !sender.is_closed());
        for (uid, sender) in views.iter() {
            let view = view_of(shares.get(uid), encoded, offered);
            sender.send_if_modified(|present| {
                let changed = !same(&present.given, &view.given) || !same(&present.offered, &view.offered);
                *present = view;
                changed
            });
        }
        too_large
    }

    /// Who must hold `key` at its present version, and who does.
    pub fn delivery(&self, key: &Key) -> Delivery {
        let state = self.state.lock();
        let Some(version) = state.encoded.get(key).map(|one| one.version().to_string()) else { return Delivery::default() };
        let readers = state.shares.iter().filter(|(_, share)| share.keys.contains(key)).map(|(uid, _)| uid.clone());
        self.deliveries.of(key, &version, readers)
    }

    /// Changes whenever a proxy acknowledged something, came or went.
    pub fn deliveries(&self) -> watch::Receiver<u64> {
        self.deliveries.watch()
    }
}

/// Whether two views hold the same versions.
fn same(a: &BTreeMap<Key, Arc<Encoded>>, b: &BTreeMap<Key, Arc<Encoded>>) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((left, one), (right, other))| left == right && one.version() == other.version())
}

fn view_of(share: Option<&Share>, encoded: &BTreeMap<Key, Arc<Encoded>>, offered: &Arc<BTreeMap<Key, Arc<Encoded>>>) -> View {
    let Some(share) = share else { return View::default() };
    let given = share.keys.iter().filter_map(|key| Some((key.clone(), encoded.get(key)?.clone())));
    View { given: Arc::new(given.collect()), offered: offered.clone() }
}

#[async_trait]
impl Source for Publisher {
    fn subscribe(&self, node: &Node) -> watch::Receiver<View> {
        let mut state = self.state.lock();
        let State { encoded, offered, shares, views, .. } = &mut *state;
        let sender = views.entry(node.uid.clone()).or_insert_with(|| watch::Sender::new(view_of(shares.get(&node.uid), encoded, offered)));
        sender.subscribe()
    }

    fn find(&self, node: &Node, subject: &Subject) -> Vec<Key> {
        let state = self.state.lock();
        if !state.shares.contains_key(&node.uid) {
            return Vec::new();
        }
        let wanted: Vec<&Key> = match subject {
            Subject::Key(key) => state.offered.get_key_value(key).map(|(key, _)| key).into_iter().collect(),
            Subject::Addr(address) => state.backends.iter().filter(|(_, spec)| answers(spec, *address)).map(|(key, _)| key).collect(),
            Subject::Host(host) => state.backends.iter().filter(|(key, _)| is_host_of(key, host)).map(|(key, _)| key).collect(),
        };
        let mut found: BTreeSet<Key> = wanted.into_iter().cloned().collect();
        // A backend is of no use without its endpoints, its routes, and the backends those lead to.
        let mut open: Vec<Key> = found.iter().cloned().collect();
        while let Some(key) = open.pop() {
            let needed = state.needs.get(&key).into_iter().flatten();
            open.extend(needed.filter(|key| found.insert((*key).clone())).cloned());
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

    fn acknowledged(&self, node: &Node, have: &BTreeMap<Key, String>, ack: &Ack) {
        self.deliveries.acknowledged(node, have, ack);
    }

    fn presence(&self, node: &Node, present: bool) {
        self.deliveries.presence(node, present);
    }
}

/// What each backend and route needs beside itself.
fn needs(publication: &Publication) -> BTreeMap<Key, BTreeSet<Key>> {
    let mut needs: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
    for (key, resource) in &publication.resources {
        if key.kind == CoreKind::Endpoints.as_str() {
            if let Ok(spec) = EndpointsSpec::deserialize(&resource.spec) {
                needs.entry(spec.backend).or_default().insert(key.clone());
            }
        } else if key.kind == CoreKind::Route.as_str() {
            let Ok(spec) = RouteSpec::deserialize(&resource.spec) else { continue };
            let leads_to = spec.rules.iter().flat_map(|rule| &rule.backends).filter_map(|one| one.backend.clone());
            needs.entry(key.clone()).or_default().extend(leads_to);
            for parent in spec.parents {
                needs.entry(parent).or_default().insert(key.clone());
            }
        }
    }
    needs
}

fn texts(identities: &[SpiffeId]) -> Vec<String> {
    identities.iter().map(ToString::to_string).collect()
}

/// Whether a Service port answers at an address: its own cluster address.
fn answers(spec: &BackendSpec, address: SocketAddr) -> bool {
    spec.port == address.port() && spec.addresses.contains(&address.ip())
}

/// Whether `host` is a name of the Service in the cluster: `service.namespace`, with or without `.svc` and the cluster's domain.
fn is_host_of(backend: &Key, host: &str) -> bool {
    let service = backend.name.split('#').next().unwrap_or_default();
    let own = format!("{service}.{}", backend.namespace);
    host.strip_prefix(&own).is_some_and(|rest| rest.is_empty() || rest == ".svc" || rest.starts_with(".svc."))
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
