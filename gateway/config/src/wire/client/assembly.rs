//! Parts become transactions, texts become Resources; a malformed one is rejected alone.

use crate::resource::{Class, Resource};
use crate::wire::{MAX_TRANSACTION, Rejected, Update};
use selvage_policy::{Key, Target};
use serde::Deserialize;
use std::collections::BTreeMap;

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

/// As much of a Resource as tells whom it concerns.
#[derive(Deserialize)]
struct Outline {
    key: Key,
    version: String,
    class: Class,
    #[serde(default)]
    attachments: Vec<Target>,
}

#[derive(Deserialize)]
struct Name {
    key: Key,
    version: String,
}

/// Reads one Resource. Of a malformed one that still says whom it concerns an empty shell is kept, which no kind accepts: so a guard that
/// this release cannot read refuses on its targets instead of being absent.
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
    if let Ok(Outline { key, version, class, attachments }) = serde_json::from_str(text) {
        let rejected = Rejected { key: key.clone(), version, reason };
        // Without a version: whoever may be able to read it, this process after an upgrade for one, is sent it again.
        let (version, spec) = (String::new(), serde_json::Value::Null);
        let shell = Resource { key, class, version, attachments, refs: BTreeMap::new(), created: 0, spec };
        return (Some(shell), Some(rejected));
    }
    let nameless = || Name { key: Key::new("Resource", "", "unreadable"), version: String::new() };
    let Name { key, version } = serde_json::from_str(text).unwrap_or_else(|_| nameless());
    (None, Some(Rejected { key, version, reason }))
}
