//! Resources parsed one by one; what has the version it had is not parsed again.

use super::form::{Form, RouteForm};
use crate::tls;
use selvage_config::resource::listener::Forward;
use selvage_config::resource::{InvalidResource, Spec};
use selvage_config::{Class, CoreKind, MeshSpec, Resource};
use selvage_policy::Key;
use selvage_policy::list::{self, Compiled, Context, Invalid, Kind};
use selvage_policy::mesh::Posture;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One Resource with what became of it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) resource: Arc<Resource>,
    /// What is used; of a core kind whose newest spec is bad, what was used before.
    pub(super) form: Option<Form>,
    /// What the form was made of; the newest where there is none.
    pub(super) used: Arc<Resource>,
    /// Why the newest spec is not used.
    pub(super) problem: Option<String>,
}

/// A Resource that came, went or changed.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) old: Option<&'a Part>,
    /// Its place in the new list.
    pub(super) new: Option<usize>,
}

/// The platform's settings among `resources`, or those there were. Where they were told and none of them could ever be read, nobody may be
/// let in by a default.
pub(super) fn mesh(previous: &[Part], before: &Arc<MeshSpec>, resources: &BTreeMap<Key, Arc<Resource>>) -> Arc<MeshSpec> {
    let key = selvage_config::resource::keys::mesh();
    let Some(resource) = resources.get(&key) else {
        let default = super::default_mesh();
        return shared(before, default);
    };
    let used = find(previous, &key).filter(|part| part.form.is_some());
    if used.is_some_and(|part| part.resource.version == resource.version) {
        return before.clone();
    }
    match resource.spec() {
        Ok(Spec::Mesh(mesh)) => shared(before, *mesh),
        _ if used.is_some() => before.clone(),
        _ => shared(before, MeshSpec { posture: Posture::Deny, ..super::default_mesh() }),
    }
}

/// Equal settings are one Arc: that is how compile sees that nothing changed.
fn shared(before: &Arc<MeshSpec>, mesh: MeshSpec) -> Arc<MeshSpec> {
    if mesh == **before { before.clone() } else { Arc::new(mesh) }
}

/// The part of that key in a sorted list.
pub(super) fn find<'a>(parts: &'a [Part], key: &Key) -> Option<&'a Part> {
    parts.binary_search_by(|part| part.resource.key.cmp(key)).ok().map(|at| &parts[at])
}

/// Parses what is new. `same_context`: what policies and routes are compiled with besides their specs did not change.
pub(super) fn parse<'a>(
    previous: &'a [Part],
    resources: &BTreeMap<Key, Arc<Resource>>,
    mesh: &Arc<MeshSpec>,
    same_context: bool,
) -> (Vec<Part>, Vec<Change<'a>>) {
    let mut list: Vec<Part> = Vec::with_capacity(resources.len());
    let mut changes = Vec::new();
    let mut old = previous.iter().peekable();
    for resource in resources.values() {
        if old.peek().is_none_or(|part| !Arc::ptr_eq(&part.resource, resource)) {
            while let Some(gone) = old.next_if(|part| part.resource.key < resource.key) {
                changes.push(Change { old: Some(gone), new: None });
            }
        }
        let before = old.next_if(|part| Arc::ptr_eq(&part.resource, resource) || part.resource.key == resource.key);
        let independent = || matches!(CoreKind::of(&resource.key.kind), Some(kind) if kind != CoreKind::Route && kind != CoreKind::Mesh);
        match before.filter(|part| part.resource.version == resource.version && (same_context || independent())) {
            Some(part) => list.push(Part { resource: resource.clone(), ..part.clone() }),
            None => {
                changes.push(Change { old: before, new: Some(list.len()) });
                list.push(Part::parse(resource.clone(), before, mesh));
            }
        }
    }
    changes.extend(old.map(|gone| Change { old: Some(gone), new: None }));
    (list, changes)
}

impl Part {
    fn parse(resource: Arc<Resource>, before: Option<&Self>, mesh: &Arc<MeshSpec>) -> Self {
        match form(&resource, mesh) {
            Ok(form) => Self { used: resource.clone(), resource, form: Some(form), problem: None },
            Err(problem) => {
                let before = before.filter(|part| part.form.is_some());
                let (form, used) = match (CoreKind::of(&resource.key.kind), before) {
                    (Some(_), Some(before)) => (before.form.clone(), before.used.clone()),
                    (Some(_), None) => (None, resource.clone()),
                    (None, _) => (refusing(&resource, &problem), resource.clone()),
                };
                Self { resource, form, used, problem: Some(problem.text()) }
            }
        }
    }
}

/// Why a Resource cannot be used.
enum Problem {
    Resource(Box<InvalidResource>),
    Policy(Invalid),
    Core(String),
}

impl Problem {
    fn text(&self) -> String {
        match self {
            Self::Resource(invalid) => invalid.to_string(),
            Self::Policy(invalid) => invalid.to_string(),
            Self::Core(text) => text.clone(),
        }
    }
}

fn form(resource: &Arc<Resource>, mesh: &Arc<MeshSpec>) -> Result<Form, Problem> {
    Ok(match resource.spec().map_err(|invalid| Problem::Resource(Box::new(invalid)))? {
        Spec::Mesh(_) => Form::Mesh,
        Spec::Listener(spec) if spec.posture && spec.identity.is_none() => {
            return Err(Problem::Core("posture: needs `identity`, the workload whose neighbourhood it is about".into()));
        }
        Spec::Listener(spec) if matches!(spec.forward, Forward::Own(own) if own.is_loopback() || own.is_unspecified()) => {
            return Err(Problem::Core("forward.own: is the address of a pod, never loopback or every address".into()));
        }
        Spec::Listener(spec) => Form::Listener(Arc::new(*spec)),
        Spec::Route(spec) => Form::Route(Arc::new(RouteForm::parse(*spec, resource, mesh.paths).map_err(Problem::Core)?)),
        Spec::Backend(spec) => Form::Backend(Arc::new(*spec)),
        Spec::Endpoints(spec) => Form::Endpoints(Arc::new(*spec)),
        Spec::Certificate(spec) => {
            Form::Certificate(Arc::new(tls::certificate(&spec).map_err(|invalid| Problem::Core(invalid.to_string()))?))
        }
        Spec::Policy(spec) => {
            let context = Context {
                key: &resource.key,
                trust_domain: &mesh.trust_domain,
                aliases: &mesh.trust_domain_aliases,
                paths: mesh.paths,
                refs: &resource.refs,
            };
            Form::Policy(Arc::new(list::compile(&spec, resource.created, context).map_err(Problem::Policy)?))
        }
    })
}

/// What stands for a policy that cannot be used: a guard refuses, anything else is dropped. A kind we know is what it is, whatever the
/// Resource says; of one we do not know the Resource's word counts.
fn refusing(resource: &Resource, problem: &Problem) -> Option<Form> {
    let class = resource.key.kind.parse().map_or(resource.class, Kind::class);
    let invalid = match problem {
        Problem::Policy(invalid) => invalid.clone(),
        Problem::Resource(invalid) => match &**invalid {
            InvalidResource::Policy { invalid, .. } => invalid.clone(),
            InvalidResource::UnknownKind(key) => Invalid::UnknownKind(key.kind.clone()),
            InvalidResource::Field { field, problem, .. } => Invalid::Field { field: format!("spec.{field}"), problem: problem.clone() },
        },
        Problem::Core(text) => Invalid::Field { field: "spec".into(), problem: text.clone() },
    };
    let refuses = || Compiled::refusing(resource.key.clone(), resource.created, &resource.spec, &invalid);
    (class == Class::Guard).then(|| Form::Policy(Arc::new(refuses())))
}
