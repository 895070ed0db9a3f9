//! Runs the guards of one point: authorization from the outermost target in, then the posture, then every limit at once.

use super::{Attached, Body, Compiled, Decision, GuardSet, Kind, Level, Outcome, PostureAt, Purpose, Step};
use crate::exchange::Exchange;
use crate::expression;
use crate::key::Key;
use crate::mesh::Posture;
use crate::rate_limit::{self, Claims};
use crate::reason::Reason;
use crate::target::{Inheritance, Target, TargetKind};
use crate::verdict::Denial;
use smallvec::SmallVec;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// Whether a policy holds for this Exchange.
#[derive(Clone, Debug, PartialEq)]
enum Holds {
    Yes,
    /// Its `when` needs an absent fact: denies hold, allows do not.
    Absent,
    /// Its `when` is false.
    No,
    /// `inheritance: Default`, and something more specific is attached.
    Displaced,
    /// Its `when` failed.
    Failed,
}

/// One policy of the set, flattened.
struct Guard<'a> {
    attached: &'a Attached,
    target: &'a Target,
    level: usize,
    holds: Holds,
    /// Whether it refused or, auditing, would have: once is enough.
    refused: bool,
    /// Written for explain only.
    said: Option<(Outcome, Option<Arc<str>>, String)>,
}

struct Run<'a> {
    exchange: &'a Exchange<'a>,
    purpose: Purpose,
    /// Policies whose limits have counted this request at an earlier point.
    counted: &'a [Arc<Key>],
    guards: SmallVec<[Guard<'a>; 8]>,
    decision: Decision,
}

/// What a filter could not tell, because it failed or panicked.
struct Fault {
    rule: Option<Arc<str>>,
    problem: String,
}

pub(super) fn run(set: &GuardSet, exchange: &Exchange<'_>, purpose: Purpose, counted: &[Arc<Key>]) -> Decision {
    let mut run = Run { exchange, purpose, counted, guards: SmallVec::new(), decision: Decision::default() };
    for (level, Level { target, policies }) in set.levels.iter().enumerate() {
        for attached in policies {
            run.guards.push(Guard { attached, target, level, holds: holds(&attached.policy, exchange), refused: false, said: None });
        }
    }
    run.displace();
    let denial = (0..set.levels.len()).find_map(|level| run.authorize(level));
    let denial = denial.or_else(|| set.posture.as_ref().and_then(|posture| run.posture(posture)));
    let denial = denial.or_else(|| if purpose == Purpose::Recheck { None } else { run.limit() });
    run.finish(denial, set.posture.as_ref())
}

/// Runs a filter. A panic in one is a bug of ours; the request it was deciding on is refused and nothing else is harmed.
fn caught<T>(filter: impl FnOnce() -> T) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(filter)).map_err(|_| Fault { rule: None, problem: "the filter panicked".into() })
}

fn holds(policy: &Compiled, exchange: &Exchange<'_>) -> Holds {
    let Some(when) = &policy.when else { return Holds::Yes };
    match caught(|| when.test(exchange)) {
        Ok(expression::Outcome::Value(true)) => Holds::Yes,
        Ok(expression::Outcome::Value(false)) => Holds::No,
        Ok(expression::Outcome::Absent) => Holds::Absent,
        Ok(expression::Outcome::Error(_)) | Err(_) => Holds::Failed,
    }
}

/// Whether `inner` is a closer target of the same request than `outer`. Two Services over one workload stand side by side: a policy on the
/// one must not take a guard off the other.
fn is_more_specific(inner: &Target, outer: &Target) -> bool {
    let other_service = inner.kind == TargetKind::Service
        && outer.kind == TargetKind::Service
        && (&inner.namespace, &inner.name) != (&outer.namespace, &outer.name);
    inner.rank() > outer.rank() && !other_service
}

impl<'a> Guard<'a> {
    fn policy(&self) -> &'a Compiled {
        &self.attached.policy
    }

    fn active(&self) -> bool {
        !matches!(self.holds, Holds::No | Holds::Displaced)
    }

    fn audits(&self) -> bool {
        matches!(&self.policy().body, Body::Authorization(filter) if filter.audits())
    }

    fn denial(&self, reason: Reason, rule: Option<&Arc<str>>, detail: &str) -> Denial {
        let policy = self.policy();
        let hidden = match &policy.body {
            Body::Authorization(filter) => filter.hides(),
            Body::RateLimit(filter) => filter.hides(),
            Body::Refuse { hidden, .. } => *hidden,
            Body::Traffic(_) => false,
        };
        Denial { policy: Some(policy.key.clone()), rule: rule.cloned(), hidden, ..Denial::of(reason, detail) }
    }

    fn fault(&self, fault: &Fault) -> Denial {
        self.denial(Reason::PolicyError, fault.rule.as_ref(), "A policy that guards this target failed while it ran.")
    }
}

impl<'a> Run<'a> {
    /// `inheritance: Default`: decided from the inside out, so that what is displaced displaces nothing. What may not apply here, or refuses
    /// nobody, displaces nothing either: by leaving a header out nobody takes a guard off.
    fn displace(&mut self) {
        for outer in (0..self.guards.len()).rev() {
            let guard = &self.guards[outer];
            if guard.policy().inheritance != Inheritance::Default || !guard.active() {
                continue;
            }
            let closer = |other: &Guard<'_>| {
                other.holds == Holds::Yes
                    && !other.audits()
                    && other.policy().key.kind == guard.policy().key.kind
                    && is_more_specific(other.target, guard.target)
            };
            if self.guards.iter().any(closer) {
                self.guards[outer].holds = Holds::Displaced;
            }
        }
    }

    fn say(&mut self, index: usize, outcome: Outcome, rule: Option<&Arc<str>>, detail: impl Into<String>) {
        if self.purpose == Purpose::Explain {
            self.guards[index].said = Some((outcome, rule.cloned(), detail.into()));
        }
    }

    /// A refusal of guard `index`: it holds unless the policy only audits.
    fn refuse(&mut self, index: usize, denial: Denial, detail: &str) -> Option<Denial> {
        self.guards[index].refused = true;
        let rule = denial.rule.clone();
        let audits = self.guards[index].audits();
        self.say(index, if audits { Outcome::Audited } else { Outcome::Denied }, rule.as_ref(), detail);
        if audits {
            // A policy on two targets of one path reports once.
            if !self.decision.audited.contains(&denial) {
                self.decision.audited.push(denial);
            }
            return None;
        }
        Some(denial)
    }

    /// One target: any deny denies; if there are allow rules, one must match.
    fn authorize(&mut self, level: usize) -> Option<Denial> {
        let members: SmallVec<[usize; 4]> = (0..self.guards.len()).filter(|index| self.guards[*index].level == level).collect();
        for &index in &members {
            if let Some(denial) = self.deny(index) {
                return Some(denial);
            }
        }
        let mut first = None;
        let mut allowed = false;
        let mut silent: SmallVec<[usize; 4]> = SmallVec::new();
        for &index in &members {
            let guard = &self.guards[index];
            let Body::Authorization(filter) = &guard.policy().body else { continue };
            if !guard.active() || !filter.has_allow() || guard.holds == Holds::Failed || guard.refused {
                continue;
            }
            if !filter.audits() {
                first = first.or(Some(index));
                if allowed {
                    self.say(index, Outcome::Passed, None, "another policy of this target allows the request");
                    continue;
                }
            }
            let exchange = self.exchange;
            let matched = if guard.holds == Holds::Absent {
                Ok(None)
            } else {
                caught(|| filter.allows(exchange)).and_then(|found| found.map_err(Fault::from))
            };
            match matched {
                Err(fault) => {
                    let denial = self.guards[index].fault(&fault);
                    if let Some(denial) = self.refuse(index, denial, &fault.problem) {
                        return Some(denial);
                    }
                }
                Ok(Some(rule)) => {
                    self.say(index, Outcome::Allowed, Some(rule), "this rule allows the request");
                    if !filter.audits() {
                        allowed = true;
                        self.decision.allowed_by = Some((self.guards[index].policy().key.clone(), rule.clone()));
                    }
                }
                Ok(None) => {
                    self.say(index, Outcome::Passed, None, "none of its allow rules matches");
                    silent.push(index);
                }
            }
        }
        self.nothing_allowed(first.filter(|_| !allowed), allowed, &silent)
    }

    /// No allow rule matched: the first policy with allow rules refuses, and those that audit would have.
    fn nothing_allowed(&mut self, refusing: Option<usize>, allowed: bool, silent: &[usize]) -> Option<Denial> {
        const DETAIL: &str = "No rule allows this request.";
        let mut denial = None;
        for &index in silent {
            let Body::Authorization(filter) = &self.guards[index].policy().body else { continue };
            if (filter.audits() && !allowed) || Some(index) == refusing {
                let refused = self.guards[index].denial(Reason::AuthorizationDenied, None, DETAIL);
                let kept = self.refuse(index, refused, "none of its allow rules matches, nor one of another policy on this target");
                denial = denial.or(kept);
            }
        }
        denial
    }

    /// What refuses without looking at other policies: a guard that cannot be enforced, a failing condition, a deny rule.
    fn deny(&mut self, index: usize) -> Option<Denial> {
        let guard = &self.guards[index];
        match (&guard.holds, &guard.policy().body) {
            (Holds::No, _) => {
                self.say(index, Outcome::NotApplicable, None, "its `when` is false");
                None
            }
            (Holds::Displaced, _) => {
                self.say(index, Outcome::NotApplicable, None, "`inheritance: Default`, and a more specific policy of its kind holds");
                None
            }
            (Holds::Failed, Body::Authorization(_)) => {
                let fault = Fault { rule: None, problem: "its `when` failed".into() };
                let denial = guard.fault(&fault);
                self.refuse(index, denial, &fault.problem)
            }
            // A limit that cannot be enforced lets nobody in; who is in was counted, or came before it.
            (_, Body::Refuse { .. }) if self.purpose == Purpose::Recheck && guard.policy().key.kind == Kind::RateLimitPolicy.as_str() => {
                None
            }
            (_, Body::Refuse { reason, problem, .. }) => {
                let (denial, problem) =
                    (guard.denial(*reason, None, "A policy that guards this target cannot be enforced."), problem.clone());
                self.refuse(index, denial, &problem)
            }
            (_, Body::Authorization(filter)) => {
                let exchange = self.exchange;
                match caught(|| filter.denies(exchange)).and_then(|found| found.map_err(Fault::from)) {
                    Ok(None) => {
                        self.say(index, Outcome::Passed, None, "no deny rule matches");
                        None
                    }
                    Ok(Some(rule)) => {
                        let denial = guard.denial(Reason::AuthorizationDenied, Some(rule), "A rule denies this request.");
                        self.refuse(index, denial, "this rule denies the request")
                    }
                    Err(fault) => {
                        let denial = guard.fault(&fault);
                        self.refuse(index, denial, &fault.problem)
                    }
                }
            }
            (_, Body::RateLimit(_) | Body::Traffic(_)) => None,
        }
    }

    /// What holds where no allow rule is attached.
    fn posture(&self, at: &PostureAt) -> Option<Denial> {
        let attached = self.guards.iter().any(|guard| {
            guard.active() && matches!(&guard.policy().body, Body::Authorization(filter) if filter.has_allow() && !filter.audits())
        });
        (!attached && !at.admits(self.exchange))
            .then(|| Denial::of(Reason::PostureDenied, "No rule is attached that would allow this request."))
    }

    /// Every limit of every policy has room, or none is counted.
    fn limit(&mut self) -> Option<Denial> {
        let mut claims = Claims::default();
        for index in 0..self.guards.len() {
            let guard = &self.guards[index];
            let Body::RateLimit(filter) = &guard.policy().body else { continue };
            if !guard.active() {
                continue;
            }
            let key = guard.policy().key.clone();
            let again = self.guards[..index].iter().any(|earlier| earlier.policy().key == key && earlier.active());
            if again || self.counted.contains(&key) {
                self.say(index, Outcome::Passed, None, "attached to an outer target too, and counted there");
                continue;
            }
            let exchange = self.exchange;
            let added = match (&guard.holds, &guard.attached.buckets) {
                (Holds::Failed, _) => Err(Fault { rule: None, problem: "its `when` failed".into() }),
                // Whoever builds the set gives each of these policies its buckets; without them nothing can be counted, so nothing passes.
                (_, None) => Err(Fault { rule: None, problem: "it has no buckets".into() }),
                (_, Some(buckets)) => caught(|| claims.add(index, filter, buckets, exchange)),
            };
            if let Err(fault) = added {
                let denial = guard.fault(&fault);
                return self.refuse(index, denial, &fault.problem);
            }
            self.decision.counted.push(key);
        }
        if claims.is_empty() {
            return None;
        }
        let standings = claims.settle(self.exchange.now, self.purpose == Purpose::Live);
        self.decision.fields = rate_limit::fields(&standings);
        let mut denial: Option<(usize, Denial)> = None;
        for one in &standings {
            let wait = Some(one.standing.wait);
            if !one.standing.room {
                // The longest wait of all: after it the request passes, if nobody else came.
                if denial.as_ref().is_none_or(|(_, worst)| worst.retry_after < wait) {
                    let refused = self.guards[one.policy].denial(Reason::RateLimited, Some(one.limit), "A rate limit is used up.");
                    denial = Some((one.policy, Denial { retry_after: wait, ..refused }));
                }
            } else if self.guards[one.policy].said.is_none() {
                self.say(one.policy, Outcome::Passed, None, "its limits have room");
            }
        }
        let (index, denial) = denial?;
        self.refuse(index, denial, "this limit is used up")
    }

    fn finish(mut self, denial: Option<Denial>, posture: Option<&PostureAt>) -> Decision {
        if denial.is_some() {
            self.decision.allowed_by = None;
        }
        if self.purpose == Purpose::Explain {
            for guard in &self.guards {
                let not_reached = || (Outcome::NotReached, None, "another guard decided before".to_string());
                let (outcome, rule, detail) = match &guard.said {
                    Some(said) => said.clone(),
                    None => not_reached(),
                };
                let rule = rule.map(|rule| rule.to_string());
                self.decision.steps.push(Step {
                    policy: Key::clone(&guard.policy().key),
                    target: guard.target.to_string(),
                    outcome,
                    rule,
                    detail,
                });
            }
            if let (Some(at), true) = (posture, denial.as_ref().is_some_and(|denial| denial.reason == Reason::PostureDenied)) {
                let policy = Key::new("MeshConfig", "", "default");
                let detail = format!("posture {:?}: no allow rule is attached", at.posture);
                self.decision.steps.push(Step { policy, target: "Mesh default".into(), outcome: Outcome::Denied, rule: None, detail });
            }
        }
        self.decision.denial = denial;
        self.decision
    }
}

impl From<crate::authorization::RuleError> for Fault {
    fn from(error: crate::authorization::RuleError) -> Self {
        Self { rule: Some(error.rule), problem: error.problem }
    }
}

impl PostureAt {
    /// Whether the posture lets this caller in.
    fn admits(&self, exchange: &Exchange<'_>) -> bool {
        let ours = |principal: &&crate::identity::SpiffeId| {
            principal.trust_domain() == self.identity.trust_domain() || self.aliases.contains(principal.trust_domain())
        };
        let member = exchange.source.principal.as_ref().filter(ours);
        match self.posture {
            Posture::AllowAll => true,
            Posture::MeshOnly => member.is_some(),
            Posture::SameNamespace => member.is_some_and(|principal| principal.namespace() == self.identity.namespace()),
            Posture::Deny => false,
        }
    }
}
