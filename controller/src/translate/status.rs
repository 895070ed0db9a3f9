//! What is said of each object, in the shape that its `status` has.
//!
//! ```text
//! GatewayClass                   conditions
//! Gateway, ListenerSet           conditions, listeners[] (conditions, attachedRoutes, supportedKinds)
//! routes: status.parents[]       parents[] (reference, conditions), in the order of spec.parentRefs
//! policies: status.ancestors[]   parents[] (reference, conditions), in the order of spec.targetRefs, then by selector
//! ```
//!
//! Here is what follows from the World alone: `Accepted`, `ResolvedRefs`, `Conflicted`, `PartiallyInvalid` and the like. `Programmed` and `Enforced`
//! need to know what proxies hold, and are added by whoever knows. An object that is nobody's of ours (a Gateway of another
//! class, a route's reference to such a Gateway) has no entry: its status is not ours to write.

use selvage_policy::{Key, Target};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is said of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `metadata.generation` of what was judged: `observedGeneration` of every condition in it. 0 where the source does not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `status.conditions`: of GatewayClasses, Gateways and ListenerSets, and of objects whose spec cannot be read at all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// `status.listeners`: of Gateways and ListenerSets, in the order written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<ListenerStatus>,
    /// `status.attachedListenerSets`: of Gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<i32>,
    /// `status.parents` of routes, `status.ancestors` of policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
}

/// What is said of one listener of a Gateway or ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// The listener's name.
    pub name: String,
    /// Routes that are attached to it and accepted.
    pub attached_routes: i32,
    /// Kinds of routes it takes.
    pub supported_kinds: Vec<GroupKind>,
    /// `Accepted`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Condition>,
    /// The Resource that proxies are told of it, if they are told anything.
    #[serde(skip)]
    pub resource: Option<Key>,
}

/// A kind of route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupKind {
    /// API group.
    pub group: &'static str,
    /// Kind.
    pub kind: &'static str,
}

/// What is said of an object at one of the things it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// `parentRef` of a route, `ancestorRef` of a policy.
    pub reference: Reference,
    /// `Accepted`, `ResolvedRefs`, and more where there is something to say.
    pub conditions: Vec<Condition>,
    /// Of a policy: what the reference stands for, hence where it is to be enforced. Empty where it stands for nothing.
    #[serde(skip)]
    pub targets: Vec<Target>,
}

/// A reference as it stands in `parentRef` and `ancestorRef`. For a route it repeats what somebody wrote, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// API group; empty is the core group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Absent: the object's own, or cluster-scoped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Listener, rule or port name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// One condition, as in Kubernetes' `metav1.Condition`; when it changed last is the writer's to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Conflicted` …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it is so.
    pub status: Truth,
    /// One word.
    pub reason: &'static str,
    /// What to do about it, where it is not as it should be.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody knows yet.
    Unknown,
}

/// Why something is not as somebody wrote it: one word, and a sentence that says what to do.
pub(crate) type Problem = (&'static str, String);

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Truth {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Condition {
    /// `kind` holds, for `reason`.
    pub fn holds(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Truth::True, reason, message: message.into() }
    }

    /// `kind` does not hold, for `reason`.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, status: Truth::False, reason, message: message.into() }
    }

    /// `Accepted`, `ResolvedRefs`: the reason of a True one is its own name.
    pub(crate) fn of(kind: &'static str, outcome: Result<(), Problem>) -> Self {
        match outcome {
            Ok(()) => Self::holds(kind, kind, ""),
            Err((reason, message)) => Self::fails(kind, reason, message),
        }
    }

    /// Whether it tells of something that is not as somebody may expect. Most conditions are good when True; a few when False.
    pub fn is_bad(&self) -> bool {
        let good = match self.kind {
            "Conflicted" | "PartiallyInvalid" => Truth::False,
            // True of every wildcard beside a host of its own; nothing is to be done.
            "OverlappingTLSConfig" => self.status,
            _ => Truth::True,
        };
        self.status != good || self.reason == "ListenersNotValid"
    }
}

impl Reference {
    /// An object by kind; the group is the one that kind has.
    pub fn object(group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self { group: group.into(), kind: kind.into(), namespace: namespace.map(Into::into), name: name.into(), ..Self::default() }
    }
}

impl std::fmt::Display for Reference {
    /// `Gateway/shop/public#http:80`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/", self.kind)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)?;
        self.section_name.iter().try_for_each(|section| write!(f, "#{section}"))?;
        self.port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

impl Status {
    /// Everything that is not as somebody may expect: where (empty: the object as a whole) and what.
    pub fn complaints(&self) -> impl Iterator<Item = (String, &Condition)> {
        let own = self.conditions.iter().map(|condition| (String::new(), condition));
        let listeners = self.listeners.iter().flat_map(|one| one.conditions.iter().map(move |condition| (one.name.clone(), condition)));
        let parents =
            self.parents.iter().flat_map(|one| one.conditions.iter().map(move |condition| (one.reference.to_string(), condition)));
        own.chain(listeners).chain(parents).filter(|(_, condition)| condition.is_bad())
    }
}

/// One sentence for each complaint, then what is not ours to write.
pub(super) fn warnings(statuses: &BTreeMap<Key, Status>, remarks: &[String]) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    for (object, status) in statuses {
        for (at, condition) in status.complaints() {
            let at = if at.is_empty() { at } else { format!(" at {at}") };
            let is = if condition.status == Truth::True { "" } else { "not " };
            warnings.push(format!("{object}{at}: {is}{}, {}: {}", condition.kind, condition.reason, condition.message));
        }
    }
    warnings.extend(remarks.iter().cloned());
    warnings
}
