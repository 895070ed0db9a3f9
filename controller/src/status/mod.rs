//! What is said of each object in the end: what follows from the World, and what became of it at the proxies.
//!
//! ```text
//! Translation ─ statuses ──────────┐
//!             ─ reach ─────────────┼─ complete (pure) ──► Programmed, Enforced ──► whoever writes them
//! Publisher   ─ delivery_among ────┘                          └─ Steady: what lags for a moment is not said
//! ```

mod enforced;
mod page;
mod programmed;
mod steady;
#[cfg(test)]
mod tests;

pub use page::{PATH, ReadError, page, read, read_cluster, serve};
pub use steady::{GRACE, PATIENCE, Steady};

use crate::publish::{Delivery, Lag, Publisher, Why};
use crate::translate::{Status, Translation};
use selvage_policy::Key;
use selvage_policy::list::Kind as PolicyKind;
use std::collections::{BTreeMap, BTreeSet};

/// Proxies, endpoints and the like that a message names; of more it says how many.
const NAMED: usize = 3;

/// What became of what was published.
pub trait Deliveries {
    /// A Resource at the proxies that are given it, or at those of them with one of `views`.
    fn delivery(&self, key: &Key, views: Option<&BTreeSet<Key>>) -> Delivery;

    /// Whether a Gateway (`Gateway/<namespace>/<name>`) can be reached at some address.
    fn has_address(&self, gateway: &Key) -> bool;
}

/// Adds `Programmed` to Gateways, ListenerSets and their listeners, and `Enforced` to policies.
pub fn complete(translation: &Translation, deliveries: &dyn Deliveries) -> BTreeMap<Key, Status> {
    let mut statuses = translation.statuses.clone();
    for (object, status) in &mut statuses {
        match object.kind.as_str() {
            "Gateway" | "ListenerSet" => programmed::add(object, status, deliveries),
            kind => {
                if let Ok(kind) = kind.parse::<PolicyKind>() {
                    enforced::add(object, kind.class(), status, &translation.reach, deliveries);
                }
            }
        }
    }
    statuses
}

/// Deliveries before anything runs: every proxy that is to be has what it is to have. What is said then follows from the World alone.
#[derive(Clone, Copy, Debug)]
pub struct Foreseen;

impl Deliveries for Foreseen {
    fn delivery(&self, _: &Key, views: Option<&BTreeSet<Key>>) -> Delivery {
        let readers = views.map_or(1, BTreeSet::len);
        Delivery { readers, connected: readers, lagging: Vec::new() }
    }

    fn has_address(&self, _: &Key) -> bool {
        true
    }
}

/// Deliveries as a publisher knows them.
#[derive(Clone, Copy)]
pub struct Published<'a> {
    /// Whose.
    pub publisher: &'a Publisher,
    /// The Gateways (`Gateway/<namespace>/<name>`) that have an address.
    pub addresses: &'a BTreeSet<Key>,
}

impl Deliveries for Published<'_> {
    fn delivery(&self, key: &Key, views: Option<&BTreeSet<Key>>) -> Delivery {
        self.publisher.delivery_among(key, views)
    }

    fn has_address(&self, gateway: &Key) -> bool {
        self.addresses.contains(gateway)
    }
}

/// What is not programmed or not enforced although it is as it should be written, one sentence each.
pub fn complaints(statuses: &BTreeMap<Key, Status>) -> Vec<String> {
    let later = |kind: &str| matches!(kind, "Programmed" | "Enforced");
    let mut complaints = Vec::new();
    for (object, status) in statuses {
        let all: Vec<_> = status.complaints().collect();
        let known = |at: &String| all.iter().any(|(other, condition)| !later(condition.kind) && (other == at || other.is_empty()));
        for (at, condition) in all.iter().filter(|(at, condition)| later(condition.kind) && !known(at)) {
            let at = if at.is_empty() { String::new() } else { format!(" at {at}") };
            complaints.push(format!("{object}{at}: not {}, {}: {}", condition.kind, condition.reason, condition.message));
        }
    }
    complaints
}

/// What proxies that lag say, worst first; empty if none of them is to be spoken of.
fn lag(lagging: &[Lag]) -> String {
    let text = |lag: &Lag| match &lag.why {
        Why::Rejected(reason) => format!("{} cannot use it: {reason}", lag.proxy),
        Why::Pending => format!("{} has not applied it yet", lag.proxy),
        Why::Absent => format!("{} is not connected", lag.proxy),
    };
    let mut ordered: Vec<&Lag> = lagging.iter().collect();
    ordered.sort_by_key(|lag| std::cmp::Reverse(lag.why.clone()));
    some(ordered.into_iter().map(text))
}

/// The first few, and how many more there are.
fn some(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}; and {more} more"),
    }
}
