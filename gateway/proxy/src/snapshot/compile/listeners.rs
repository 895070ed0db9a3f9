//! TLS of listeners, and which of them goes first on a socket they share.

use crate::snapshot::Listener;
use crate::tls::{self, Certificate};
use rustls::ServerConfig;
use selvage_config::resource::listener::{Bind, Protocol};
use selvage_config::{ListenerSpec, MeshSpec};
use selvage_policy::{Key, SpiffeId, TrustDomain};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a listener's TLS was made from, and what came of it. Kept, because a new configuration forgets its clients' sessions.
#[derive(Clone, Debug)]
pub(super) struct ListenerTls {
    certificates: Vec<Arc<Certificate>>,
    missing: Vec<Key>,
    protocol: Protocol,
    leaf: Option<Arc<Certificate>>,
    mesh_spec: Arc<MeshSpec>,
    pub(super) clients: Option<Arc<ServerConfig>>,
    pub(super) mesh: Option<Arc<ServerConfig>>,
    pub(super) problem: Option<String>,
}

impl ListenerTls {
    /// Makes it, or takes over what `before` had from the same parts.
    pub(super) fn make(
        spec: &ListenerSpec,
        certificates: &HashMap<&Key, &Arc<Certificate>>,
        identities: &HashMap<SpiffeId, Arc<Certificate>>,
        mesh: &Arc<MeshSpec>,
        before: Option<&Self>,
    ) -> Self {
        let found = spec.certificates.iter().filter_map(|key| certificates.get(key).map(|found| (*found).clone())).collect();
        let missing = spec.certificates.iter().filter(|key| !certificates.contains_key(key)).cloned().collect();
        let leaf = spec.identity.as_ref().filter(|_| spec.mesh.is_some()).and_then(|identity| identities.get(identity)).cloned();
        let mut made = Self {
            certificates: found,
            missing,
            protocol: spec.protocol,
            leaf,
            mesh_spec: mesh.clone(),
            clients: None,
            mesh: None,
            problem: None,
        };
        if let Some(before) = before.filter(|before| before.is_from(&made)) {
            return before.clone();
        }
        let mut problems: Vec<String> = Vec::new();
        if !made.missing.is_empty() {
            let missing: Vec<String> = made.missing.iter().map(Key::to_string).collect();
            problems.push(format!("certificates: {} did not arrive or cannot be used", missing.join(", ")));
        }
        if matches!(spec.protocol, Protocol::Https | Protocol::Tls) && !made.certificates.is_empty() {
            match tls::serve_clients(&made.certificates, spec.protocol == Protocol::Https) {
                Ok(config) => made.clients = Some(config),
                Err(invalid) => {
                    made.clients = before.and_then(|before| before.clients.clone());
                    problems.push(invalid.to_string());
                }
            }
        }
        if let Some(leaf) = &made.leaf {
            let domains: Vec<TrustDomain> = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases).cloned().collect();
            match tls::serve_mesh(leaf, &mesh.roots, &domains) {
                Ok(config) => made.mesh = Some(config),
                Err(invalid) => {
                    made.mesh = before.and_then(|before| before.mesh.clone());
                    problems.push(format!("mesh: {invalid}"));
                }
            }
        }
        made.problem = (!problems.is_empty()).then(|| problems.join("; "));
        made
    }

    fn is_from(&self, other: &Self) -> bool {
        let same = |a: &[Arc<Certificate>], b: &[Arc<Certificate>]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b));
        let (a, b) = (&self.mesh_spec, &other.mesh_spec);
        let same_mesh = Arc::ptr_eq(a, b)
            || (a.roots == b.roots && a.trust_domain == b.trust_domain && a.trust_domain_aliases == b.trust_domain_aliases);
        self.protocol == other.protocol
            && self.missing == other.missing
            && same(&self.certificates, &other.certificates)
            && same(self.leaf.as_slice(), other.leaf.as_slice())
            && (same_mesh || self.leaf.is_none())
    }
}

/// Listeners by socket: narrower original destinations first, then host names, exact before wildcard, longer before shorter.
pub(super) fn sockets(listeners: &HashMap<Key, Arc<Listener>>) -> BTreeMap<Bind, Vec<Arc<Listener>>> {
    let mut sockets: BTreeMap<Bind, Vec<Arc<Listener>>> = BTreeMap::new();
    for listener in listeners.values() {
        sockets.entry(listener.spec.bind).or_default().push(listener.clone());
    }
    for sharing in sockets.values_mut() {
        sharing.sort_by_cached_key(|listener| (Reverse(listener.narrowness()), Reverse(host_rank(&listener.spec)), listener.key.clone()));
    }
    sockets
}

fn host_rank(spec: &ListenerSpec) -> (u8, usize) {
    spec.hostname.as_ref().map_or((0, 0), |host| (if host.suffix().is_some() { 1 } else { 2 }, host.as_str().len()))
}

impl Listener {
    /// How narrow its original destinations are.
    pub(in crate::snapshot) fn narrowness(&self) -> u8 {
        self.spec.destination.as_ref().map_or(0, |wanted| u8::from(!wanted.addresses.is_empty()) * 2 + u8::from(wanted.port.is_some()))
    }
}
