//! Runs the rules: three-valued matching, so that what is not known can neither allow nor slip past a deny.

use super::spec::{Action, Mode};
use crate::exchange::{Exchange, Http};
use crate::expression::{Expression, Outcome};
use crate::identity::{SpiffeId, TrustDomain};
use http::{HeaderName, Method};
use ipnet::IpNet;
use std::sync::Arc;

/// The compiled rules.
#[derive(Debug)]
pub struct Filter {
    pub(super) deny: Vec<Rule>,
    pub(super) allow: Vec<Rule>,
    pub(super) mode: Mode,
    pub(super) hidden: bool,
}

/// One rule, of either action.
#[derive(Debug)]
pub(super) struct Rule {
    pub name: Arc<str>,
    pub from: Vec<Caller>,
    pub to: Vec<Called>,
    pub when: Option<Expression>,
}

/// A caller: everything given must hold.
#[derive(Debug, Default)]
pub(super) struct Caller {
    pub identity: Option<Identity>,
    pub blocks: Vec<IpNet>,
}

/// Which workload identities.
#[derive(Debug)]
pub(super) enum Identity {
    /// Every account of a namespace, in our trust domain.
    Namespace(TrustDomains, String),
    /// One account, in our trust domain.
    Account(TrustDomains, SpiffeId),
}

/// Our trust domain and its aliases.
#[derive(Clone, Debug)]
pub(super) struct TrustDomains(pub Arc<[TrustDomain]>);

/// A kind of request: everything given must hold.
#[derive(Debug, Default)]
pub(super) struct Called {
    pub methods: Vec<Method>,
    pub paths: Vec<PathTest>,
    pub hosts: Vec<HostTest>,
    pub ports: Vec<u16>,
    pub headers: Vec<FieldTest>,
}

#[derive(Debug)]
pub(super) enum PathTest {
    Exact(String),
    /// Without the final `/`: `/a` for `/a/*`, empty for `/*`.
    Below(String),
}

#[derive(Debug)]
pub(super) enum HostTest {
    Exact(String),
    /// With the dot: `.example.com`.
    Suffix(String),
}

#[derive(Debug)]
pub(super) struct FieldTest {
    pub name: HeaderName,
    pub values: Vec<String>,
}

/// Whether a condition holds. The order is what AND (the least) and OR (the greatest) need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    No,
    /// It depends on a fact that is not there.
    Absent,
    Yes,
}

/// An expression of a rule failed.
#[derive(Debug)]
pub struct RuleError {
    /// The rule.
    pub rule: Arc<str>,
    /// What CEL says; for operators, not for callers.
    pub problem: String,
}

impl Filter {
    /// Whether it only reports.
    pub fn audits(&self) -> bool {
        self.mode == Mode::Audit
    }

    /// Whether callers are told which policy and rule refused them.
    pub fn hides(&self) -> bool {
        self.hidden
    }

    /// Whether it has allow rules, one of which must then match.
    pub fn has_allow(&self) -> bool {
        !self.allow.is_empty()
    }

    /// The first deny rule that matches. Absent facts match.
    pub fn denies(&self, exchange: &Exchange<'_>) -> Result<Option<&Arc<str>>, RuleError> {
        first(&self.deny, exchange, Action::Deny, Match::Absent)
    }

    /// The first allow rule that matches. Absent facts do not match.
    pub fn allows(&self, exchange: &Exchange<'_>) -> Result<Option<&Arc<str>>, RuleError> {
        first(&self.allow, exchange, Action::Allow, Match::Yes)
    }
}

fn first<'a>(rules: &'a [Rule], exchange: &Exchange<'_>, action: Action, least: Match) -> Result<Option<&'a Arc<str>>, RuleError> {
    for rule in rules {
        if rule.matches(exchange, action)? >= least {
            return Ok(Some(&rule.name));
        }
    }
    Ok(None)
}

impl Rule {
    fn matches(&self, exchange: &Exchange<'_>, action: Action) -> Result<Match, RuleError> {
        let from = any(&self.from, |caller| caller.matches(exchange));
        let to = any(&self.to, |called| called.matches(exchange, action));
        let facts = from.min(to);
        match &self.when {
            Some(when) if facts != Match::No => Ok(facts.min(match when.test(exchange) {
                Outcome::Value(holds) => Match::known(holds),
                Outcome::Absent => Match::Absent,
                Outcome::Error(problem) => return Err(RuleError { rule: self.name.clone(), problem }),
            })),
            _ => Ok(facts),
        }
    }
}

impl Match {
    fn known(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// OR over the items; a list that is not there matches.
fn any<T>(items: &[T], test: impl Fn(&T) -> Match) -> Match {
    if items.is_empty() {
        return Match::Yes;
    }
    let mut best = Match::No;
    for item in items {
        best = best.max(test(item));
        if best == Match::Yes {
            break;
        }
    }
    best
}

impl Caller {
    fn matches(&self, exchange: &Exchange<'_>) -> Match {
        let identity = match (&self.identity, &exchange.source.principal) {
            (None, _) => Match::Yes,
            (Some(_), None) => Match::Absent,
            (Some(identity), Some(principal)) => Match::known(identity.matches(principal)),
        };
        // An IPv4 client that reached a dual-stack socket is still an IPv4 client.
        let address = exchange.source.address.to_canonical();
        let block = Match::known(self.blocks.is_empty() || self.blocks.iter().any(|block| block.contains(&address)));
        identity.min(block)
    }
}

impl Identity {
    fn matches(&self, principal: &SpiffeId) -> bool {
        match self {
            Self::Namespace(ours, namespace) => ours.contains(principal.trust_domain()) && principal.namespace() == namespace,
            Self::Account(ours, id) => {
                ours.contains(principal.trust_domain()) && principal.namespace() == id.namespace() && principal.account() == id.account()
            }
        }
    }
}

impl TrustDomains {
    pub fn contains(&self, domain: &TrustDomain) -> bool {
        self.0.contains(domain)
    }
}

impl Called {
    fn matches(&self, exchange: &Exchange<'_>, action: Action) -> Match {
        let port = Match::known(self.ports.is_empty() || self.ports.contains(&exchange.destination.address.port()));
        let needs_http = !(self.methods.is_empty() && self.paths.is_empty() && self.hosts.is_empty() && self.headers.is_empty());
        let http = match &exchange.http {
            _ if !needs_http => Match::Yes,
            None => Match::Absent,
            Some(http) => Match::known(self.matches_http(http, action)),
        };
        port.min(http)
    }

    fn matches_http(&self, http: &Http<'_>, action: Action) -> bool {
        (self.methods.is_empty() || self.methods.contains(http.method))
            && (self.paths.is_empty() || self.paths.iter().any(|test| test.matches(http.path)))
            && (self.hosts.is_empty() || self.hosts.iter().any(|test| test.matches(http.host)))
            && self.headers.iter().all(|test| test.matches(http, action))
    }
}

impl PathTest {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Below(prefix) => path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl HostTest {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host == exact,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl FieldTest {
    /// A sender may repeat a field or join values with commas. So an allow rule wants every line to be in the list as it stands, and a deny
    /// rule looks at every line and at every member of it.
    fn matches(&self, http: &Http<'_>, action: Action) -> bool {
        let mut lines = http.headers.get_all(&self.name).iter().map(|line| line.as_bytes().trim_ascii()).peekable();
        if lines.peek().is_none() {
            return false;
        }
        let listed = |value: &[u8]| self.values.iter().any(|known| known.as_bytes() == value);
        match action {
            _ if self.values.is_empty() => true,
            Action::Allow => lines.all(listed),
            Action::Deny => lines.any(|line| listed(line) || line.split(|byte| *byte == b',').any(|member| listed(member.trim_ascii()))),
        }
    }
}
