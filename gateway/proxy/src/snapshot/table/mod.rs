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
    /// Rules for TLS connections, by server name (TLSRoutes).
    tls: Names,
    /// The rule for other connections without HTTP (TCPRoutes).
    tcp: Option<Arc<Rule>>,
}

/// Rules by host name: the more specific name wins, of equals the older route.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<Box<str>, Arc<Rule>>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<Box<str>, Arc<Rule>>,
    any: Option<Arc<Rule>>,
}

impl RouteTable {
    /// Builds the table of the routes attached to one parent. `hostname` is the listener's; on mesh parents the routes' host names are
    /// ignored (GAMMA).
    pub(super) fn build<'a>(routes: impl Iterator<Item = &'a Placed>, hostname: Option<&HostPattern>, mesh: bool) -> Self {
        let mut table = Self::default();
        let (mut tcp, mut tls): (Vec<&Placed>, Vec<&Placed>) = (Vec::new(), Vec::new());
        for placed in routes {
            match placed.matches.kind {
                TargetKind::TCPRoute => tcp.push(placed),
                TargetKind::TLSRoute => tls.push(placed),
                _ => {}
            }
            if matches!(placed.matches.kind, TargetKind::TCPRoute | TargetKind::TLSRoute) {
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
        let age = |placed: &&Placed| (placed.created, placed.matches.name.clone());
        table.tcp = tcp.into_iter().min_by_key(age).and_then(|placed| placed.rules.first().cloned());
        tls.sort_by_key(age);
        for placed in tls {
            let Some(rule) = placed.rules.first() else { continue };
            hosts(&placed.matches.hostnames, hostname, mesh).into_iter().for_each(|host| table.tls.insert(host, rule));
        }
        table
    }

    /// The rule of highest precedence that matches. A connection without HTTP, and any request where only TCPRoutes are attached, gets
    /// the TCP rule.
    pub fn find(&self, exchange: &Exchange<'_>) -> Option<Matched> {
        let Some(http) = &exchange.http else { return self.opaque(None) };
        if self.has_http() {
            let exact = self.exact.get(http.host).into_iter();
            let dots = http.host.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0 && !self.wildcard.is_empty());
            let wildcard = dots.filter_map(|at| self.wildcard.get(&http.host[at..]));
            exact.chain(wildcard).chain(&self.any).find_map(|paths| paths.find(http))
        } else {
            self.opaque(None)
        }
    }

    /// The rule for a connection without HTTP: by its server name, if it is TLS; else the oldest TCPRoute's.
    pub fn opaque(&self, server_name: Option<&str>) -> Option<Matched> {
        let rule = self.tls.find(server_name).or_else(|| self.tcp.clone())?;
        Some(Matched { rule, prefix: None })
    }

    /// Whether no route is attached.
    pub fn is_empty(&self) -> bool {
        !self.has_http() && self.tcp.is_none() && self.tls.is_empty()
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

impl Names {
    fn insert(&mut self, host: Option<HostPattern>, rule: &Arc<Rule>) {
        let Some(host) = host else {
            self.any.get_or_insert_with(|| rule.clone());
            return;
        };
        let (table, name) = match host.suffix() {
            Some(suffix) => (&mut self.wildcard, suffix),
            None => (&mut self.exact, host.as_str()),
        };
        table.entry(name.into()).or_insert_with(|| rule.clone());
    }

    fn find(&self, name: Option<&str>) -> Option<Arc<Rule>> {
        let named = name.and_then(|name| {
            let mut suffixes = name.match_indices('.').map(|(at, _)| at).filter(|at| *at > 0);
            self.exact.get(name).or_else(|| suffixes.find_map(|at| self.wildcard.get(&name[at..])))
        });
        named.or(self.any.as_ref()).cloned()
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
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
