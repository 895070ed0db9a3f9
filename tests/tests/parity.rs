//! One policy, one verdict: the same policies give the same status, reason, policy and body at an edge and in a sidecar, over HTTP/1.1,
//! HTTP/2 and gRPC, and over opaque TCP the same end and the same words in the log; and the verdict is the one the table names.

mod parity {
    pub mod rows;
}

use parity::rows::{Ask, By, Level, Policy, Row, Want, opaque, rows};
use selvage_config::keys;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Forward, MeshMode, Protocol};
use selvage_policy::{Key, SpiffeId, Target, TargetKind};
use selvage_proxy::observe::access::Sink;
use selvage_tests::standalone::{
    Authority, Caller, Heard, Recorder, Resources, Standalone, Via, address, edge_listener, identity, inbound_listener,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The port that policies know, in both roles.
const PORT: u16 = 8080;

/// What a request is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Http1,
    Http2,
    Grpc,
    Opaque,
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
    log: Log,
}

/// The access log of a proxy.
struct Log {
    path: PathBuf,
    read: usize,
}

/// What the client can tell, without what differs by nature (the request's id).
#[derive(Clone, Debug, PartialEq)]
struct Verdict {
    status: u16,
    fields: BTreeMap<String, String>,
    body: String,
}

impl Role {
    async fn edge(authority: &Authority, protocol: Protocol) -> Self {
        let backend = Recorder::start(address(0)).await;
        let (bind, name) = (address(18080), identity("shop", "public-selvage"));
        let listener = keys::listener("shop", "public", "http");
        let mut spec = edge_listener(bind, PORT);
        // Both see the same facts: callers may prove who they are here too, and the posture holds.
        spec.mesh = Some(MeshMode::Permissive);
        spec.posture = true;
        spec.chain.insert(0, Target::new(TargetKind::Mesh, "", "default"));
        spec.protocol = protocol;
        let service = keys::backend("shop", "orders", 80);
        let base = Resources::new(authority).leaf(authority, &name).listener(&listener, &spec).backend(
            "orders",
            80,
            AppProtocol::Detect,
            &[(backend.address, None)],
        );
        let base = match protocol {
            Protocol::Tcp => base.tcp_route("orders", &listener, &service),
            _ => base.route("orders", &listener, "/", &service),
        };
        Self::start("edge", base, bind, name, listener, backend).await
    }

    async fn sidecar(authority: &Authority, protocol: Protocol) -> Self {
        let backend = Recorder::start(address(0)).await;
        let (bind, name) = (address(PORT), identity("shop", "orders"));
        let listener = keys::inbound("shop", "orders-0", PORT);
        let mut spec = inbound_listener(bind, backend.address);
        spec.protocol = protocol;
        assert_eq!(spec.forward, Forward::Local(backend.address));
        let base = Resources::new(authority).leaf(authority, &name).listener(&listener, &spec);
        Self::start("sidecar", base, bind, name, listener, backend).await
    }

    async fn start(name: &'static str, base: Resources, address: SocketAddr, identity: SpiffeId, listener: Key, backend: Recorder) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let file = format!("selvage-parity-{}-{}.log", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(file);
        let proxy = Standalone::logging(&base, Sink::File(path.clone())).await;
        Self { name, proxy, base, address, identity, listener, backend, caller: Caller::new(), log: Log { path, read: 0 } }
    }

    fn targets(&self, level: Level, form: Form) -> Vec<Target> {
        let edge = self.name == "edge";
        let kind = if form == Form::Opaque { TargetKind::TCPRoute } else { TargetKind::HTTPRoute };
        let route = Target::new(kind, "shop", "orders");
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
            let on: Vec<Target> = on.iter().flat_map(|level| self.targets(*level, form)).collect();
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
        if form == Form::Opaque {
            return self.connect(authority, ask, &via).await;
        }
        let call = if form == Form::Grpc { ask.call.clone().grpc() } else { ask.call.clone() };
        let heard =
            self.caller.call(authority, self.address, &via, form != Form::Http1, &call).await.map_err(|error| format!("{error:#}"))?;
        self.reached(ask, heard.field("x-application") == "recorder")?;
        Ok(Verdict::of(&heard))
    }

    /// An opaque connection is answered by the application or closed; why, only the log says.
    async fn connect(&mut self, authority: &Authority, ask: &Ask, via: &Via) -> Result<Verdict, String> {
        const REQUEST: &[u8] = b"GET /opaque HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n";
        let heard = self.caller.opaque(authority, self.address, via, PORT, REQUEST).await.map_err(|error| format!("{error:#}"))?;
        let text = String::from_utf8_lossy(&heard);
        let answered = text.contains("GET /opaque orders.shop");
        self.reached(ask, answered)?;
        let line = self.log.next().await;
        let field = |name: &&str| Some((name.to_string(), line[*name].as_str()?.to_string()));
        let fields = ["protocol", "reason", "policy", "policy_rule", "detail"].iter().filter_map(field).collect();
        Ok(Verdict { status: if answered { 200 } else { 0 }, fields, body: if answered { String::new() } else { text.into_owned() } })
    }

    /// What was refused has not reached the application; what was answered by it has, once, or as often as the table says.
    fn reached(&self, ask: &Ask, answered: bool) -> Result<(), String> {
        let (seen, once) = (self.backend.take().len(), usize::from(answered));
        let wanted = ask.reaches.clone().unwrap_or(once..=once);
        if !wanted.contains(&seen) {
            return Err(format!("answered by the application: {answered}; reached it: {seen} times instead of {wanted:?}"));
        }
        Ok(())
    }
}

impl Log {
    /// The next line; it is written soon after a connection has ended.
    async fn next(&mut self) -> serde_json::Value {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            if let Some(line) = text.split_inclusive('\n').nth(self.read).filter(|line| line.ends_with('\n')) {
                self.read += 1;
                return serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
            assert!(tokio::time::Instant::now() < end, "nothing more in the log: {text}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
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
            (Want::Answer(status), _) => self.status == *status && field("x-application") == "recorder",
            (Want::Pass, Form::Opaque) => self.status == 200 && field("reason").is_empty(),
            (Want::Deny { reason, policy, rule }, Form::Opaque) => {
                let by = self.fields.get("policy").and_then(|policy| policy.rsplit('/').next());
                self.status == 0
                    && self.body.is_empty()
                    && field("reason") == *reason
                    && by == policy.map(|policy| named(policy, form)).as_deref()
                    && self.fields.get("policy_rule").map(String::as_str) == *rule
            }
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
    let mut roles = [Role::edge(&authority, Protocol::Http).await, Role::sidecar(&authority, Protocol::Detect).await];
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edge_and_sidecar_agree_on_every_opaque_connection() {
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let mut roles = [Role::edge(&authority, Protocol::Tcp).await, Role::sidecar(&authority, Protocol::Tcp).await];
    let (mut refused, mut failures) = (0, Vec::new());
    for row in opaque() {
        for role in &mut roles {
            role.configure(&row, Form::Opaque).await;
        }
        for ask in &row.asks {
            let [edge, sidecar] = &mut roles;
            let edge = edge.ask(&authority, ask, Form::Opaque).await;
            let sidecar = sidecar.ask(&authority, ask, Form::Opaque).await;
            let right = matches!(&edge, Ok(verdict) if verdict.is(&ask.want, Form::Opaque));
            refused += usize::from(matches!(&edge, Ok(verdict) if verdict.status == 0));
            if edge != sidecar || !right {
                failures.push(format!("{}: {:?}\n  wanted {:?}\n  edge    {edge:?}\n  sidecar {sidecar:?}", row.name, ask.by, ask.want));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(refused >= 15, "the table has become too thin: {refused} refusals");
}
