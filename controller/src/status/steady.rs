//! Keeps what is said steady: a Pod that comes or goes makes a proxy lag for a moment, and nobody is to be told of that.

use crate::translate::Status;
use crate::translate::status::{Condition, Truth};
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long what held may lag before it is said: longer than a proxy takes to come up and take its configuration.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a controller begins to serve nothing is said while anything lags: its proxies have yet to come, and what was said before
/// by another, or before a restart, is nearer to the truth.
pub const GRACE: Duration = Duration::from_secs(4);

/// The object, the part of its status, and the condition.
type Place = (Key, String, &'static str);

/// What was said last, and since when it would have been something else.
#[derive(Debug, Default)]
pub struct Steady {
    begun: Option<Instant>,
    said: BTreeMap<Key, Status>,
    lagging: BTreeMap<Place, Instant>,
}

impl Steady {
    /// Begins anew: nothing was said, and every proxy has yet to come.
    pub fn begin(&mut self, now: Instant) {
        *self = Self { begun: Some(now), ..Self::default() };
    }

    /// What is to be said at `now` (nothing yet, in [`GRACE`]), and when to look again even if nothing changes.
    ///
    /// A condition that was said to hold of this very generation of an object, and only lags, is said to hold until it has lagged
    /// for [`PATIENCE`]. Whatever else differs is said at once.
    pub fn say(&mut self, mut next: BTreeMap<Key, Status>, now: Instant) -> (Option<BTreeMap<Key, Status>>, Option<Instant>) {
        if let Some(end) = self.begun.map(|begun| begun + GRACE) {
            let any = next.values_mut().any(|status| parts(status).iter().any(|(_, conditions)| conditions.iter().any(lags)));
            if any && now < end {
                return (None, Some(end));
            }
            self.begun = None;
        }
        let mut lagging = BTreeMap::new();
        for (object, status) in &mut next {
            let Some(before) = self.said.get(object).filter(|before| before.observed_generation == status.observed_generation) else {
                continue;
            };
            let before = held(before);
            for (place, conditions) in parts(status) {
                for condition in conditions.iter_mut().filter(|condition| lags(condition)) {
                    let Some(holds) = before.get(&(place.clone(), condition.kind)) else { continue };
                    let place = (object.clone(), place.clone(), condition.kind);
                    let since = self.lagging.get(&place).copied().unwrap_or(now);
                    if now.saturating_duration_since(since) < PATIENCE {
                        *condition = holds.clone();
                        lagging.insert(place, since);
                    }
                }
            }
        }
        self.lagging = lagging;
        self.said.clone_from(&next);
        (Some(next), self.lagging.values().min().map(|since| *since + PATIENCE))
    }
}

/// Whether proxies have yet to take something, and nothing is wrong with it.
fn lags(condition: &Condition) -> bool {
    condition.status != Truth::True && matches!((condition.kind, condition.reason), ("Programmed", "Pending") | ("Enforced", "Lagging"))
}

fn held(status: &Status) -> BTreeMap<(String, &'static str), Condition> {
    let mut status = status.clone();
    let all =
        parts(&mut status).into_iter().flat_map(|(place, conditions)| conditions.clone().into_iter().map(move |one| (place.clone(), one)));
    all.filter(|(_, one)| one.status == Truth::True).map(|(place, one)| ((place, one.kind), one)).collect()
}

/// The conditions of each part of a status.
fn parts(status: &mut Status) -> Vec<(String, &mut Vec<Condition>)> {
    let listeners = status.listeners.iter_mut().map(|one| (format!("listener {}", one.name), &mut one.conditions));
    let parents =
        status.parents.iter_mut().enumerate().map(|(index, one)| (format!("parent {index} {}", one.reference), &mut one.conditions));
    std::iter::once((String::new(), &mut status.conditions)).chain(listeners).chain(parents).collect()
}
