//! What a client lacks, cut into parts.
//!
//! There is no queue a client: what is pending is the difference between what it has and the newest view, computed when it is free to
//! take more. So the latest always wins, and a slow client costs no memory.

use super::View;
use crate::resource::kind::holds_secrets;
use crate::wire::{Encoded, PART, ToClient, Update};
use selvage_policy::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What has to be sent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) upserts: Vec<Arc<Encoded>>,
    pub(super) removals: Vec<Key>,
}

impl Difference {
    /// Between what a client has and what it should have: everything given, and of what is offered the keys it wants.
    pub(super) fn between(have: &BTreeMap<Key, String>, view: &View, wanted: &BTreeSet<Key>) -> Self {
        let offered = |key: &Key| if holds_secrets(&key.kind) { None } else { view.offered.get(key) };
        let wanted = wanted.iter().filter(|key| !view.given.contains_key(*key)).filter_map(offered);
        let target: BTreeMap<&Key, &Arc<Encoded>> = view.given.values().chain(wanted).map(|encoded| (encoded.key(), encoded)).collect();
        let lacks = |encoded: &Encoded| have.get(encoded.key()).is_none_or(|version| version != encoded.version());
        Self {
            upserts: target.values().filter(|encoded| lacks(encoded)).map(|encoded| (*encoded).clone()).collect(),
            removals: have.keys().filter(|key| !target.contains_key(key)).cloned().collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// Notes it in what the client has.
    pub(super) fn apply(&self, have: &mut BTreeMap<Key, String>) {
        for encoded in &self.upserts {
            have.insert(encoded.key().clone(), encoded.version().to_string());
        }
        for key in &self.removals {
            have.remove(key);
        }
    }

    /// The messages of one transaction, the last with `commit`. A part has at most [`PART`] bytes, or one larger Resource.
    pub(super) fn parts(&self, txn: u64) -> Vec<ToClient> {
        let mut parts = vec![Update { txn, ..Update::default() }];
        let mut filled = 0;
        let mut room = |parts: &mut Vec<Update>, bytes: usize| {
            if filled > 0 && filled + bytes > PART {
                filled = 0;
                parts.push(Update { txn, part: u32::try_from(parts.len()).unwrap_or(u32::MAX), ..Update::default() });
            }
            filled += bytes;
        };
        for encoded in &self.upserts {
            // One for the comma.
            room(&mut parts, encoded.json.get().len() + 1);
            parts.last_mut().expect("never empty").upserts.push(encoded.json.clone());
        }
        for key in &self.removals {
            // As text, in quotes, with a comma and the slashes between its parts.
            room(&mut parts, key.kind.len() + key.namespace.len() + key.name.len() + 5);
            parts.last_mut().expect("never empty").removals.push(key.clone());
        }
        parts.last_mut().expect("never empty").commit = true;
        parts.into_iter().map(ToClient::Update).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Class, Origin, Resource, keys};
    use selvage_policy::list::Kind;

    fn policy(name: &str, bytes: usize) -> Arc<Encoded> {
        let spec = "x".repeat(bytes);
        let key = keys::policy(Kind::TrafficPolicy, "shop", name);
        Encoded::new(&Resource::new(key, Class::Traffic, &spec, Origin::default())).expect("small enough")
    }

    fn difference(upserts: Vec<Arc<Encoded>>, removals: usize) -> Difference {
        let removals = (0..removals).map(|n| keys::policy(Kind::TrafficPolicy, "shop", &format!("{n:0>200}"))).collect();
        Difference { upserts, removals }
    }

    #[test]
    fn parts_are_no_larger_than_allowed_and_the_last_commits() {
        let table = [
            (difference(vec![], 0), 1),
            (difference(vec![policy("a", 10)], 1), 1),
            (difference(vec![policy("a", PART / 2), policy("b", PART / 2)], 0), 2),
            (difference(vec![policy("a", 10), policy("b", 2 * PART), policy("c", 10)], 0), 3),
            (difference((0..100).map(|n| policy(&n.to_string(), PART / 10)).collect(), 0), 12),
            (difference(vec![], 10_000), 3),
        ];
        for (difference, expected) in table {
            let parts = difference.parts(7);
            assert_eq!(parts.len(), expected);
            let (mut upserts, mut removals) = (0, 0);
            for (index, message) in parts.iter().enumerate() {
                let ToClient::Update(update) = message else { panic!("an Update") };
                assert_eq!((update.txn, update.part as usize, update.commit), (7, index, index + 1 == parts.len()));
                let bytes = serde_json::to_vec(message).expect("JSON").len();
                assert!(bytes <= PART + 200 || update.upserts.len() == 1, "{bytes}");
                upserts += update.upserts.len();
                removals += update.removals.len();
            }
            assert_eq!((upserts, removals), (difference.upserts.len(), difference.removals.len()));
        }
    }
}
