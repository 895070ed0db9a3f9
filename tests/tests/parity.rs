//! One policy, one verdict: the same policies give the same status, reason, policy and body at an edge and in a sidecar, over HTTP/1.1,
//! HTTP/2 and gRPC, and the verdict is the one the table names.

mod parity {
    pub mod rows;
}

use parity::rows::{Ask, By, Level, Policy, Row, Want, rows};
use selvage_config::keys;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Forward, MeshMode};
use selvage_policy::{Key, SpiffeId, Target, TargetKind};
use selvage_tests::standalone::{
    Authority, Call, Caller, Heard, Recorder, Resources, Standalone, Via, address, edge_listener, identity, inbound_listener,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The port that policies know, in both roles.
const PORT: u16 = 8080;

/// What a request is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Http1,
    Http2,
    Grpc,
}

/// One proxy in one role.
struct Role {
    name: &'static str,
    proxy: Standalone,
    base: Resources,
    address: SocketAddr,
    identity: SpiffeId,
    listener: Key,
    backend: Recorder,
    caller: Caller,
}

/// What the client can tell, without what differs by nature (the request's id).
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Role {
    async fn edge(authority: &Authority) -> Self {
        let backend = Recorder::start(address(0)).await;
        let (bind, name) = (address(18080), identity("shop", "public-selvage"));
        let listener = keys::listener("shop", "public", "http");
        let mut spec = edge_listener(bind, PORT);
        // Both see the same facts: callers may prove who they are here too, and the posture holds.
        spec.mesh = Some(MeshMode::Permissive);
        spec.posture = true;
        spec.chain.insert(0, Target::new(TargetKind::Mesh, "", "default"));
        let service = keys::backend("shop", "orders", 80);
        let base = Resources::new(authority)
            .leaf(authority, &name)
            .listener(&listener, &spec)
            .backend("orders", 80, AppProtocol::Detect, &[(backend.address, None)])
            .route("orders", &listener, "/", &service);
        Self::start("edge", base, bind, name, listener, backend).await
    }

    async fn sidecar(authority: &Authority) -> Self {
        let backend = Recorder::start(address(0)).await;
        let (bind, name) = (address(PORT), identity("shop", "orders"));
        let listener = keys::inbound("shop", "orders-0", PORT);
        let spec = inbound_listener(bind, backend.address);
        assert_eq!(spec.forward, Forward::Local(backend.address));
        let base = Resources::new(authority).leaf(authority, &name).listener(&listener, &spec);
        Self::start("sidecar", base, bind, name, listener, backend).await
    }

    async fn start(name: &'static str, base: Resources, address: SocketAddr, identity: SpiffeId, listener: Key, backend: Recorder) -> Self {
        let proxy = Standalone::start(&base).await;
        Self { name, proxy, base, address, identity, listener, backend, caller: Caller::new() }
    }

    fn targets(&self, level: Level) -> Vec<Target> {
        let edge = self.name == "edge";
        let route = Target::new(TargetKind::HTTPRoute, "shop", "orders");
        let service = Target::new(TargetKind::Service, "shop", "orders");
        vec![match level {
            Level::Mesh => Target::new(TargetKind::Mesh, "", "default"),
            Level::Outer if edge => Target::new(TargetKind::Gateway, "shop", "public"),
            Level::Outer => Target::new(TargetKind::Namespace, "", "shop"),
            Level::Inner if edge => route,
            Level::Inner => service,
            Level::Section if edge => route.section("main"),
            Level::Section => service.section("http"),
        }]
    }

    /// The row's configuration. Policies have a name of their own in each form, so that nothing counted in one is left in the next.
    async fn configure(&mut self, row: &Row, form: Form) {
        let mut resources = self.base.clone();
        for Policy { kind, name, spec, on, created, refs } in &row.policies {
            let on: Vec<Target> = on.iter().flat_map(|level| self.targets(*level)).collect();
            resources = resources.policy_of(kind, &named(name, form), spec, &on, *created, refs);
        }
        if let Some(change) = row.mesh {
            resources = resources.mesh(change);
        }
        let rejected = self.proxy.apply(&resources).await;
        assert_eq!(!rejected.is_empty(), row.rejected, "{}, {}: {rejected:?}", row.name, self.name);
        assert!(rejected.iter().all(|rejection| rejection.key != self.listener), "{rejected:?}");
    }

    async fn ask(&mut self, authority: &Authority, ask: &Ask, form: Form) -> Result<Verdict, String> {
        let via = match ask.by {
            By::Nobody => Via::Plain,
            By::Account(namespace, account) => Via::Mesh { from: identity(namespace, account), to: self.identity.clone() },
            By::Foreign(id) => Via::Mesh { from: id.parse().map_err(|error| format!("{error}"))?, to: self.identity.clone() },
        };
        let call = if form == Form::Grpc { ask.call.clone().grpc() } else { ask.call.clone() };
        let heard =
            self.caller.call(authority, self.address, &via, form != Form::Http1, &call).await.map_err(|error| format!("{error:#}"))?;
        self.reached(&call, &heard)?;
        Ok(Verdict::of(&heard))
    }

    /// What was refused has not reached the application; what was answered by it has, once.
    fn reached(&self, call: &Call, heard: &Heard) -> Result<(), String> {
        let seen = self.backend.take();
        let answered = heard.field("x-application") == "recorder";
        if seen.len() != usize::from(answered) {
            return Err(format!("{call:?} was answered {} and reached the application {} times", heard.status, seen.len()));
        }
        Ok(())
    }
}

impl Verdict {
    fn of(heard: &Heard) -> Self {
        let kept =
            ["content-type", "retry-after", "ratelimit", "ratelimit-policy", "grpc-status", "grpc-message", "x-application", "location"];
        let field = |name: &&str| Some((name.to_string(), coarse(name, heard.field(name)))).filter(|(_, value)| !value.is_empty());
        let mut json = heard.json();
        let body = match json.as_object_mut() {
            Some(problem) => {
                problem.remove("requestId").expect("a refusal names the request");
                json.to_string()
            }
            None => heard.text(),
        };
        Self { status: heard.status, fields: kept.iter().filter_map(field).collect(), body }
    }

    /// Whether it is what the table says.
    fn is(&self, want: &Want, form: Form) -> bool {
        let field = |name: &str| self.fields.get(name).map_or("", String::as_str);
        match (want, form) {
            (Want::Stranger, _) => false,
            (Want::Pass, Form::Grpc) => self.status == 200 && field("grpc-status") == "0",
            (Want::Pass, _) => self.status == 200 && field("x-application") == "recorder",
            (Want::Deny { reason, policy, rule }, Form::Grpc) => {
                let message = field("grpc-message");
                // `reason: A sentence. (Kind/namespace/name rule)`, the last part only where a policy is named.
                let named_by = message.strip_suffix(')').and_then(|message| message.rsplit_once(" (")).map(|(_, by)| by);
                let by = named_by.map(|by| by.split_once(' ').map_or((by, None), |(policy, rule)| (policy, Some(rule))));
                self.status == 200
                    && field("grpc-status") != "0"
                    && message.starts_with(&format!("{reason}: "))
                    && by.and_then(|(policy, _)| policy.rsplit('/').next()) == policy.map(|policy| named(policy, form)).as_deref()
                    && by.and_then(|(_, rule)| rule) == *rule
            }
            (Want::Deny { reason, policy, rule }, _) => {
                let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
                let by = body["policy"].as_str().map(|policy| policy.rsplit('/').next().unwrap_or_default().to_string());
                self.status >= 400
                    && body["status"] == self.status
                    && body["reason"] == *reason
                    && by == policy.map(|policy| named(policy, form))
                    && body["rule"].as_str() == *rule
            }
        }
    }
}

/// Times that run down are told in minutes: the two roles are not asked in the same instant.
fn coarse(name: &str, value: &str) -> String {
    let minutes = |seconds: &str| seconds.parse::<u64>().map_or(seconds.to_string(), |seconds| format!("{} min", (seconds + 30) / 60));
    match name {
        "retry-after" => minutes(value),
        "ratelimit" => value
            .split(";t=")
            .map(|part| part.split_once(',').map_or(minutes(part), |(t, rest)| format!("{},{rest}", minutes(t))))
            .collect::<Vec<_>>()
            .join(";t="),
        _ => value.to_string(),
    }
}

fn named(policy: &str, form: Form) -> String {
    format!("{policy}-{form:?}").to_lowercase()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_and_sidecar_agree_on_every_row() {
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let mut roles = [Role::edge(&authority).await, Role::sidecar(&authority).await];
    let (mut asked, mut refused, mut failures) = (0, 0, Vec::new());
    let rows = rows();
    assert!(rows.len() >= 60, "{} rows", rows.len());
    for row in &rows {
        for form in [Form::Http1, Form::Http2, Form::Grpc] {
            // A gRPC call is a POST; where the table's verdict hangs on the method, only the agreement is asked for.
            let judged = form != Form::Grpc || row.grpc;
            for role in &mut roles {
                role.configure(row, form).await;
            }
            for ask in &row.asks {
                let mut said = Vec::new();
                for role in &mut roles {
                    said.push((role.name, role.ask(&authority, ask, form).await));
                    asked += 1;
                }
                let place = format!("{}: {form:?} {:?} {} {}", row.name, ask.by, ask.call.method, ask.call.target);
                let [(_, edge), (_, sidecar)] = &said[..] else { unreachable!("there are two roles") };
                match (edge, sidecar) {
                    (Ok(edge), Ok(sidecar)) => {
                        refused += usize::from(edge.status >= 400 || edge.fields.contains_key("grpc-message"));
                        if edge != sidecar {
                            failures.push(format!("{place}\n  edge    {edge:?}\n  sidecar {sidecar:?}"));
                        } else if judged && !edge.is(&ask.want, form) {
                            failures.push(format!("{place}\n  wanted {:?}\n  both   {edge:?}", ask.want));
                        }
                    }
                    (Err(_), Err(_)) if matches!(ask.want, Want::Stranger) => {}
                    _ => failures.push(format!("{place}\n  {said:?}")),
                }
            }
        }
    }
    let connections: usize = roles.iter().map(|role| role.caller.connections).sum();
    eprintln!(
        "parity: {} rows, {asked} requests over {connections} connections, {refused} pairs refused, {} differences",
        rows.len(),
        failures.len()
    );
    assert!(refused > 100 && asked > 600, "the table has become too thin: {asked} requests, {refused} refusals");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
