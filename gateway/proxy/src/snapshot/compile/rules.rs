//! Rules of a route as they are for one parent.

use super::form::RouteForm;
use crate::snapshot::{Backend, Rule, RuleBackend};
use selvage_config::attach::Attachments;
use selvage_config::resource::route::RuleSpec;
use selvage_config::{BackendSpec, ListenerSpec};
use selvage_policy::list::{Body, GuardSet, PostureAt};
use selvage_policy::traffic::{Settings, TrafficSet};
use selvage_policy::{Key, Target};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What rules are made with.
pub(super) struct Maker<'a> {
    pub(super) attachments: &'a Attachments,
    pub(super) backends: &'a HashMap<Key, Arc<Backend>>,
    /// For rules without guards and without settings: most are, and share one.
    nothing: Arc<GuardSet>,
    unset: Arc<TrafficSet>,
    any_traffic: bool,
}

/// What a route is attached to.
pub(super) enum Parent<'a> {
    /// A Listener, with the guards of its own chain.
    Listener { spec: &'a ListenerSpec, guards: &'a Arc<GuardSet>, posture: Option<PostureAt> },
    /// A Service port (mesh): guards stand on Services, never on their routes.
    Service(&'a BackendSpec),
}

impl Parent<'_> {
    fn chain(&self) -> &[Target] {
        match self {
            Self::Listener { spec, .. } => &spec.chain,
            Self::Service(spec) => &spec.chain,
        }
    }
}

impl<'a> Maker<'a> {
    pub(super) fn new(attachments: &'a Attachments, backends: &'a HashMap<Key, Arc<Backend>>) -> Self {
        let any_traffic = attachments.by_target.values().flatten().any(|attached| matches!(attached.policy.body, Body::Traffic(_)));
        Self { attachments, backends, nothing: Arc::default(), unset: Arc::default(), any_traffic }
    }

    /// The rules of a route for one parent.
    pub(super) fn rules(&self, route: &RouteForm, parent: &Parent<'_>) -> Arc<[Arc<Rule>]> {
        let object = &route.spec.object;
        let rule = |(number, spec): (usize, &RuleSpec)| {
            let section = spec.name.as_deref().map(|name| object.section(name));
            let own: Vec<&Target> = std::iter::once(object).chain(&section).collect();
            let guards = match parent {
                Parent::Service(_) => self.nothing.clone(),
                Parent::Listener { guards, .. } if !own.iter().any(|target| self.attachments.by_target.contains_key(*target)) => {
                    (*guards).clone()
                }
                Parent::Listener { spec, posture, .. } => {
                    let chain: Vec<Target> = spec.chain.iter().chain(own.iter().copied()).cloned().collect();
                    Arc::new(self.attachments.guards(&chain, posture.clone()))
                }
            };
            let settings = own_settings(spec);
            let backend = |backend: &selvage_config::resource::route::WeightedBackend| {
                let found = backend.backend.as_ref().and_then(|key| self.backends.get(key)).cloned();
                let behind = found.as_ref().map_or(&[][..], |backend| &backend.spec.chain);
                let chain = parent.chain().iter().chain(own.iter().copied()).chain(behind);
                RuleBackend {
                    settings: self.settings(chain, settings.clone()),
                    backend: found,
                    weight: backend.weight,
                    filters: backend.filters.clone(),
                }
            };
            Arc::new(Rule {
                route: route.matches.key.clone(),
                name: spec.name.as_deref().map_or_else(|| number.to_string().into(), Arc::from),
                guards,
                filters: spec.filters.clone(),
                backends: spec.backends.iter().map(backend).collect(),
            })
        };
        route.spec.rules.iter().enumerate().map(rule).collect()
    }

    /// The rule of a Service port without routes.
    pub(super) fn default_rule(&self, backend: &Arc<Backend>) -> Arc<Rule> {
        Arc::new(Rule {
            route: backend.key.clone(),
            name: "default".into(),
            guards: self.nothing.clone(),
            filters: Vec::new(),
            backends: vec![RuleBackend {
                settings: self.settings(backend.spec.chain.iter(), Settings::default()),
                backend: Some(backend.clone()),
                weight: 1,
                filters: Vec::new(),
            }],
        })
    }

    /// The settings of a chain, each target once.
    pub(super) fn settings<'t>(&self, chain: impl Iterator<Item = &'t Target>, own: Settings) -> Arc<TrafficSet> {
        if !self.any_traffic {
            return if own == Settings::default() { self.unset.clone() } else { Arc::new(TrafficSet::new(own, Vec::new())) };
        }
        let mut distinct: Vec<Target> = Vec::new();
        for target in chain {
            if !distinct.contains(target) {
                distinct.push(target.clone());
            }
        }
        Arc::new(self.attachments.traffic(&distinct, own))
    }
}

/// A rule's own fields, which beat every policy.
fn own_settings(rule: &RuleSpec) -> Settings {
    let retry = rule.retry.as_ref();
    Settings {
        request_timeout: rule.request_timeout_ms.map(Duration::from_millis),
        backend_timeout: rule.backend_timeout_ms.map(Duration::from_millis),
        attempts: retry.map(|retry| retry.attempts.unwrap_or(1)),
        codes: retry.map(|retry| retry.codes.clone()).filter(|codes| !codes.is_empty()),
        backoff: retry.and_then(|retry| retry.backoff_ms).map(Duration::from_millis),
        ..Settings::default()
    }
}
