//! The kinds of objects that are watched, and which of them get a status from us.

use crate::crds::{self, GROUP, VERSION};
use crate::translate::GATEWAY_GROUP;
use crate::world::Name;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::watcher;
use selvage_policy::Key;
use std::sync::LazyLock;

/// One kind.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// API group; empty is the core group.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Its plural, in URLs.
    pub plural: &'static str,
    /// Restricts which of them are read.
    pub fields: Option<&'static str>,
    /// Whether they live in namespaces.
    pub namespaced: bool,
    /// What of their status is ours to write.
    pub status: StatusForm,
}

/// What of the status of a kind is ours to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusForm {
    /// Nothing.
    None,
    /// Of those of our controller, everything but conditions of types that we do not know.
    Whole,
    /// In `status.parents`, the entries with our controller's name.
    Parents,
    /// In `status.ancestors`, the entries with our controller's name.
    Ancestors,
}

impl Kind {
    const fn of(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Self { group, version, kind, plural, fields: None, namespaced: true, status: StatusForm::None }
    }

    const fn cluster_scoped(self) -> Self {
        Self { namespaced: false, ..self }
    }

    const fn only(self, fields: &'static str) -> Self {
        Self { fields: Some(fields), ..self }
    }

    const fn with_status(self, status: StatusForm) -> Self {
        Self { status, ..self }
    }

    /// As the client names it.
    pub fn resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) };
        ApiResource {
            group: self.group.into(),
            version: self.version.into(),
            api_version,
            kind: self.kind.into(),
            plural: self.plural.into(),
        }
    }

    /// All objects of the kind.
    pub fn everywhere(&self, client: Client) -> Api<DynamicObject> {
        Api::all_with(client, &self.resource())
    }

    /// Where one object of the kind is.
    pub fn at(&self, client: Client, object: &Name) -> Api<DynamicObject> {
        if self.namespaced { Api::namespaced_with(client, &object.namespace, &self.resource()) } else { self.everywhere(client) }
    }

    pub(super) fn watcher(&self) -> watcher::Config {
        let config = watcher::Config::default();
        match self.fields {
            Some(fields) => config.fields(fields),
            None => config,
        }
    }

    /// The key of an object of this kind.
    pub fn key(&self, object: &Name) -> Key {
        object.key(self.kind)
    }
}

/// Every kind that is watched.
pub static WATCHED: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let gateway = |kind, plural| Kind::of(GATEWAY_GROUP, "v1", kind, plural);
    let route = |kind, plural| gateway(kind, plural).with_status(StatusForm::Parents);
    let mut kinds = vec![
        Kind::of("", "v1", "Namespace", "namespaces").cluster_scoped(),
        Kind::of("", "v1", "Pod", "pods"),
        Kind::of("", "v1", "Service", "services"),
        Kind::of("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        // Nothing else in a Secret is ours to know.
        Kind::of("", "v1", "Secret", "secrets").only("type=kubernetes.io/tls"),
        gateway("GatewayClass", "gatewayclasses").cluster_scoped().with_status(StatusForm::Whole),
        gateway("Gateway", "gateways").with_status(StatusForm::Whole),
        gateway("ListenerSet", "listenersets").with_status(StatusForm::Whole),
        route("HTTPRoute", "httproutes"),
        route("GRPCRoute", "grpcroutes"),
        route("TLSRoute", "tlsroutes"),
        route("TCPRoute", "tcproutes"),
        gateway("ReferenceGrant", "referencegrants"),
    ];
    kinds.extend(crds::KINDS.iter().map(|own| {
        let kind = Kind::of(GROUP, VERSION, own.kind, own.plural);
        match own.scope {
            crds::Scope::Namespaced => kind.with_status(StatusForm::Ancestors),
            crds::Scope::Cluster => kind.cluster_scoped().with_status(StatusForm::Whole),
        }
    }));
    kinds
});

/// The kind of that name.
pub fn of(kind: &str) -> Option<&'static Kind> {
    WATCHED.iter().find(|known| known.kind == kind)
}
