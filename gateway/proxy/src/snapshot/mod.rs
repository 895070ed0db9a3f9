//! The immutable runtime form of a configuration. Swapped whole; a request sees exactly one.
//!
//! ```text
//! Resources --compile--> Snapshot { sockets: Bind -> Listener -> RouteTable -> Rule -> Backend, destinations: Key -> RouteTable }
//! request  --decide--> Next (to a backend, redirect, to the application) or Denial
//! ```

mod compile;
pub mod decide;
pub mod rewrite;
mod rule;
mod table;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use crate::state::Live;
use crate::state::places::Places;
pub use rule::{Backend, Destination, Matched, Rule, RuleBackend};
pub use table::{Placed, RouteTable};

use crate::tls::Certificate;
use rustls::ServerConfig;
use selvage_config::resource::listener::Bind;
use selvage_config::{ListenerSpec, MeshSpec};
use selvage_policy::list::{GuardSet, PostureAt};
use selvage_policy::traffic::TrafficSet;
use selvage_policy::{Key, SpiffeId};
use smallvec::SmallVec;
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
    /// Every Service port as callers reach it: its routes, else its endpoints.
    pub destinations: HashMap<Key, Arc<Destination>>,
    /// Destinations by cluster address and port.
    pub by_address: HashMap<(IpAddr, u16), Arc<Destination>>,
    /// Which Service ports have an endpoint at an address: live, as the endpoints are.
    places: Arc<Places>,
    /// Leaf certificates of the identities this proxy speaks for.
    pub identities: HashMap<SpiffeId, Arc<Certificate>>,
    /// What the next compile may reuse.
    parts: compile::Parts,
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

/// A Resource that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Which.
    pub key: Key,
    /// Which version of it.
    pub version: String,
    /// Why: names the field and the remedy.
    pub reason: String,
}

impl Snapshot {
    /// The listener for a new connection: by socket, original destination and, once known, TLS name. The reserved name of a mesh hop
    /// finds the listener that answers for that identity. Without a name it is the least specific one that takes the destination.
    pub fn accept(&self, bind: Bind, destination: SocketAddr, server_name: Option<&str>) -> Option<&Arc<Listener>> {
        let mut here = self.at(bind, destination);
        let Some(name) = server_name else { return here.next_back() };
        let mesh = |listener: &Listener| {
            listener.spec.mesh.is_some() && listener.spec.identity.as_ref().is_some_and(|identity| identity.dns_name() == name)
        };
        here.find(|listener| mesh(listener) || listener.serves(name))
    }

    /// The listener for a request on that connection: the most specific by host (Gateway API listener isolation).
    pub fn listener(&self, bind: Bind, destination: SocketAddr, host: &str) -> Option<&Arc<Listener>> {
        self.at(bind, destination).find(|listener| listener.serves(host))
    }

    /// The Service port that callers reach at this cluster address.
    pub fn service(&self, address: SocketAddr) -> Option<&Arc<Destination>> {
        self.by_address.get(&(address.ip(), address.port()))
    }

    /// The Service ports that have an endpoint at this very address, in the order of their keys; of a workload, those of its namespace.
    pub fn behind(&self, address: SocketAddr) -> SmallVec<[&Arc<Destination>; 2]> {
        self.places.at(address).iter().filter_map(|key| self.destinations.get(&**key)).collect()
    }

    /// Listeners of a socket that take this original destination and are the narrowest to do so, most specific host first.
    fn at(&self, bind: Bind, destination: SocketAddr) -> impl DoubleEndedIterator<Item = &Arc<Listener>> {
        let takes = move |listener: &&Arc<Listener>| {
            listener.spec.destination.as_ref().is_none_or(|wanted| {
                wanted.port.is_none_or(|port| port == destination.port())
                    && (wanted.addresses.is_empty() || wanted.addresses.contains(&destination.ip()))
            })
        };
        let sharing = self.sockets.get(&bind).map_or(&[][..], Vec::as_slice);
        let narrowest = sharing.iter().find(takes).map_or(0, |listener| listener.narrowness());
        sharing.iter().filter(takes).filter(move |listener| listener.narrowness() == narrowest)
    }
}

impl Listener {
    /// Whether it serves this host (lower-case, no port).
    pub fn serves(&self, host: &str) -> bool {
        self.spec.hostname.as_ref().is_none_or(|hostname| hostname.matches(host))
    }
}

/// The target's own posture at a listener, if it is applied there.
fn posture(mesh: &MeshSpec, spec: &ListenerSpec) -> Option<PostureAt> {
    let identity = spec.identity.clone().filter(|_| spec.posture)?;
    Some(PostureAt { posture: mesh.posture, identity, aliases: mesh.trust_domain_aliases.clone().into() })
}
