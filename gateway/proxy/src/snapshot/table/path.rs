//! The path tables of one host: exact paths by hash, prefixes in a trie of segments, regular expressions, everything else.

use super::condition::{CompiledMatch, Conditions, PathKey};
use super::{Placed, Rule};
use crate::snapshot::Matched;
use selvage_config::resource::text::Pattern;
use selvage_policy::{Http, TargetKind};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// One match of a rule.
#[derive(Debug)]
pub(super) struct Entry {
    order: Order,
    conditions: Arc<Conditions>,
    rule: Arc<Rule>,
}

/// What decides between entries with the same path: the lesser goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    /// `namespace/name`.
    route: Arc<str>,
    kind: TargetKind,
    rule: u32,
    index: u32,
}

#[derive(Debug, Default)]
pub(super) struct PathTable {
    exact: HashMap<Box<str>, Vec<Entry>>,
    /// Of segments; the first node is the root, whose entries hold for every path.
    trie: Vec<Node>,
    regexes: Vec<(Pattern, Entry)>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, usize>,
    entries: Vec<Entry>,
    /// Bytes of path from the root to here.
    length: usize,
}

impl Entry {
    pub(super) fn new(placed: &Placed, compiled: &CompiledMatch, rule: Arc<Rule>) -> Self {
        let conditions = compiled.conditions.clone();
        let order = Order {
            method: Reverse(conditions.method.is_some()),
            headers: Reverse(conditions.headers.len()),
            query: Reverse(conditions.query.len()),
            created: placed.created,
            route: placed.matches.name.clone(),
            kind: placed.matches.kind,
            rule: compiled.rule,
            index: compiled.index,
        };
        Self { order, conditions, rule }
    }
}

impl PathTable {
    pub(super) fn insert(&mut self, path: &PathKey, entry: Entry) {
        match path {
            PathKey::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            PathKey::Prefix(prefix) => {
                let at = self.node(prefix);
                self.trie[at].entries.push(entry);
            }
            PathKey::Regex(pattern) => self.regexes.push((pattern.clone(), entry)),
        }
    }

    /// The node of a prefix without its final `/`; made where it is missing.
    fn node(&mut self, prefix: &str) -> usize {
        if self.trie.is_empty() {
            self.trie.push(Node::default());
        }
        let mut at = 0;
        let Some(segments) = prefix.strip_prefix('/') else { return at };
        for segment in segments.split('/') {
            at = match self.trie[at].children.get(segment) {
                Some(child) => *child,
                None => {
                    let (made, length) = (self.trie.len(), self.trie[at].length + 1 + segment.len());
                    self.trie.push(Node { length, ..Node::default() });
                    self.trie[at].children.insert(segment.into(), made);
                    made
                }
            };
        }
        at
    }

    /// To be called once after the last insert.
    pub(super) fn sort(&mut self) {
        for entries in self.exact.values_mut().chain(self.trie.iter_mut().map(|node| &mut node.entries)) {
            entries.sort_unstable_by(|a, b| a.order.cmp(&b.order));
        }
        self.regexes.sort_by(|(_, a), (_, b)| a.order.cmp(&b.order));
    }

    pub(super) fn find(&self, http: &Http<'_>) -> Option<Matched> {
        let first = |entries: &[Entry], prefix: Option<usize>| {
            let entry = entries.iter().find(|entry| entry.conditions.hold(http))?;
            Some(Matched { rule: entry.rule.clone(), prefix })
        };
        if let Some(found) = self.exact.get(http.path).and_then(|entries| first(entries, None)) {
            return Some(found);
        }
        let root = self.trie.first();
        let mut walked: SmallVec<[&Node; 8]> = SmallVec::new();
        let mut at = root;
        for segment in http.path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/')) {
            at = at.and_then(|node| node.children.get(segment)).map(|child| &self.trie[*child]);
            match at {
                Some(node) if node.entries.is_empty() => {}
                Some(node) => walked.push(node),
                None => break,
            }
        }
        let regex = || {
            let (_, entry) = self.regexes.iter().find(|(pattern, entry)| entry.conditions.hold(http) && pattern.matches(http.path))?;
            Some(Matched { rule: entry.rule.clone(), prefix: None })
        };
        walked
            .iter()
            .rev()
            .find_map(|node| first(&node.entries, Some(node.length)))
            .or_else(regex)
            .or_else(|| root.and_then(|root| first(&root.entries, Some(0))))
    }
}
