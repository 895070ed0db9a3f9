//! The merged result: what holds for one attempt.

use super::spec::RetryMethods;
use crate::exchange::Exchange;
use crate::expression::Outcome;
use crate::list::{Body, Compiled};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Settings; absent fields are not set at this level.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// All tries together; zero: none.
    pub request_timeout: Option<Duration>,
    /// One try, until response headers; zero: none.
    pub backend_timeout: Option<Duration>,
    /// Making a connection.
    pub connect_timeout: Option<Duration>,
    /// Retries after the first try.
    pub attempts: Option<u32>,
    /// Response codes that are tried again.
    pub codes: Option<Vec<u16>>,
    /// Least wait before a retry.
    pub backoff: Option<Duration>,
    /// Which methods.
    pub methods: Option<RetryMethods>,
    /// Retries in all.
    pub budget: Option<Budget>,
}

/// Retries as a share of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Per cent of requests.
    pub percent: u32,
    /// Retries a second that are always allowed.
    pub min_per_second: u32,
}

impl Budget {
    /// Where nothing else is written.
    pub const DEFAULT: Self = Self { percent: 20, min_per_second: 10 };
}

impl Settings {
    /// Field by field: its own where set, else those of `outer`.
    pub fn over(self, outer: &Self) -> Self {
        Self {
            request_timeout: self.request_timeout.or(outer.request_timeout),
            backend_timeout: self.backend_timeout.or(outer.backend_timeout),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            attempts: self.attempts.or(outer.attempts),
            codes: self.codes.or_else(|| outer.codes.clone()),
            backoff: self.backoff.or(outer.backoff),
            methods: self.methods.or(outer.methods),
            budget: self.budget.or(outer.budget),
        }
    }

    /// Names of the fields that both set, as they stand in a TrafficPolicy.
    pub fn overlap(&self, other: &Self) -> Vec<&'static str> {
        [
            ("spec.timeouts.request", self.request_timeout.is_some() && other.request_timeout.is_some()),
            ("spec.timeouts.backendRequest", self.backend_timeout.is_some() && other.backend_timeout.is_some()),
            ("spec.timeouts.connect", self.connect_timeout.is_some() && other.connect_timeout.is_some()),
            ("spec.retry.attempts", self.attempts.is_some() && other.attempts.is_some()),
            ("spec.retry.codes", self.codes.is_some() && other.codes.is_some()),
            ("spec.retry.backoff", self.backoff.is_some() && other.backoff.is_some()),
            ("spec.retry.methods", self.methods.is_some() && other.methods.is_some()),
            ("spec.retry.budget", self.budget.is_some() && other.budget.is_some()),
        ]
        .into_iter()
        .filter_map(|(field, both)| both.then_some(field))
        .collect()
    }
}

/// The traffic policies of one point, merged as far as that is possible without a request.
#[derive(Clone, Debug, Default)]
pub struct TrafficSet {
    /// What holds where no policy with a `when` applies.
    base: Settings,
    /// All of them, strongest first; empty where none has a `when`.
    ordered: Vec<Layer>,
}

#[derive(Clone, Debug)]
enum Layer {
    Own(Settings),
    Policy(Arc<Compiled>),
}

impl TrafficSet {
    /// Merges `policies`, strongest first, under a route's `own` fields. Policies that are no traffic policies are passed over.
    pub fn new(own: Settings, policies: Vec<Arc<Compiled>>) -> Self {
        let mut base = own.clone();
        for policy in policies.iter().filter(|policy| policy.when.is_none()) {
            if let Body::Traffic(settings) = &policy.body {
                base = base.over(settings);
            }
        }
        let ordered = if policies.iter().any(|policy| policy.when.is_some()) {
            std::iter::once(Layer::Own(own)).chain(policies.into_iter().map(Layer::Policy)).collect()
        } else {
            Vec::new()
        };
        Self { base, ordered }
    }

    /// The settings where nothing is known of the request.
    pub fn base(&self) -> &Settings {
        &self.base
    }

    /// The settings for this Exchange. A `when` that is not true, fails or lacks a fact leaves its policy out: a traffic policy never refuses.
    pub fn resolve(&self, exchange: &Exchange<'_>) -> Cow<'_, Settings> {
        if self.ordered.is_empty() {
            return Cow::Borrowed(&self.base);
        }
        let merged = self.ordered.iter().fold(Settings::default(), |merged, layer| match layer {
            Layer::Own(settings) => merged.over(settings),
            Layer::Policy(policy) => match &policy.body {
                Body::Traffic(settings) if applies(policy, exchange) => merged.over(settings),
                _ => merged,
            },
        });
        Cow::Owned(merged)
    }
}

fn applies(policy: &Compiled, exchange: &Exchange<'_>) -> bool {
    policy.when.as_ref().is_none_or(|when| when.test(exchange) == Outcome::Value(true))
}
