//! The one list of policy kinds, and how the guards of one point are run over an Exchange.
//!
//! ```text
//! PolicySpec --compile--> Compiled --attach (config)--> GuardSet --run(Exchange)--> Decision
//! ```

use crate::authorization::{self, AuthorizationPolicySpec};
use crate::exchange::Exchange;
use crate::expression::Expression;
use crate::identity::{SpiffeId, TrustDomain};
use crate::key::Key;
use crate::mesh::{PathHandling, Posture};
use crate::rate_limit::{self, RateLimitPolicySpec};
use crate::reason::Reason;
use crate::target::{self, Envelope, Inheritance, Target};
use crate::traffic::{self, TrafficPolicySpec};
use crate::verdict::{BodyNeed, Call, Denial};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

mod run;
#[cfg(test)]
mod tests;

/// What becomes of a Resource's attachments when its spec cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    /// Structure: listeners, routes, backends, certificates.
    Core,
    /// May refuse requests: if it cannot be used, its attachments refuse.
    Guard,
    /// Says how to reach a target: if it cannot be used, it is dropped whole.
    Traffic,
    /// Watches: if it cannot be used, it is dropped whole.
    Observe,
}

/// A policy kind, in order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// First: whoever may not call must not use up anybody's limit.
    AuthorizationPolicy,
    /// Second: counts only what is allowed.
    RateLimitPolicy,
    /// No filter: settings for the attempt.
    TrafficPolicy,
}

/// A policy as somebody wrote it.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicySpec {
    /// AuthorizationPolicy
    Authorization(AuthorizationPolicySpec),
    /// RateLimitPolicy
    RateLimit(RateLimitPolicySpec),
    /// TrafficPolicy
    Traffic(TrafficPolicySpec),
}

/// Why a policy cannot be enforced.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// The kind is not one of ours.
    #[error("kind `{0}` is not known to this version of Selvage")]
    UnknownKind(String),
    /// The spec does not parse.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field, as in the manifest: `spec.rules[0].when`.
        field: String,
        /// What is wrong with it and what to write instead.
        problem: String,
    },
    /// Something it refers to does not exist.
    #[error("{field}: {reference} does not exist; create it or correct the name")]
    Unresolved {
        /// Path of the field.
        field: String,
        /// The reference.
        reference: String,
    },
}

impl Invalid {
    /// `problem` says what is wrong with `field` and what to write instead.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn at_most(field: &str, length: usize, most: usize) -> Result<(), Self> {
        Self::between(field, length, 0, most)
    }

    pub(crate) fn between(field: &str, length: usize, least: usize, most: usize) -> Result<(), Self> {
        if (least..=most).contains(&length) {
            Ok(())
        } else {
            Err(Self::field(field, format!("the list has {length} items; write {least} to {most}")))
        }
    }

    /// Names of rules and limits stand in header fields, metrics and logs.
    pub(crate) fn name(field: &str, name: &str) -> Result<(), Self> {
        let ok =
            (1..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if ok { Ok(()) } else { Err(Self::field(field, format!("`{name}` is no name: use 1 to 63 letters, digits, `-`, `_` or `.`"))) }
    }
}

/// What a compile may look at besides the spec.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The policy itself.
    pub key: &'a Key,
    /// The platform's trust domain.
    pub trust_domain: &'a TrustDomain,
    /// Its aliases.
    pub aliases: &'a [TrustDomain],
    /// The one setting of the canonical request: paths in rules must be canonical under it.
    pub paths: PathHandling,
    /// Resolved references: see [`PolicySpec::references`].
    pub refs: &'a BTreeMap<String, String>,
}

/// What a policy compiled to.
#[derive(Debug)]
pub enum Body {
    /// AuthorizationPolicy
    Authorization(authorization::Filter),
    /// RateLimitPolicy
    RateLimit(rate_limit::Filter),
    /// TrafficPolicy
    Traffic(traffic::Settings),
    /// A guard that cannot be enforced: it refuses, by name.
    Refuse {
        /// In which way it cannot.
        reason: Reason,
        /// What is wrong with it.
        problem: Arc<str>,
        /// Whether callers are told nothing more.
        hidden: bool,
    },
}

/// A policy ready to run.
#[derive(Debug)]
pub struct Compiled {
    /// The object somebody wrote.
    pub key: Arc<Key>,
    /// How it combines with policies further in.
    pub inheritance: Inheritance,
    /// It applies only where this is true.
    pub when: Option<Expression>,
    /// When it was made: the older of two equals wins.
    pub created: i64,
    /// What it does.
    pub body: Body,
}

/// A compiled policy with the live state (buckets) that outlives configurations.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The policy.
    pub policy: Arc<Compiled>,
    /// Its counters; absent for kinds without any.
    pub buckets: Option<Arc<rate_limit::Buckets>>,
}

/// The policies attached to one target.
#[derive(Clone, Debug)]
pub struct Level {
    /// The target.
    pub target: Target,
    /// Its guards.
    pub policies: Vec<Attached>,
}

/// What holds where no allow rule is attached.
#[derive(Clone, Debug)]
pub struct PostureAt {
    /// The setting.
    pub posture: Posture,
    /// The target's identity: its namespace and trust domain decide who is near.
    pub identity: SpiffeId,
    /// Other names of our trust domain.
    pub aliases: Arc<[TrustDomain]>,
}

/// Every guard of one point (a rule of a route, a workload's port), outermost target first.
#[derive(Clone, Debug, Default)]
pub struct GuardSet {
    /// Levels, outermost first; levels without policies are left out.
    pub levels: Vec<Level>,
    /// Applied where no allow rule is attached; absent at points that are not the target's own.
    pub posture: Option<PostureAt>,
}

/// Whether a run counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A real request: counters move.
    Live,
    /// Only a question: nothing moves, and every policy's outcome is written down.
    Explain,
    /// Whether what was let in and is still under way would be let in now: limits were settled when it began and are not asked.
    Recheck,
}

/// How far a run got.
#[derive(Debug)]
pub enum Progress {
    /// It is decided.
    Done(Decision),
    /// Somebody remote has to be asked.
    Ask(Call),
}

/// The outcome of all guards of one point.
#[derive(Debug, Default)]
pub struct Decision {
    /// The refusal, if there is one.
    pub denial: Option<Denial>,
    /// The policy and rule that allowed it, for the access log.
    pub allowed_by: Option<(Arc<Key>, Arc<str>)>,
    /// Policies in audit mode that would have refused.
    pub audited: Vec<Denial>,
    /// Policies whose limits this request counted under: at another point of its way through this proxy it is not counted again.
    pub counted: Vec<Arc<Key>>,
    /// Response fields (`RateLimit`, `RateLimit-Policy`), name and value.
    pub fields: Vec<(&'static str, String)>,
    /// What each policy said; filled for [`Purpose::Explain`] only.
    pub steps: Vec<Step>,
}

impl Decision {
    /// Takes over what other guards of the same request said, later on its way through this proxy. Returns their refusal.
    pub fn join(&mut self, mut later: Self) -> Option<Denial> {
        self.fields.append(&mut later.fields);
        self.counted.append(&mut later.counted);
        self.steps.append(&mut later.steps);
        self.allowed_by = later.allowed_by.or(self.allowed_by.take());
        // A policy that was asked at several points reports once.
        later.audited.retain(|denial| !self.audited.contains(denial));
        self.audited.append(&mut later.audited);
        later.denial
    }
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The policy.
    pub policy: Key,
    /// Where it is attached.
    pub target: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// The rule or limit that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// One sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// What one policy said, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// One of its allow rules matched.
    Allowed,
    /// It has nothing against it.
    Passed,
    /// It refused.
    Denied,
    /// It would have refused, but only audits.
    Audited,
    /// Its `when` is false.
    NotApplicable,
    /// Another of the same target decided before.
    NotReached,
}

impl Kind {
    /// Every kind, in order of execution.
    pub const ALL: [Self; 3] = [Self::AuthorizationPolicy, Self::RateLimitPolicy, Self::TrafficPolicy];

    /// The Kubernetes kind.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RateLimitPolicy => "RateLimitPolicy",
            Self::TrafficPolicy => "TrafficPolicy",
        }
    }

    /// What becomes of its attachments when it cannot be used.
    pub const fn class(self) -> Class {
        match self {
            Self::AuthorizationPolicy | Self::RateLimitPolicy => Class::Guard,
            Self::TrafficPolicy => Class::Traffic,
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| Invalid::UnknownKind(text.into()))
    }
}

impl PolicySpec {
    /// Parses the spec of a kind strictly: unknown fields are errors, by path.
    pub fn parse(kind: Kind, spec: &serde_json::Value) -> Result<Self, Invalid> {
        Ok(match kind {
            Kind::AuthorizationPolicy => Self::Authorization(parse(spec)?),
            Kind::RateLimitPolicy => Self::RateLimit(parse(spec)?),
            Kind::TrafficPolicy => Self::Traffic(parse(spec)?),
        })
    }

    /// What every policy has.
    pub fn envelope(&self) -> &dyn Envelope {
        match self {
            Self::Authorization(spec) => spec,
            Self::RateLimit(spec) => spec,
            Self::Traffic(spec) => spec,
        }
    }

    /// References the controller resolves into `refs`, with the field each stands in: `gateway:<namespace>/<name>` becomes the SPIFFE id of
    /// the Gateway's proxies. `namespace` is the policy's own.
    pub fn references(&self, namespace: &str) -> Vec<(String, String)> {
        match self {
            Self::Authorization(spec) => spec.references(namespace),
            Self::RateLimit(_) | Self::Traffic(_) => Vec::new(),
        }
    }
}

/// Parses a spec strictly; the error names the field.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(spec: &serde_json::Value) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "spec".to_string() } else { format!("spec.{path}") };
        Invalid::Field { field, problem: error.inner().to_string() }
    })
}

/// Whether a spec that cannot be used asks to hide its details, or may have asked for it.
fn may_hide(spec: &serde_json::Value) -> bool {
    match spec.as_object().map(|fields| fields.get("hideDetails")) {
        Some(None) => false,
        Some(Some(written)) => written.as_bool().unwrap_or(true),
        None => true,
    }
}

/// Compiles a policy. Pure: the controller calls it to admit, the proxy to run.
pub fn compile(spec: &PolicySpec, created: i64, context: Context<'_>) -> Result<Compiled, Invalid> {
    let guard = [Inheritance::Always, Inheritance::Default];
    let envelope = spec.envelope();
    let allowed = match spec {
        PolicySpec::Authorization(_) | PolicySpec::RateLimit(_) => guard,
        PolicySpec::Traffic(_) => [Inheritance::Always, Inheritance::Override],
    };
    target::check(envelope, allowed)?;
    let when = envelope.when().map(|when| Expression::compile(when).map_err(|problem| Invalid::field("spec.when", problem)));
    let body = match spec {
        PolicySpec::Authorization(spec) => Body::Authorization(spec.filter(&context)?),
        PolicySpec::RateLimit(spec) => Body::RateLimit(spec.filter()?),
        PolicySpec::Traffic(spec) => Body::Traffic(spec.settings()?),
    };
    Ok(Compiled { key: Arc::new(context.key.clone()), inheritance: envelope.inheritance(), when: when.transpose()?, created, body })
}

impl Compiled {
    /// A guard that could not be compiled: it refuses on its targets and says why. `spec` is as somebody wrote it.
    pub fn refusing(key: Key, created: i64, spec: &serde_json::Value, invalid: &Invalid) -> Self {
        let reason = match invalid {
            Invalid::UnknownKind(_) => Reason::PolicyUnknown,
            Invalid::Field { .. } => Reason::PolicyInvalid,
            Invalid::Unresolved { .. } => Reason::PolicyUnresolved,
        };
        let body = Body::Refuse { reason, problem: invalid.to_string().into(), hidden: may_hide(spec) };
        Self { key: Arc::new(key), inheritance: Inheritance::Always, when: None, created, body }
    }
}

impl GuardSet {
    /// Runs every guard. Never panics: a filter that does denies with `policy_error`.
    pub fn run(&self, exchange: &Exchange<'_>, purpose: Purpose) -> Progress {
        self.run_after(exchange, purpose, &[])
    }

    /// The same at a later point of the same request, whose limits of `counted` policies have counted it already.
    pub fn run_after(&self, exchange: &Exchange<'_>, purpose: Purpose, counted: &[Arc<Key>]) -> Progress {
        Progress::Done(run::run(self, exchange, purpose, counted))
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty() && self.posture.is_none()
    }

    /// How much of the body the guards need.
    pub fn body_need(&self) -> BodyNeed {
        BodyNeed::None
    }
}
