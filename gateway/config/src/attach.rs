//! Which policies hold at a point: from attachments and a chain to guards and settings.

use selvage_policy::list::{Attached, Body, Compiled, GuardSet, Level, PostureAt};
use selvage_policy::traffic::{Settings, TrafficSet};
use selvage_policy::{Inheritance, Key, Target};
use std::collections::HashMap;
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Every compiled policy of a proxy, by the target it is attached to.
#[derive(Debug, Default)]
pub struct Attachments {
    /// By target.
    pub by_target: HashMap<Target, Vec<Attached>>,
}

/// Two traffic policies that set one field on one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Where both are attached.
    pub target: Target,
    /// The field, as it stands in the manifest: `spec.timeouts.request`.
    pub field: &'static str,
    /// The older policy, whose value holds.
    pub winner: Arc<Key>,
    /// The policy that is `Accepted=False`, `Conflicted`.
    pub loser: Arc<Key>,
}

impl Attachments {
    /// Attaches `policy` to `target`.
    pub fn attach(&mut self, target: Target, policy: Attached) {
        self.by_target.entry(target).or_default().push(policy);
    }

    /// The guards that hold for `chain`, outermost first, on each target the older first. `inheritance: Default` is decided in
    /// [`GuardSet::run`], because a more specific policy counts only where its `when` is true.
    pub fn guards(&self, chain: &[Target], posture: Option<PostureAt>) -> GuardSet {
        let level = |target: &Target| {
            let attached = self.by_target.get(target)?;
            let mut policies: Vec<Attached> = attached.iter().filter(|attached| is_guard(&attached.policy)).cloned().collect();
            policies.sort_by(|a, b| age(&a.policy).cmp(&age(&b.policy)));
            (!policies.is_empty()).then(|| Level { target: target.clone(), policies })
        };
        GuardSet { levels: chain.iter().filter_map(level).collect(), posture }
    }

    /// The traffic settings for `chain` (both chains of a point may be given as one, in any order), under the route's `own` fields, which
    /// beat every policy. `Override` policies come next, the outermost first, then the others, the most specific first; on one target the
    /// older first.
    pub fn traffic(&self, chain: &[Target], own: Settings) -> TrafficSet {
        let mut found: Vec<(&Target, &Arc<Compiled>)> = chain
            .iter()
            .flat_map(|target| self.by_target.get(target).into_iter().flatten().map(move |attached| (target, &attached.policy)))
            .filter(|(_, policy)| matches!(policy.body, Body::Traffic(_)))
            .collect();
        found.sort_by(|(a, x), (b, y)| strength(a, x).cmp(&strength(b, y)).then_with(|| age(x).cmp(&age(y))));
        TrafficSet::new(own, found.into_iter().map(|(_, policy)| policy.clone()).collect())
    }

    /// Pairs of traffic policies that set one field on one target, in a fixed order. Policies with a `when` are no conflict: which of
    /// them apply is decided per request, the older first.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        for (target, attached) in &self.by_target {
            let mut policies: Vec<&Arc<Compiled>> = attached.iter().map(|attached| &attached.policy).filter(|p| p.when.is_none()).collect();
            policies.sort_by(|a, b| age(a).cmp(&age(b)));
            for (index, winner) in policies.iter().enumerate() {
                for loser in &policies[index + 1..] {
                    if let (Body::Traffic(a), Body::Traffic(b)) = (&winner.body, &loser.body) {
                        let fields = a.overlap(b).into_iter();
                        conflicts.extend(fields.map(|field| Conflict {
                            target: target.clone(),
                            field,
                            winner: winner.key.clone(),
                            loser: loser.key.clone(),
                        }));
                    }
                }
            }
        }
        conflicts.sort_by(|a, b| (&a.target, &a.loser, a.field, &a.winner).cmp(&(&b.target, &b.loser, b.field, &b.winner)));
        conflicts
    }
}

fn is_guard(policy: &Compiled) -> bool {
    !matches!(policy.body, Body::Traffic(_))
}

/// The older of two equals wins, then namespace and name.
fn age(policy: &Compiled) -> (i64, &str, &str) {
    (policy.created, &policy.key.namespace, &policy.key.name)
}

/// Strongest first when sorted ascending.
fn strength(target: &Target, policy: &Compiled) -> (u8, i16) {
    let rank = i16::from(target.rank());
    if policy.inheritance == Inheritance::Override { (0, rank) } else { (1, -rank) }
}
