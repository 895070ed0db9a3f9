//! What there is to publish at one moment.

use crate::translate::{Translation, View};
use selvage_config::Resource;
use selvage_policy::{Key, SpiffeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one proxy is given.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// What people call it: namespace and name of its Pod, on a laptop its view.
    pub name: String,
    /// The view it has: `Gateway/<namespace>/<name>` or `Pod/<namespace>/<name>`.
    pub view: Key,
    /// Keys of the Resources it is sent.
    pub keys: View,
    /// Identities it may have certificates for.
    pub identities: Vec<SpiffeId>,
}

/// Everything there is to publish at one moment.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// Every Resource.
    pub resources: BTreeMap<Key, Arc<Resource>>,
    /// By node: the UID that a proxy's token proves.
    pub shares: BTreeMap<String, Share>,
}

impl From<&Translation> for Publication {
    fn from(translation: &Translation) -> Self {
        let share = |(uid, view): (&String, &Key)| {
            let keys = translation.views.get(view)?.clone();
            let name = translation.names.get(uid).cloned().unwrap_or_else(|| view.to_string());
            let identities = translation.identities.get(view).cloned().into_iter().collect();
            Some((uid.clone(), Share { name, view: view.clone(), keys, identities }))
        };
        Self { resources: translation.resources.clone(), shares: translation.nodes.iter().filter_map(share).collect() }
    }
}
