//! What became of Resources at the proxies: the facts behind `Programmed` and `Enforced`.

use parking_lot::Mutex;
use selvage_config::wire::Ack;
use selvage_config::wire::server::Node;
use selvage_policy::Key;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::watch;

/// One Resource at the proxies that must hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How many must hold it.
    pub readers: usize,
    /// Those that do not hold its present version, and why; in order of their names.
    pub lagging: Vec<Lag>,
}

/// A proxy that does not hold a Resource as it is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lag {
    /// The proxy: `Gateway/shop/public`.
    pub proxy: String,
    /// Its reason for rejecting it; absent: it has not said anything yet, or is not connected.
    pub rejected: Option<String>,
}

#[derive(Default)]
struct Applied {
    have: BTreeMap<Key, String>,
    /// Why a version was rejected.
    rejected: BTreeMap<Key, (String, String)>,
    present: bool,
}

/// The last word of each proxy.
#[derive(Default)]
pub(super) struct Deliveries {
    nodes: Mutex<HashMap<String, Applied>>,
    changed: watch::Sender<u64>,
}

impl Deliveries {
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn acknowledged(&self, node: &Node, have: &BTreeMap<Key, String>, ack: &Ack) {
        let mut nodes = self.nodes.lock();
        let applied = nodes.entry(node.uid.clone()).or_default();
        applied.have = have.clone();
        applied.rejected.extend(ack.rejected.iter().map(|one| (one.key.clone(), (one.version.clone(), one.reason.clone()))));
        applied.rejected.retain(|key, (version, _)| have.get(key) == Some(version));
        drop(nodes);
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn presence(&self, node: &Node, present: bool) {
        self.nodes.lock().entry(node.uid.clone()).or_default().present = present;
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn of(&self, key: &Key, version: &str, readers: impl Iterator<Item = String>) -> Delivery {
        let nodes = self.nodes.lock();
        let mut delivery = Delivery::default();
        for proxy in readers {
            delivery.readers += 1;
            let applied = nodes.get(&proxy).filter(|applied| applied.present);
            let rejected =
                applied.and_then(|applied| applied.rejected.get(key)).filter(|(at, _)| at == version).map(|(_, why)| why.clone());
            let holds = applied.is_some_and(|applied| applied.have.get(key).is_some_and(|have| have == version));
            if !holds || rejected.is_some() {
                delivery.lagging.push(Lag { proxy, rejected });
            }
        }
        delivery.lagging.sort();
        delivery
    }
}
