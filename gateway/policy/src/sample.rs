//! Exchanges and policies for tables: an owned request, changed field by field.

use crate::exchange::{Destination, Exchange, Http, Source};
use crate::identity::TrustDomain;
use crate::key::Key;
use crate::list::{
    Attached, Compiled, Context, Decision, GuardSet, Invalid, Kind, Level, PolicySpec, PostureAt, Progress, Purpose, compile,
};
use crate::mesh::{PathHandling, Posture};
use crate::rate_limit::Buckets;
use crate::target::{Target, TargetKind};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One request or connection.
#[derive(Clone, Debug)]
pub struct Sample {
    source: Source,
    destination: Destination,
    method: Method,
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    tcp: bool,
    now: Duration,
}

impl Sample {
    /// A GET of `path` by nobody in particular.
    pub fn get(path: &str) -> Self {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_string())));
        Self {
            source: Source { address: "192.0.2.7".parse().unwrap(), principal: None },
            destination: Destination { address: "10.0.0.1:8080".parse().unwrap() },
            method: Method::GET,
            host: "orders.shop".into(),
            path: path.into(),
            query,
            headers: HeaderMap::new(),
            tcp: false,
            now: Duration::ZERO,
        }
    }

    /// A connection without HTTP.
    pub fn tcp() -> Self {
        Self { tcp: true, ..Self::get("/") }
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().unwrap();
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// `shop/storefront`, or a whole identity.
    pub fn from(mut self, principal: &str) -> Self {
        let whole = match principal.split_once('/') {
            Some((namespace, account)) if !principal.starts_with("spiffe:") => {
                format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
            }
            _ => principal.to_string(),
        };
        self.source.principal = Some(whole.parse().unwrap());
        self
    }

    pub fn address(mut self, address: &str) -> Self {
        self.source.address = address.parse().unwrap();
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.destination.address.set_port(port);
        self
    }

    /// One more line.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_ref()).unwrap());
        self
    }

    pub fn at(mut self, now: Duration) -> Self {
        self.now = now;
        self
    }

    /// Runs `ask` with the borrowed form.
    pub fn with<T>(&self, ask: impl FnOnce(&Exchange<'_>) -> T) -> T {
        let http = Http {
            method: &self.method,
            scheme: "https",
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        };
        let http = (!self.tcp).then_some(http);
        ask(&Exchange { source: &self.source, destination: &self.destination, http, now: self.now, wall: SystemTime::UNIX_EPOCH })
    }

    pub fn run(&self, set: &GuardSet, purpose: Purpose) -> Decision {
        let Progress::Done(decision) = self.with(|exchange| set.run(exchange, purpose));
        decision
    }

    /// In one line: `allow`, `allow POLICY RULE` or `deny REASON POLICY RULE`. Explain must agree, and say something of every policy.
    pub fn verdict(&self, set: &GuardSet) -> String {
        let explained = self.run(set, Purpose::Explain);
        let policies: usize = set.levels.iter().map(|level| level.policies.len()).sum();
        let steps = explained.steps.iter().filter(|step| step.policy.kind != "MeshConfig").count();
        assert_eq!(steps, policies, "explain leaves a policy out: {:?}", explained.steps);
        let live = self.run(set, Purpose::Live);
        assert!(live.steps.is_empty(), "live traffic writes no steps");
        assert_eq!(line(&explained), line(&live), "explain and live differ");
        line(&live)
    }
}

fn line(decision: &Decision) -> String {
    match (&decision.denial, &decision.allowed_by) {
        (Some(denial), _) => {
            let policy = denial.policy.as_ref().map(|key| format!(" {}", key.name)).unwrap_or_default();
            let rule = denial.rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
            format!("deny {}{policy}{rule}", denial.reason)
        }
        (None, Some((policy, rule))) => format!("allow {} {rule}", policy.name),
        (None, None) => "allow".into(),
    }
}

/// Parses and compiles `spec`; `targetRefs` is added where no target is given.
pub fn policy(kind: Kind, name: &str, spec: serde_json::Value) -> Result<Compiled, Invalid> {
    let mut spec = spec;
    if spec.get("targetRefs").is_none() && spec.get("targetSelectors").is_none() {
        spec["targetRefs"] = serde_json::json!([{ "kind": "Service", "name": "orders" }]);
    }
    let trust_domain = TrustDomain::try_from("cluster.local".to_string()).unwrap();
    let aliases = [TrustDomain::try_from("old.example".to_string()).unwrap()];
    let refs = BTreeMap::from([("gateway:shop/public".to_string(), "spiffe://cluster.local/ns/shop/sa/public-selvage".to_string())]);
    let key = Key::new(kind.as_str(), "shop", name);
    let context = Context { key: &key, trust_domain: &trust_domain, aliases: &aliases, paths: PathHandling::default(), refs: &refs };
    compile(&PolicySpec::parse(kind, &spec)?, 0, context)
}

/// An AuthorizationPolicy that compiles.
pub fn authorization(name: &str, spec: serde_json::Value) -> Attached {
    attached(policy(Kind::AuthorizationPolicy, name, spec).unwrap())
}

/// A RateLimitPolicy that compiles, with buckets of its own.
pub fn limits(name: &str, spec: serde_json::Value) -> Attached {
    attached(policy(Kind::RateLimitPolicy, name, spec).unwrap())
}

pub fn attached(policy: Compiled) -> Attached {
    let counts = policy.key.kind == "RateLimitPolicy";
    Attached { policy: Arc::new(policy), buckets: counts.then(Arc::default) }
}

/// The same policy with other buckets.
pub fn with_buckets(attached: &Attached, buckets: &Arc<Buckets>) -> Attached {
    Attached { policy: attached.policy.clone(), buckets: Some(buckets.clone()) }
}

/// All on the Service.
pub fn on_service(policies: Vec<Attached>) -> GuardSet {
    levels(vec![(service(), policies)])
}

pub fn levels(levels: Vec<(Target, Vec<Attached>)>) -> GuardSet {
    let levels = levels.into_iter().map(|(target, policies)| Level { target, policies }).collect();
    GuardSet { levels, posture: None }
}

pub fn service() -> Target {
    Target::new(TargetKind::Service, "shop", "orders")
}

pub fn namespace() -> Target {
    Target::new(TargetKind::Namespace, "", "shop")
}

pub fn posture(set: GuardSet, posture: Posture) -> GuardSet {
    let aliases = Arc::from([TrustDomain::try_from("old.example".to_string()).unwrap()]);
    let identity = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
    GuardSet { posture: Some(PostureAt { posture, identity, aliases }), ..set }
}
