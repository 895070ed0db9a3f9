//! The table: policies, and what becomes of requests under them.

mod callers;
mod connections;
mod policies;
mod requests;

use selvage_config::MeshSpec;
use selvage_tests::standalone::Call;
use serde_json::{Value, json};
use std::ops::RangeInclusive;

/// What a policy is attached to, from the outside in; what that is called differs by role.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// The mesh.
    Mesh,
    /// A Gateway, or a namespace.
    Outer,
    /// A route, or a Service.
    Inner,
    /// A rule, or a port.
    Section,
}

/// A policy of the row.
#[derive(Clone, Debug)]
pub struct Policy {
    pub kind: &'static str,
    pub name: &'static str,
    pub spec: Value,
    pub on: Vec<Level>,
    pub created: i64,
    pub refs: Vec<(&'static str, &'static str)>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// A plain connection.
    Nobody,
    /// A workload: namespace and account.
    Account(&'static str, &'static str),
    /// An identity of another trust domain.
    Foreign(&'static str),
}

/// What is to come of it.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// The application answers.
    Pass,
    /// The handshake fails: there is no connection to answer on.
    Stranger,
    /// The application answers with this status.
    Answer(u16),
    /// A refusal.
    Deny { reason: &'static str, policy: Option<&'static str>, rule: Option<&'static str> },
}

/// One request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub by: By,
    pub call: Call,
    pub want: Want,
    /// How often it reaches the application; absent: once if that answers, else never.
    pub reaches: Option<RangeInclusive<usize>>,
}

/// One configuration with its requests, in order.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: &'static str,
    pub policies: Vec<Policy>,
    pub mesh: Option<fn(&mut MeshSpec)>,
    pub asks: Vec<Ask>,
    /// Whether some Resource of it is rejected.
    pub rejected: bool,
    /// Whether the verdicts hold for gRPC calls too, which are all POST.
    pub grpc: bool,
}

const WEB: By = By::Account("shop", "web");
const BATCH: By = By::Account("jobs", "batch");
const EDGE: By = By::Account("shop", "public-selvage");
const FRIEND: By = By::Foreign("spiffe://friend.example/ns/shop/sa/web");
const ALIAS: By = By::Foreign("spiffe://old.local/ns/shop/sa/web");
const AUTHZ: &str = "AuthorizationPolicy";
const LIMIT: &str = "RateLimitPolicy";

fn row(name: &'static str) -> Row {
    Row { name, policies: Vec::new(), mesh: None, asks: Vec::new(), rejected: false, grpc: true }
}

impl Row {
    fn policy(mut self, kind: &'static str, name: &'static str, on: Level, spec: Value) -> Self {
        let created = self.policies.len() as i64;
        self.policies.push(Policy { kind, name, spec, on: vec![on], created, refs: Vec::new() });
        self
    }

    fn authz(self, name: &'static str, on: Level, spec: Value) -> Self {
        self.policy(AUTHZ, name, on, spec)
    }

    /// One rule, called `r`.
    fn rule(self, on: Level, action: &str, mut rest: Value) -> Self {
        rest["name"] = json!("r");
        rest["action"] = json!(action);
        self.authz("p", on, json!({ "rules": [rest] }))
    }

    fn allow(self, rest: Value) -> Self {
        self.rule(Level::Inner, "Allow", rest)
    }

    fn deny(self, rest: Value) -> Self {
        self.rule(Level::Inner, "Deny", rest)
    }

    fn limit(self, name: &'static str, on: Level, limits: Value) -> Self {
        self.policy(LIMIT, name, on, json!({ "limits": limits }))
    }

    fn resolved(mut self, name: &'static str, value: &'static str) -> Self {
        self.policies.last_mut().expect("a policy").refs.push((name, value));
        self
    }

    fn also_on(mut self, level: Level) -> Self {
        self.policies.last_mut().expect("a policy").on.push(level);
        self
    }

    fn mesh(mut self, change: fn(&mut MeshSpec)) -> Self {
        self.mesh = Some(change);
        self
    }

    fn ask(mut self, by: By, call: Call, want: Want) -> Self {
        self.asks.push(Ask { by, call, want, reaches: None });
        self
    }

    /// The last request reaches the application so often.
    fn reaching(mut self, times: RangeInclusive<usize>) -> Self {
        self.asks.last_mut().expect("a request").reaches = Some(times);
        self
    }

    fn get(self, by: By, target: &str, want: Want) -> Self {
        self.ask(by, Call::get(target), want)
    }

    fn rejected(mut self) -> Self {
        self.rejected = true;
        self
    }

    /// Its verdicts hang on the method.
    fn by_method(mut self) -> Self {
        self.grpc = false;
        self
    }
}

/// Every row for opaque connections.
pub fn opaque() -> Vec<Row> {
    connections::opaque()
}

const PASS: Want = Want::Pass;

fn refuse(reason: &'static str) -> Want {
    Want::Deny { reason, policy: None, rule: None }
}

fn by(reason: &'static str, policy: &'static str) -> Want {
    Want::Deny { reason, policy: Some(policy), rule: None }
}

fn by_rule(reason: &'static str, policy: &'static str, rule: &'static str) -> Want {
    Want::Deny { reason, policy: Some(policy), rule: Some(rule) }
}

/// No allow rule of `p` matched.
const UNLISTED: Want = Want::Deny { reason: "authorization_denied", policy: Some("p"), rule: None };
/// The deny rule `r` of `p` matched.
const DENIED: Want = Want::Deny { reason: "authorization_denied", policy: Some("p"), rule: Some("r") };
const BAD: Want = Want::Deny { reason: "bad_request", policy: None, rule: None };

/// Every row.
pub fn rows() -> Vec<Row> {
    [
        callers::identities(),
        callers::addresses_and_ports(),
        requests::methods_and_paths(),
        requests::hosts(),
        requests::headers(),
        requests::expressions(),
        policies::combinations(),
        policies::unusable(),
        policies::limits(),
        policies::traffic(),
    ]
    .concat()
}
