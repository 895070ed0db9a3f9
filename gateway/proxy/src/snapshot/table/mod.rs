//! Which rule takes a request: a host table, then path tables.
//!
//! Precedence (Gateway API v1.7, HTTPRouteSpec.hostnames and HTTPRouteRule.matches): most specific host; exact path; longest prefix;
//! method; most header conditions; most query conditions; then the older route, `namespace/name`, the earlier rule and match. Gateway API
//! leaves regular expressions to us: they come after every prefix but `/`, which says nothing about the path.
//! Where nothing matches under the most specific host the next one is tried. A lookup costs what the request is long, whatever the
//! number of routes.

mod condition;
mod path;

pub(super) use condition::RouteMatches;

use super::{Matched, Rule};
use path::{Entry, PathTable};
use selvage_config::resource::text::HostPattern;
use selvage_policy::{Exchange, TargetKind};
use std::collections::HashMap;
use std::sync::Arc;

/// A route attached to one parent.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its hosts and matches.
    pub(super) matches: Arc<RouteMatches>,
    /// When it was made.
    pub(super) created: i64,
    /// Its rules as they are for this parent, in the order written.
    pub(super) rules: Arc<[Arc<Rule>]>,
}

/// The routes attached to one parent.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: HashMap<Box<str>, PathTable>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<Box<str>, PathTable>,
    any: Option<PathTable>,
    /// The rule for connections without HTTP.
    tcp: Option<Arc<Rule>>,
}

impl RouteTable {
    /// Builds the table of the routes attached to one parent. `hostname` is the listener's; on mesh parents the routes' host names are
    /// ignored (GAMMA).
    pub(super) fn build<'a>(routes: impl Iterator<Item = &'a Placed>, hostname: Option<&HostPattern>, mesh: bool) -> Self {
        let mut table = Self::default();
        let mut tcp: Vec<&Placed> = Vec::new();
        for placed in routes {
            if placed.matches.kind == TargetKind::TCPRoute {
                tcp.push(placed);
                continue;
            }
            for host in hosts(&placed.matches.hostnames, hostname, mesh) {
                let paths = table.paths(host.as_ref());
                for compiled in &placed.matches.matches {
                    if let Some(rule) = placed.rules.get(compiled.rule as usize) {
                        paths.insert(&compiled.path, Entry::new(placed, compiled, rule.clone()));
                    }
                }
            }
        }
        table.exact.values_mut().chain(table.wildcard.values_mut()).chain(&mut table.any).for_each(PathTable::sort);
        let oldest = tcp.into_iter().min_by(|a, b| (a.created, &a.matches.name).cmp(&(b.created, &b.matches.name)));
        table.tcp = oldest.and_then(|placed| placed.rules.first().cloned());
        table
    }

    /// The rule of highest precedence that matches. A connection without HTTP, and any request where only TCPRoutes are attached, gets
    /// the TCP rule.
    pub fn find(&self, exchange: &Exchange<'_>) -> Option<Matched> {
        let tcp = || self.tcp().map(|rule| Matched { rule, prefix: None });
        let Some(http) = &exchange.http else { return tcp() };
        if self.has_http() {
            let exact = self.exact.get(http.host).into_iter();
            let dots = http.host.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0 && !self.wildcard.is_empty());
            let wildcard = dots.filter_map(|at| self.wildcard.get(&http.host[at..]));
            exact.chain(wildcard).chain(&self.any).find_map(|paths| paths.find(http))
        } else {
            tcp()
        }
    }

    /// The rule for a connection without HTTP: the oldest TCPRoute's.
    pub fn tcp(&self) -> Option<Arc<Rule>> {
        self.tcp.clone()
    }

    /// Whether no route is attached.
    pub fn is_empty(&self) -> bool {
        !self.has_http() && self.tcp.is_none()
    }

    fn has_http(&self) -> bool {
        self.any.is_some() || !self.exact.is_empty() || !self.wildcard.is_empty()
    }

    fn paths(&mut self, host: Option<&HostPattern>) -> &mut PathTable {
        match host {
            None => self.any.get_or_insert_default(),
            Some(host) => match host.suffix() {
                Some(suffix) => self.wildcard.entry(suffix.into()).or_default(),
                None => self.exact.entry(host.as_str().into()).or_default(),
            },
        }
    }
}

/// The hosts under which a route stands in a parent's table: what both have in common. `None` is every host.
fn hosts(route: &[HostPattern], listener: Option<&HostPattern>, mesh: bool) -> Vec<Option<HostPattern>> {
    if mesh {
        return vec![None];
    }
    match (route, listener) {
        ([], listener) => vec![listener.cloned()],
        (route, None) => distinct(route.iter().cloned()),
        (route, Some(listener)) => distinct(route.iter().filter_map(|host| host.intersection(listener))),
    }
}

fn distinct(hosts: impl Iterator<Item = HostPattern>) -> Vec<Option<HostPattern>> {
    let mut distinct: Vec<HostPattern> = hosts.collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.into_iter().map(Some).collect()
}

#[cfg(test)]
mod tests;
