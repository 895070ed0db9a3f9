//! The status that each object has on the API server, as the watches and our own writes last saw it.

use parking_lot::RwLock;
use selvage_policy::Key;
use serde_json::Value;
use std::collections::HashMap;

/// One object's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Identifies the very object.
    pub uid: String,
    /// Counts edits of its spec.
    pub generation: i64,
    /// The version of the object that has this status.
    pub resource_version: String,
    /// Its `status`; null where it has none.
    pub status: Value,
}

impl Standing {
    /// Of an object as the API server has it.
    pub fn of(object: &Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        Self {
            uid: text("/metadata/uid"),
            generation: object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            resource_version: text("/metadata/resourceVersion"),
            status: object.get("status").cloned().unwrap_or_default(),
        }
    }
}

/// Of every object that may get a status from us.
#[derive(Default)]
pub struct Present {
    objects: RwLock<HashMap<Key, Standing>>,
}

impl Present {
    /// An object as the API server has it; says whether its status is another than before.
    pub fn saw(&self, key: Key, object: &Value) -> bool {
        let standing = Standing::of(object);
        let mut objects = self.objects.write();
        let changed = objects.get(&key).is_none_or(|before| before.status != standing.status);
        objects.insert(key, standing);
        changed
    }

    /// An object is gone.
    pub fn forget(&self, key: &Key) {
        self.objects.write().remove(key);
    }

    /// What an object has.
    pub fn standing(&self, key: &Key) -> Option<Standing> {
        self.objects.read().get(key).cloned()
    }

    /// Every object of which `of_interest` holds.
    pub fn keys(&self, of_interest: impl Fn(&Key, &Standing) -> bool) -> Vec<Key> {
        self.objects.read().iter().filter(|(key, standing)| of_interest(key, standing)).map(|(key, _)| key.clone()).collect()
    }
}
