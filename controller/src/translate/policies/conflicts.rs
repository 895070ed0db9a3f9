//! Traffic policies that set one field on one target: the older holds there, the other is not attached.

use super::Draft;
use crate::translate::status::Problem;
use selvage_config::attach::Attachments;
use selvage_policy::list::{Attached, Body};
use selvage_policy::{Key, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Who loses where, and to whom.
pub(super) fn lost(drafts: &BTreeMap<&Key, Draft<'_>>) -> Vec<(Key, Target, Problem)> {
    let mut attachments = Attachments::default();
    for draft in drafts.values() {
        let Ok(Some(policy)) = &draft.compiled else { continue };
        if matches!(policy.body, Body::Traffic(_)) {
            for target in draft.aimed.iter().filter_map(|aimed| aimed.place.target()) {
                attachments.attach(target.clone(), Attached { policy: policy.clone(), buckets: None });
            }
        }
    }
    let age = |key: &Key| (drafts.get(key).map_or(0, |draft| draft.policy.meta.created), key.namespace.clone(), key.name.clone());
    let mut conflicts = attachments.conflicts();
    conflicts.sort_by_cached_key(|conflict| (conflict.target.clone(), age(&conflict.loser), age(&conflict.winner), conflict.field));
    // The older first: one that has lost itself takes nothing from anybody.
    let mut losers: BTreeSet<(Target, Key)> = BTreeSet::new();
    let mut lost = Vec::new();
    for conflict in conflicts {
        let (winner, loser) = ((conflict.target.clone(), (*conflict.winner).clone()), (conflict.target.clone(), (*conflict.loser).clone()));
        if losers.contains(&winner) || losers.contains(&loser) {
            continue;
        }
        let message =
            format!("{} is set by {} too, which is older: this policy does not hold here; remove the field", conflict.field, winner.1);
        lost.push((loser.1.clone(), conflict.target, ("Conflicted", message)));
        losers.insert(loser);
    }
    lost
}
