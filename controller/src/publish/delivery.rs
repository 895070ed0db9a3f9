//! What became of Resources at the proxies: the facts behind `Programmed` and `Enforced`.

use parking_lot::Mutex;
use selvage_config::wire::server::{Node, View};
use selvage_config::wire::{Ack, Rejected, Standing};
use selvage_policy::Key;
use std::collections::{BTreeMap, HashMap};
use tokio::sync::watch;

/// One Resource at the proxies that must hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// How many must hold it.
    pub readers: usize,
    /// How many of them are connected.
    pub connected: usize,
    /// Those that do not hold its present version, and why; in order of their names.
    pub lagging: Vec<Lag>,
}

/// A proxy that does not hold a Resource as it is now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lag {
    /// The proxy: `shop/orders-0` in a cluster, `Pod/shop/orders` on a laptop.
    pub proxy: String,
    /// Why.
    pub why: Why,
}

/// Why a proxy does not hold a Resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It is not connected to this controller.
    Absent,
    /// It has not said anything about it yet.
    Pending,
    /// It cannot use it.
    Rejected(String),
}

/// The last word of one proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    pub(super) present: bool,
    /// What it has applied.
    pub(super) applied: Option<View>,
    /// What of that it could not use.
    pub(super) rejected: BTreeMap<Key, Rejected>,
    pub(super) standing: Standing,
}

/// The last word of each proxy that there is.
#[derive(Default)]
pub(super) struct Deliveries {
    nodes: Mutex<HashMap<String, Heard>>,
    changed: watch::Sender<u64>,
}

impl Deliveries {
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Has whoever watches look again.
    pub(super) fn stir(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// An Ack lists all that stands rejected, so it replaces what was said before.
    pub(super) fn acknowledged(&self, node: &Node, view: &View, ack: &Ack) {
        self.hear(node, |heard| {
            heard.applied = Some(view.clone());
            heard.rejected = ack.rejected.iter().map(|one| (one.key.clone(), one.clone())).collect();
        });
    }

    pub(super) fn reported(&self, node: &Node, standing: Standing) {
        self.hear(node, |heard| heard.standing = standing);
    }

    pub(super) fn presence(&self, node: &Node, present: bool) {
        if present {
            self.nodes.lock().entry(node.uid.clone()).or_default();
        }
        self.hear(node, |heard| heard.present = present);
    }

    /// Notes it. A proxy that was forgotten meanwhile stays so.
    fn hear(&self, node: &Node, note: impl FnOnce(&mut Heard)) {
        if let Some(heard) = self.nodes.lock().get_mut(&node.uid) {
            note(heard);
        }
        self.stir();
    }

    /// Forgets every proxy that is not among these: so there are never more than there are proxies.
    pub(super) fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.nodes.lock().retain(|uid, _| exists(uid));
    }

    /// A look at what one proxy said.
    pub(super) fn of<T>(&self, uid: &str, look: impl FnOnce(Option<&Heard>) -> T) -> T {
        look(self.nodes.lock().get(uid))
    }
}

impl Heard {
    /// Why this proxy does not hold a Resource at its present version, if it does not.
    pub(super) fn lacks(&self, key: &Key, version: &str) -> Option<Why> {
        if !self.present {
            return Some(Why::Absent);
        }
        let rejected = self.rejected.get(key).filter(|one| one.version == version);
        if let Some(rejected) = rejected {
            return Some(Why::Rejected(rejected.reason.clone()));
        }
        let held = self.applied.as_ref().and_then(|view| view.given(key));
        held.is_none_or(|held| held.version() != version).then_some(Why::Pending)
    }
}
