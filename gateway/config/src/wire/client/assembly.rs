//! Parts become transactions, texts become Resources; a malformed one is rejected alone.

use crate::resource::{Class, Resource};
use crate::wire::{MAX_TRANSACTION, Rejected, Update};
use selvage_policy::{Key, Target, TargetKind};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the version of a Resource that cannot be read begins with; those of a server are hexadecimal.
const UNREADABLE: &str = "unreadable:";

/// What changes at once.
#[derive(Debug, Default)]
pub struct Transaction {
    /// New and changed Resources.
    pub upserts: Vec<Resource>,
    /// What is gone.
    pub removals: Vec<Key>,
}

/// The transaction under way.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    txn: u64,
    parts: u32,
    bytes: usize,
    transaction: Transaction,
    malformed: Vec<Rejected>,
}

/// A transaction that cannot be put together: the stream is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidUpdate {
    #[error("part {found} of transaction {txn} came where part {expected} was due")]
    Order { txn: u64, expected: u32, found: u32 },
    #[error("transaction {0} has more than {MAX_TRANSACTION} bytes")]
    TooLarge(u64),
}

impl Assembly {
    /// Takes a part; with the last one, returns the transaction, its number, and what of it was malformed.
    pub(super) fn take(&mut self, update: Update) -> Result<Option<(u64, Transaction, Vec<Rejected>)>, InvalidUpdate> {
        let Update { txn, part, commit, upserts, removals } = update;
        let fits = part == self.parts && (part == 0 || txn == self.txn);
        if !fits {
            return Err(InvalidUpdate::Order { txn, expected: self.parts, found: part });
        }
        self.txn = txn;
        self.parts += 1;
        self.bytes += upserts.iter().map(|text| text.get().len()).sum::<usize>();
        if self.bytes > MAX_TRANSACTION {
            return Err(InvalidUpdate::TooLarge(txn));
        }
        for text in upserts {
            let (resource, malformed) = read(text.get());
            self.transaction.upserts.extend(resource);
            self.malformed.extend(malformed);
        }
        self.transaction.removals.extend(removals);
        if !commit {
            return Ok(None);
        }
        let done = std::mem::take(self);
        Ok(Some((txn, done.transaction, done.malformed)))
    }
}

/// As much of a Resource as tells whom it concerns. A newer release may have words for the rest that this one does not know.
#[derive(Deserialize)]
struct Outline {
    key: Key,
    version: String,
    #[serde(default)]
    class: serde_json::Value,
    #[serde(default)]
    attachments: serde_json::Value,
}

/// A target without what this release does not know of it: at worst it is wider than it was meant.
#[derive(Deserialize)]
struct TargetOutline {
    kind: TargetKind,
    #[serde(default)]
    namespace: String,
    name: String,
    #[serde(default)]
    section: Option<String>,
}

impl Outline {
    /// What stands for the Resource. Its spec is one that no kind accepts; its version is none that a server gives, so whoever may be able
    /// to read it, this process after an upgrade for one, is sent it again; and it changes when the Resource does.
    fn shell(self) -> Resource {
        let Self { key, version, class, attachments } = self;
        Resource {
            key,
            class: Class::deserialize(class).unwrap_or(Class::Guard),
            version: format!("{UNREADABLE}{version}"),
            attachments: attachments.as_array().into_iter().flatten().filter_map(target).collect(),
            refs: BTreeMap::new(),
            created: 0,
            spec: serde_json::Value::Null,
        }
    }
}

/// A target of a kind we know; of any other nothing is served here.
fn target(value: &serde_json::Value) -> Option<Target> {
    let TargetOutline { kind, namespace, name, section } = TargetOutline::deserialize(value).ok()?;
    Some(Target { kind, namespace, name, section })
}

/// Reads one Resource. Of a malformed one that still says whom it concerns an empty shell is kept: so a guard that this release cannot read
/// refuses on its targets instead of being absent.
fn read(text: &str) -> (Option<Resource>, Option<Rejected>) {
    let problem = match serde_json::from_str::<Resource>(text) {
        Ok(resource) => return (Some(resource), None),
        Err(error) => error,
    };
    // The values are not quoted: they may be secrets.
    let place = format!("line {} column {}", problem.line(), problem.column());
    let shown = problem.to_string();
    let reason = match ["unknown field", "missing field"].iter().any(|known| shown.starts_with(known)) {
        true => shown,
        false => format!("not a Resource as this version of Selvage knows them, at {place}"),
    };
    match serde_json::from_str::<Outline>(text) {
        Ok(outline) => {
            let rejected = Rejected { key: outline.key.clone(), version: outline.version.clone(), reason };
            (Some(outline.shell()), Some(rejected))
        }
        Err(_) => (None, Some(Rejected { key: Key::new("Resource", "", "unreadable"), version: String::new(), reason })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A guard as a newer controller might write it.
    fn guard(version: &str, class: Value, attachments: Value) -> String {
        let key = "AuthorizationPolicy/shop/p";
        json!({ "key": key, "class": class, "version": version, "attachments": attachments, "spec": {}, "mood": "blue" }).to_string()
    }

    fn shell(text: &str) -> Resource {
        let (shell, rejected) = read(text);
        assert_eq!(rejected.expect("malformed").key.to_string(), "AuthorizationPolicy/shop/p");
        let shell = shell.expect("it says whom it concerns");
        assert!(shell.spec.is_null());
        shell
    }

    #[test]
    fn a_guard_with_words_of_a_newer_release_is_kept_on_the_targets_that_are_understood() {
        let orders = Target::new(TargetKind::Service, "shop", "orders");
        let known = json!({ "kind": "Service", "namespace": "shop", "name": "orders" });
        let table = [
            (json!([known]), vec![orders.clone()]),
            (json!([{ "kind": "UDPRoute", "namespace": "shop", "name": "dns" }, known]), vec![orders.clone()]),
            (json!(["shop/orders", known, 7]), vec![orders.clone()]),
            (json!([{ "kind": "Service", "namespace": "shop", "name": "orders", "colour": "blue" }]), vec![orders.clone()]),
            (json!([{ "kind": "Service", "namespace": "shop", "name": "orders", "section": "http" }]), vec![orders.section("http")]),
            (json!([{ "kind": "UDPRoute", "namespace": "shop", "name": "dns" }]), vec![]),
            (json!({ "all": true }), vec![]),
        ];
        for (attachments, expected) in table {
            let shell = shell(&guard("1", json!("guard"), attachments.clone()));
            assert_eq!((shell.class, shell.attachments), (Class::Guard, expected), "{attachments}");
        }
        for (class, expected) in [("traffic", Class::Traffic), ("core", Class::Core), ("sentinel", Class::Guard)] {
            assert_eq!(shell(&guard("1", json!(class), json!([known]))).class, expected, "{class}");
        }
    }

    #[test]
    fn two_versions_of_a_guard_that_cannot_be_read_are_two_versions() {
        let version = |text: &str| shell(&guard(text, json!("guard"), json!([]))).version;
        assert_eq!(version("1"), version("1"));
        assert_ne!(version("1"), version("2"));
        assert_ne!(version("1"), "1", "the server has to send it again");
    }

    #[test]
    fn what_does_not_even_say_its_name_is_rejected_without_one() {
        for text in ["7", "{}", r#"{"key":"a/b/c/d","version":"1"}"#, r#"{"key":"TrafficPolicy/shop/p"}"#] {
            let (resource, rejected) = read(text);
            assert!(resource.is_none(), "{text}");
            assert_eq!(rejected.expect("malformed").key.to_string(), "Resource/unreadable", "{text}");
        }
    }
}
