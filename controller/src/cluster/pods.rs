//! Who each Pod is: what a token must agree with.

use crate::world::Name;
use parking_lot::RwLock;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// What a token is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// Its service account.
    pub account: String,
    /// Its addresses; none before its sandbox is known to the API server.
    pub addresses: Vec<IpAddr>,
    /// Whether its addresses are its node's, and prove nothing.
    pub network: Network,
}

/// Whose addresses a Pod has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Its own.
    Own,
    /// Its node's.
    Host,
}

impl PodFacts {
    fn of(pod: &Value) -> Self {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
        let several = pod.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
        let addresses = several.filter_map(|one| one.get("ip").and_then(Value::as_str)).chain(text("/status/podIP"));
        let on_host = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false);
        Self {
            uid: text("/metadata/uid").unwrap_or_default().into(),
            account: text("/spec/serviceAccountName").filter(|account| !account.is_empty()).unwrap_or("default").into(),
            addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
            network: if on_host { Network::Host } else { Network::Own },
        }
    }

    /// Its addresses, each once, where they are nobody else's.
    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().copied().filter(|_| self.network == Network::Own).collect()
    }
}

/// Every Pod.
#[derive(Default)]
pub struct Pods {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    pods: HashMap<Name, PodFacts>,
    /// How many Pods have an address to themselves, or (for a moment, while it passes from one to the next) claim to.
    addresses: HashMap<IpAddr, usize>,
}

impl Known {
    fn remove(&mut self, name: &Name) {
        let Some(gone) = self.pods.remove(name) else { return };
        for address in gone.own_addresses() {
            if let Some(count) = self.addresses.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(&address);
                }
            }
        }
    }
}

impl Pods {
    /// A Pod as the API server has it.
    pub fn insert(&self, name: Name, pod: &Value) {
        let facts = PodFacts::of(pod);
        let mut known = self.known.write();
        known.remove(&name);
        for address in facts.own_addresses() {
            *known.addresses.entry(address).or_default() += 1;
        }
        known.pods.insert(name, facts);
    }

    /// A Pod is gone.
    pub fn remove(&self, name: &Name) {
        self.known.write().remove(name);
    }

    /// Who that Pod is.
    pub fn find(&self, name: &Name) -> Option<PodFacts> {
        self.known.read().pods.get(name).cloned()
    }

    /// Whether that is a Pod's own address.
    pub fn have(&self, address: &IpAddr) -> bool {
        self.known.read().addresses.contains_key(address)
    }
}
