//! What a client lacks, cut into parts.
//!
//! There is no queue a client: what is pending is the difference between what it has and the newest view, computed when it is free to
//! take more. So the latest always wins, and a slow client costs no memory.

use super::{Layer, View};
use crate::resource::kind::holds_secrets;
use crate::wire::{Encoded, PART, ToClient, Update};
use selvage_policy::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a client has.
#[derive(Debug)]
pub(super) enum Held {
    /// As it says itself when it comes, by version.
    Said(BTreeMap<Key, String>),
    /// As it acknowledged: a view, and what it wanted beyond.
    Acknowledged(Box<View>, Layer),
}

impl Held {
    fn version(&self, key: &Key) -> Option<&str> {
        match self {
            Self::Said(have) => have.get(key).map(String::as_str),
            Self::Acknowledged(view, wanted) => view.given(key).or_else(|| wanted.get(key)).map(|encoded| encoded.version()),
        }
    }

    /// Whether the client has every Resource of a shared layer, without looking at each.
    fn shares(&self, layer: &Layer) -> bool {
        matches!(self, Self::Acknowledged(view, _) if Arc::ptr_eq(&view.shared, layer))
    }

    fn keys(&self, without: Option<&Layer>) -> Box<dyn Iterator<Item = &Key> + '_> {
        match self {
            Self::Said(have) => Box::new(have.keys()),
            Self::Acknowledged(view, wanted) => {
                let shared = Some(&view.shared).filter(|layer| without.is_none_or(|other| !Arc::ptr_eq(layer, other)));
                Box::new(view.given.keys().chain(wanted.keys()).chain(shared.into_iter().flat_map(|layer| layer.keys())))
            }
        }
    }
}

/// What has to be sent.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) upserts: Vec<Arc<Encoded>>,
    pub(super) removals: Vec<Key>,
}

impl Difference {
    /// Between what a client has and what it should have: everything given, and what it wants beyond.
    pub(super) fn between(held: &Held, view: &View, wanted: &Layer) -> Self {
        let same = held.shares(&view.shared);
        let shared = Some(&view.shared).filter(|_| !same).into_iter().flat_map(|layer| layer.values());
        let target = view.given.values().chain(wanted.values()).chain(shared);
        let mut upserts: Vec<_> =
            target.filter(|encoded| held.version(encoded.key()).is_none_or(|version| version != encoded.version())).cloned().collect();
        let stays = |key: &&Key| view.given(key).is_some() || wanted.contains_key(*key);
        let mut removals: Vec<_> = held.keys(Some(&view.shared)).filter(|key| !stays(key)).cloned().collect();
        upserts.sort_by(|one, other| one.key().cmp(other.key()));
        removals.sort();
        Self { upserts, removals }
    }

    /// Of what is offered, what a client wants beyond what it is given. Never a secret, whatever is offered.
    pub(super) fn beyond(view: &View, wanted: &BTreeSet<Key>) -> Layer {
        let offered = |key: &Key| if holds_secrets(&key.kind) { None } else { view.offered.get(key) };
        let wanted = wanted.iter().filter(|key| view.given(key).is_none());
        Arc::new(wanted.filter_map(|key| Some((key.clone(), offered(key)?.clone()))).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
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

    fn layer(resources: &[(&str, usize)]) -> Layer {
        Arc::new(resources.iter().map(|(name, bytes)| policy(name, *bytes)).map(|one| (one.key().clone(), one)).collect())
    }

    fn view(given: &[(&str, usize)], shared: &Layer) -> View {
        View { given: layer(given), shared: shared.clone(), ..View::default() }
    }

    #[test]
    fn what_differs_is_found_whatever_layer_it_moves_through() {
        let none = Layer::default();
        let (shared, changed) = (layer(&[("s", 1), ("t", 1)]), layer(&[("s", 2), ("t", 1)]));
        let said =
            |names: &[(&str, usize)]| Held::Said(layer(names).iter().map(|(key, one)| (key.clone(), one.version().to_string())).collect());
        let acknowledged = |given: &[(&str, usize)], shared: &Layer, wanted: &[(&str, usize)]| {
            Held::Acknowledged(Box::new(view(given, shared)), layer(wanted))
        };
        type Row<'a> = (&'a str, Held, View, Layer, &'a [&'a str], &'a [&'a str]);
        let table: &[Row<'_>] = &[
            ("nothing yet", said(&[]), view(&[("a", 1)], &shared), none.clone(), &["a", "s", "t"], &[]),
            ("resumes", said(&[("a", 1), ("s", 1), ("old", 1)]), view(&[("a", 2)], &shared), none.clone(), &["a", "t"], &["old"]),
            ("nothing new", acknowledged(&[("a", 1)], &shared, &[]), view(&[("a", 1)], &shared), none.clone(), &[], &[]),
            ("its own changed", acknowledged(&[("a", 1)], &shared, &[]), view(&[("a", 2)], &shared), none.clone(), &["a"], &[]),
            ("its own is gone", acknowledged(&[("a", 1)], &shared, &[]), view(&[], &shared), none.clone(), &[], &["a"]),
            ("the shared changed", acknowledged(&[("a", 1)], &shared, &[]), view(&[("a", 1)], &changed), none.clone(), &["s"], &[]),
            ("the shared is gone", acknowledged(&[("a", 1)], &shared, &[]), view(&[("a", 1)], &none), none.clone(), &[], &["s", "t"]),
            ("own becomes shared", acknowledged(&[("s", 1)], &none, &[]), view(&[], &shared), none.clone(), &["t"], &[]),
            ("wanted is given", acknowledged(&[], &none, &[("w", 1)]), view(&[("w", 1)], &none), none.clone(), &[], &[]),
            ("wanted no longer", acknowledged(&[], &none, &[("w", 1)]), view(&[], &none), none.clone(), &[], &["w"]),
            ("wanted changed", acknowledged(&[], &none, &[("w", 1)]), view(&[], &none), layer(&[("w", 2)]), &["w"], &[]),
        ];
        for (what, held, view, wanted, upserts, removals) in table {
            let difference = Difference::between(held, view, wanted);
            let sent: Vec<&str> = difference.upserts.iter().map(|one| one.key().name.as_str()).collect();
            let gone: Vec<&str> = difference.removals.iter().map(|key| key.name.as_str()).collect();
            assert_eq!((sent.as_slice(), gone.as_slice()), (*upserts, *removals), "{what}");
        }
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
