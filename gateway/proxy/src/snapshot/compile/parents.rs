//! Which routes stand at which parent, and what of that a change touches.

use super::form::{Form, RouteForm};
use super::parts::Part;
use super::rules::{Maker, Parent};
use super::{Compile, Point};
use crate::snapshot::{Placed, RouteTable, posture};
use selvage_policy::{Key, Target};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The routes of one parent.
#[derive(Debug)]
pub(in crate::snapshot) struct Attachees {
    /// Sorted by the key of the route's Resource.
    pub(super) routes: Vec<(Arc<Key>, Placed)>,
    pub(super) table: Arc<RouteTable>,
}

/// A route in the table of one of its parents.
enum Touched<'a> {
    Gone(&'a Arc<Key>),
    Here(&'a Arc<RouteForm>),
}

impl Touched<'_> {
    fn key(&self) -> &Key {
        match self {
            Self::Gone(key) => key,
            Self::Here(route) => &route.key,
        }
    }
}

impl Compile<'_> {
    /// The routes of every parent that is here.
    pub(super) fn parents(
        &self,
        points: &BTreeMap<Key, Point<'_>>,
        maker: &Maker<'_>,
        new_backends: &HashSet<Key>,
    ) -> HashMap<Key, Arc<Attachees>> {
        let parent = |key: &Key| match points.get(key) {
            Some(Point { spec, guards, .. }) => Some(Parent::Listener { spec, guards, posture: posture(&self.mesh, spec) }),
            None => maker.backends.get(key).map(|backend| Parent::Service(&backend.spec)),
        };
        let fresh = |key: &Key| points.get(key).map_or_else(|| new_backends.contains(key), |point| !point.reused);
        let mut parents = self.previous.parts.parents.clone();
        parents.retain(|key, _| (points.contains_key(key) || maker.backends.contains_key(key)) && !fresh(key));

        // Routes to be made anew, for each parent they have or had; whole parents where the parent itself is new or different.
        let mut touched: HashMap<&Key, Vec<Touched<'_>>> = HashMap::new();
        for change in &self.changes {
            if let Some(Part { form: Some(Form::Route(old)), .. }) = change.old {
                old.spec.parents.iter().for_each(|parent| touched.entry(parent).or_default().push(Touched::Gone(&old.key)));
            }
        }
        let changed = self.changed_keys(|form| matches!(form, Form::Route(_)));
        let any_fresh = points.values().any(|point| !point.reused) || !new_backends.is_empty();
        if any_fresh || !changed.is_empty() || !self.targets.is_empty() {
            for part in &self.list {
                let Some(Form::Route(route)) = &part.form else { continue };
                let dirty = changed.contains(&part.resource.key) || self.is_stale(route, new_backends);
                for parent in route.spec.parents.iter().filter(|parent| dirty || (any_fresh && fresh(parent))) {
                    touched.entry(parent).or_default().push(Touched::Here(route));
                }
            }
        }
        for (key, touched) in touched {
            let Some(at) = parent(key) else { continue };
            let mut routes: BTreeMap<Arc<Key>, Placed> = BTreeMap::new();
            let mut kept = parents.get(key).map(|known| known.routes.clone()).unwrap_or_default();
            let gone: HashSet<&Key> = touched.iter().map(Touched::key).collect();
            kept.retain(|(route, _)| !gone.contains(&**route));
            for one in touched {
                if let Touched::Here(route) = one {
                    let placed = Placed { matches: route.matches.clone(), created: route.created, rules: maker.rules(route, &at) };
                    routes.insert(route.key.clone(), placed);
                }
            }
            kept.extend(routes);
            kept.sort_by(|(a, _), (b, _)| a.cmp(b));
            let (hostname, mesh) = match &at {
                Parent::Listener { spec, .. } => (spec.hostname.as_ref(), false),
                Parent::Service(_) => (None, true),
            };
            // Of another namespace than the Service: a consumer's. Its routes hold for its callers instead of the producer's (GEP-1294), and
            // nobody else is told of them.
            let is_consumers = |route: &Key| route.namespace != key.namespace;
            let consumed = mesh && kept.iter().any(|(route, _)| is_consumers(route));
            let holding = kept.iter().filter(|(route, _)| !consumed || is_consumers(route)).map(|(_, placed)| placed);
            let table = Arc::new(RouteTable::build(holding, hostname, mesh));
            parents.insert(key.clone(), Arc::new(Attachees { routes: kept, table }));
        }
        parents
    }

    /// Whether an unchanged route's rules are different all the same.
    fn is_stale(&self, route: &RouteForm, new_backends: &HashSet<Key>) -> bool {
        let object = &route.spec.object;
        let hit = |target: &Target| target.kind == object.kind && target.namespace == object.namespace && target.name == object.name;
        let mut backends = route.spec.rules.iter().flat_map(|rule| &rule.backends).filter_map(|backend| backend.backend.as_ref());
        self.everything || self.targets.iter().any(hit) || (!new_backends.is_empty() && backends.any(|key| new_backends.contains(key)))
    }
}
