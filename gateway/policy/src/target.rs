//! What a policy holds for: targets, chains, and the envelope that every policy shares.

use crate::key::Key;
use crate::list::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The kinds a policy may name, from the outside in. See [`TargetKind::rank`] for what beats what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// Everything the platform governs (`MeshConfig` or `XMesh`).
    Mesh,
    /// One namespace.
    Namespace,
    /// One Gateway, or one of its listeners.
    Gateway,
    /// One ListenerSet.
    ListenerSet,
    /// One Service, or one of its ports.
    Service,
    /// One workload (a Pod).
    Workload,
    /// One HTTPRoute, or one of its rules.
    HTTPRoute,
    /// One GRPCRoute, or one of its rules.
    GRPCRoute,
    /// One TLSRoute.
    TLSRoute,
    /// One TCPRoute.
    TCPRoute,
}

/// One thing a policy is attached to: an object or a section of it (listener, route rule, Service port).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Target {
    /// What kind of object.
    pub kind: TargetKind,
    /// Its namespace; empty for Mesh and for Namespace itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Listener name, rule name or port name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
}

impl Target {
    /// A whole object.
    pub fn new(kind: TargetKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into(), section: None }
    }

    /// A section of it.
    pub fn section(&self, section: &str) -> Self {
        Self { section: Some(section.into()), ..self.clone() }
    }

    /// How specific it is: of two settings of one field on one path the higher rank wins.
    /// `Mesh < Namespace < Gateway < listener < ListenerSet < Service < port, workload < route < rule`.
    pub fn rank(&self) -> u8 {
        let section = u8::from(self.section.is_some());
        match self.kind {
            TargetKind::Mesh => 0,
            TargetKind::Namespace => 1,
            TargetKind::Gateway => 2 + section,
            TargetKind::ListenerSet => 4 + section,
            TargetKind::Service => 6 + section,
            TargetKind::Workload => 7,
            TargetKind::HTTPRoute | TargetKind::GRPCRoute | TargetKind::TLSRoute | TargetKind::TCPRoute => 8 + section,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        self.section.iter().try_for_each(|section| write!(f, "#{section}"))
    }
}

/// A target as somebody writes it. The kind decides the group; the namespace is the policy's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetRef {
    /// API group; may be left out, because the kind decides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// `Gateway`, `ListenerSet`, `HTTPRoute`, `GRPCRoute`, `TCPRoute`, `TLSRoute`, `Service`, `Pod`, `Namespace`, `MeshConfig` or `XMesh`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the object, in the policy's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Listener name, rule name, or Service port name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

impl TargetKind {
    /// The kind that a policy writes as `kind`: `MeshConfig` and `XMesh` mean the mesh, `Pod` a workload.
    pub fn parse(kind: &str) -> Option<Self> {
        Some(match kind {
            "MeshConfig" | "XMesh" => Self::Mesh,
            "Namespace" => Self::Namespace,
            "Gateway" => Self::Gateway,
            "ListenerSet" => Self::ListenerSet,
            "Service" => Self::Service,
            "Pod" => Self::Workload,
            "HTTPRoute" => Self::HTTPRoute,
            "GRPCRoute" => Self::GRPCRoute,
            "TLSRoute" => Self::TLSRoute,
            "TCPRoute" => Self::TCPRoute,
            _ => return None,
        })
    }

    /// The API group of `kind`, as a policy writes it.
    pub fn group(self, kind: &str) -> &'static str {
        match self {
            Self::Mesh if kind == "XMesh" => "gateway.networking.x-k8s.io",
            Self::Mesh => "selvage.dev",
            Self::Namespace | Self::Service | Self::Workload => "",
            _ => "gateway.networking.k8s.io",
        }
    }

    /// Whether parts of it (listeners, rules, ports) can be named.
    fn has_sections(self) -> bool {
        !matches!(self, Self::Mesh | Self::Namespace | Self::Workload)
    }
}

/// What a policy's envelope must be, whatever its kind: the same bounds as in the CRDs, for files too.
pub(crate) fn check(envelope: &dyn Envelope, allowed: [Inheritance; 2]) -> Result<(), Invalid> {
    let (refs, selectors) = (envelope.target_refs(), envelope.target_selectors());
    if refs.is_empty() && selectors.is_empty() {
        return Err(Invalid::field(
            "spec.targetRefs",
            "a policy needs a target; name one in `targetRefs` or choose some with `targetSelectors`",
        ));
    }
    Invalid::at_most("spec.targetRefs", refs.len(), 16)?;
    Invalid::at_most("spec.targetSelectors", selectors.len(), 16)?;
    for (index, target) in refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let kind = target_kind(&field, &target.kind, target.group.as_deref())?;
        if target.name.is_empty() || target.name.len() > 253 {
            return Err(Invalid::field(format!("{field}.name"), "a name has 1 to 253 characters"));
        }
        if target.section_name.is_some() && !kind.has_sections() {
            return Err(Invalid::field(format!("{field}.sectionName"), format!("a {} has no sections; leave it out", target.kind)));
        }
        if target.section_name.as_ref().is_some_and(|section| section.is_empty() || section.len() > 253) {
            return Err(Invalid::field(format!("{field}.sectionName"), "a section name has 1 to 253 characters"));
        }
    }
    for (index, selector) in selectors.iter().enumerate() {
        let field = format!("spec.targetSelectors[{index}]");
        target_kind(&field, &selector.kind, selector.group.as_deref())?;
        if selector.match_labels.is_empty() || selector.match_labels.len() > 16 {
            return Err(Invalid::field(format!("{field}.matchLabels"), "give 1 to 16 labels"));
        }
    }
    if !allowed.contains(&envelope.inheritance()) {
        let words = allowed.map(|word| format!("`{word:?}`")).join(" or ");
        return Err(Invalid::field(
            "spec.inheritance",
            format!("`{:?}` has no meaning for this kind; write {words}", envelope.inheritance()),
        ));
    }
    Ok(())
}

fn target_kind(field: &str, kind: &str, group: Option<&str>) -> Result<TargetKind, Invalid> {
    let known = "Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, Service, Pod, Namespace, MeshConfig, XMesh";
    let parsed = TargetKind::parse(kind).ok_or_else(|| {
        Invalid::field(format!("{field}.kind"), format!("`{kind}` is not a kind that policies attach to; write one of {known}"))
    })?;
    match group {
        Some(group) if group != parsed.group(kind) => Err(Invalid::field(
            format!("{field}.group"),
            format!("{kind} is not in group `{group}`; leave the field out or write `{}`", parsed.group(kind)),
        )),
        _ => Ok(parsed),
    }
}

/// Targets chosen by label, in the policy's own namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetSelector {
    /// API group; may be left out, because the kind decides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// Kind of the objects chosen: as in `targetRefs`; `Pod` for workloads.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Labels that an object must all carry.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// Whether an outer policy holds beside more specific ones of its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Inheritance {
    /// It holds whatever else is attached.
    #[default]
    Always,
    /// Guards: it holds only where nothing more specific of this kind is attached.
    Default,
    /// Traffic and observe policies: its fields win over more specific ones.
    Override,
}

/// What every policy has: whom it holds for, and when. Nested in each Spec's JSON at the top level by field, never flattened by serde.
pub trait Envelope {
    /// Named targets, 0 to 16.
    fn target_refs(&self) -> &[TargetRef];
    /// Targets by label, 0 to 16.
    fn target_selectors(&self) -> &[TargetSelector];
    /// How it combines with policies further in.
    fn inheritance(&self) -> Inheritance;
    /// CEL: it applies only where this is true.
    fn when(&self) -> Option<&str>;
}

impl Target {
    /// The Key of the object it names, for messages and status.
    pub fn object(&self) -> Key {
        let kind = match self.kind {
            TargetKind::Mesh => "MeshConfig".to_string(),
            TargetKind::Workload => "Pod".to_string(),
            other => format!("{other:?}"),
        };
        Key::new(kind, self.namespace.clone(), self.name.clone())
    }
}
