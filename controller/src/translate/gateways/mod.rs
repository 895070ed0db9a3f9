//! Gateways and ListenerSets: which listeners there are in all, which of them are served, and what is said of them.
//!
//! ```text
//! Gateway, then its ListenerSets by age ──entry──► entries ──conflicts──► those that are distinct
//!     ──certificates──► Listener Resources                routes attach to entries, and are counted there
//!     ──statuses──► what is said of GatewayClass, Gateway, ListenerSet
//! ```

mod certificates;
mod conflicts;
mod entry;
mod sets;
mod statuses;

pub(super) use entry::{Entry, selects};

use super::{Facts, Translation};
use crate::gateway_api::GatewaySpec;
use crate::world::{Name, Object};
use selvage_config::resource::listener::{Bind, Clients, Forward};
use selvage_config::{ListenerSpec, Resource, VersionKey, keys};
use selvage_policy::target::TargetKind;
use selvage_policy::{SpiffeId, Target};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Ports below this need privileges: they are bound this much above the greatest of them.
const PRIVILEGED: u16 = 1024;
/// See [`PRIVILEGED`].
const OFFSET: u16 = 10_000;

/// Where a listener's port is bound.
pub fn bound_port(port: u16) -> u16 {
    if port < PRIVILEGED { OFFSET + port } else { port }
}

/// Every Gateway of ours with all its listeners, and every ListenerSet of such a Gateway.
pub(super) struct Edges<'a> {
    /// By name.
    pub gateways: BTreeMap<Name, Edge<'a>>,
    /// The ListenerSets, with the Gateway each names.
    pub sets: BTreeMap<Name, sets::Membership>,
}

/// One Gateway of ours.
pub(super) struct Edge<'a> {
    object: &'a Object<GatewaySpec>,
    identity: &'a SpiffeId,
    /// Its own listeners, then those of its ListenerSets in the order of their precedence.
    pub entries: Vec<Entry>,
}

pub(super) fn translate<'a>(facts: &'a Facts<'a>, version_key: &VersionKey, translation: &mut Translation) -> Edges<'a> {
    let mut edges = Edges { gateways: BTreeMap::new(), sets: BTreeMap::new() };
    for (name, object) in &facts.world.gateways {
        let Some(identity) = facts.gateways.get(name) else {
            let class = &object.spec.gateway_class_name;
            // A class that is there is another controller's, and so is the Gateway.
            if !facts.world.classes.contains_key(&Name::new("", class.clone())) {
                let remedy = format!("name one with controllerName {}", super::CONTROLLER);
                translation
                    .remarks
                    .push(format!("{}: spec.gatewayClassName: there is no GatewayClass `{class}`: {remedy}", name.key("Gateway")));
            }
            continue;
        };
        let frontend = object.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
        let entries = object.spec.listeners.iter().map(|listener| Entry::new(None, listener.clone(), frontend)).collect();
        edges.gateways.insert(name.clone(), Edge { object, identity, entries });
    }
    sets::join(facts, &mut edges, translation);
    for (name, edge) in &mut edges.gateways {
        conflicts::mark(&mut edge.entries);
        for entry in &mut edge.entries {
            serve(facts, name, edge.identity, entry, edge.object.meta.created, version_key, translation);
        }
    }
    edges
}

impl Edges<'_> {
    /// What is said of each, once routes are counted.
    pub(super) fn say(&self, facts: &Facts<'_>, translation: &mut Translation) {
        statuses::say(self, facts, translation);
    }
}

/// Makes the Resource of a listener that can be served.
fn serve(
    facts: &Facts<'_>,
    gateway: &Name,
    identity: &SpiffeId,
    entry: &mut Entry,
    created: i64,
    version_key: &VersionKey,
    translation: &mut Translation,
) {
    let certificates = match entry.terminates() {
        true => certificates::resolve(facts, gateway, entry, version_key, translation),
        false => Vec::new(),
    };
    let (Some(protocol), Some(port), true) = (entry.protocol, entry.port, entry.is_distinct()) else { return };
    if entry.terminates() && certificates.is_empty() {
        return;
    }
    let address = match &facts.world.addresses {
        Some(addresses) => addresses.gateway(gateway).map(IpAddr::from),
        None => Some(Ipv4Addr::UNSPECIFIED.into()),
    };
    let Some(address) = address else { return };
    let own = Target::new(TargetKind::Gateway, &gateway.namespace, &gateway.name);
    let (key, chain) = match &entry.set {
        None => {
            let section = own.section(&entry.listener.name);
            (keys::listener(&gateway.namespace, &gateway.name, &entry.listener.name), vec![own, section])
        }
        Some(set) => {
            let target = Target::new(TargetKind::ListenerSet, &set.namespace, &set.name);
            let section = target.section(&entry.listener.name);
            let key = keys::set_listener(&gateway.namespace, &gateway.name, (&set.namespace, &set.name), &entry.listener.name);
            (key, vec![own, target, section])
        }
    };
    let spec = ListenerSpec {
        bind: Bind::Bound(SocketAddr::new(address, bound_port(port))),
        destination: None,
        hostname: entry.hostname.clone(),
        port,
        protocol,
        certificates,
        mesh: None,
        clients: Clients::Outside,
        forward: Forward::Routes,
        chain,
        posture: false,
        identity: Some(identity.clone()),
        application: None,
        assertors: Vec::new(),
    };
    entry.resource = Some(key.clone());
    translation.add(Resource::core(key, &spec, created));
}

impl Edge<'_> {
    /// The listeners of the Gateway itself (`None`) or of one of its ListenerSets.
    pub(super) fn of<'e>(&'e self, set: Option<&'e Name>) -> impl Iterator<Item = (usize, &'e Entry)> {
        self.entries.iter().enumerate().filter(move |(_, entry)| entry.set.as_ref() == set)
    }
}
