//! `Enforced`: whether every proxy that must hold a policy does, and whether it can be gone round.

use super::{Deliveries, lag, some};
use crate::publish::{Delivery, Why};
use crate::translate::status::{Condition, ParentStatus, Truth};
use crate::translate::{Reach, Status};
use selvage_policy::list::Class;
use selvage_policy::{Key, Target};
use std::collections::BTreeMap;

const ENFORCED: &str = "Enforced";

/// Adds it at each ancestor of a policy.
pub(super) fn add(policy: &Key, class: Class, status: &mut Status, reach: &BTreeMap<Target, Reach>, deliveries: &dyn Deliveries) {
    for parent in &mut status.parents {
        let condition = at(policy, class, parent, reach, deliveries);
        parent.conditions.push(condition);
    }
}

fn at(policy: &Key, class: Class, parent: &ParentStatus, reach: &BTreeMap<Target, Reach>, deliveries: &dyn Deliveries) -> Condition {
    let fails = |reason: &'static str, message: String| Condition::fails(ENFORCED, reason, message);
    let accepted =
        parent.conditions.iter().all(|condition| !matches!(condition.kind, "Accepted" | "ResolvedRefs") || condition.status == Truth::True);
    if parent.targets.is_empty() {
        return fails("NoEnforcementPoint", "it stands for nothing here: see Accepted".into());
    }
    if !accepted {
        let message = match class {
            Class::Guard => "it cannot be used as it is written, so that its targets answer an error: see Accepted and ResolvedRefs",
            _ => "it cannot be used as it is written, so that its targets are served without it: see Accepted and ResolvedRefs",
        };
        return fails("Invalid", message.into());
    }
    let mut whole = Reach::default();
    for one in parent.targets.iter().filter_map(|target| reach.get(target)) {
        whole.at.extend(one.at.iter().cloned());
        whole.around.extend(one.around.iter().cloned());
        whole.excluded.extend(one.excluded.iter().cloned());
    }
    if class == Class::Guard {
        if let Some(gap) = gap(&whole) {
            return gap;
        }
        return held(&deliveries.delivery(policy, Some(&whole.at)));
    }
    // The first proxy on the path does what these say: whoever is told of it calls the target, or stands before it.
    held(&deliveries.delivery(policy, None))
}

/// How a guard can be gone round.
fn gap(reach: &Reach) -> Option<Condition> {
    let fails = |reason: &'static str, message: String| Some(Condition::fails(ENFORCED, reason, message));
    if !reach.around.is_empty() {
        let who = some(reach.around.iter().cloned());
        return fails(
            "Bypassable",
            format!("no sidecar of theirs enforces it before {who}: callers without a proxy go round it; give these workloads a sidecar"),
        );
    }
    if !reach.excluded.is_empty() {
        let which = some(reach.excluded.iter().cloned());
        return fails("Excluded", format!("excluded from capture, so that nothing is enforced there: {which}"));
    }
    if reach.at.is_empty() {
        return fails(
            "NoEnforcementPoint",
            "no proxy stands before its target now: there is no workload with a sidecar, or no listener".into(),
        );
    }
    None
}

fn held(delivery: &Delivery) -> Condition {
    if delivery.readers == 0 {
        return Condition::fails(ENFORCED, "NoEnforcementPoint", "no proxy calls its target or stands before it now");
    }
    if delivery.lagging.is_empty() {
        return Condition::holds(ENFORCED, ENFORCED, "");
    }
    if delivery.lagging.iter().any(|lag| matches!(lag.why, Why::Rejected(_))) {
        return Condition::fails(ENFORCED, "Rejected", lag(&delivery.lagging));
    }
    if delivery.connected == 0 && delivery.lagging.iter().all(|lag| lag.why == Why::Absent) {
        let message = format!("none of the {} proxies that must hold it is connected: {}", delivery.readers, lag(&delivery.lagging));
        return Condition { kind: ENFORCED, status: Truth::Unknown, reason: "Lagging", message };
    }
    Condition::fails(ENFORCED, "Lagging", lag(&delivery.lagging))
}
