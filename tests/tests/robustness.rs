//! What breaks proxies: requests that two programs read in two ways, forged fields, answers before the body was read, slow and flooding
//! clients. Whatever is sent, the backend sees unambiguous requests or none, and what follows on the connection is never misread.

mod robustness {
    pub mod frames;
    pub mod strict;
    pub mod vectors;
    pub mod wire;
}

use robustness::frames::{self, Frames};
use robustness::strict::{Arrived, Strict};
use robustness::vectors::{Vector, Want, vectors};
use robustness::wire::{Reply, Wire};
use selvage_config::keys;
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::Protocol;
use selvage_config::resource::route::{FilterSpec, MatchSpec, PathMatch, RedirectSpec, RuleSpec, WeightedBackend};
use selvage_policy::{Target, TargetKind};
use selvage_tests::standalone::{
    Authority, Call, Caller, Resources, Standalone, Via, address, edge_listener, identity, inbound_listener, service_chain,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, Semaphore};

/// Longer than an answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long silence is listened to where nothing need come.
const SILENCE: Duration = Duration::from_millis(1500);

/// Tests that measure this process, its memory or its speed, hold it alone; the others share it.
static PROCESS: RwLock<()> = RwLock::const_new(());

/// A proxy in one role, in front of a strict backend.
struct Role {
    name: &'static str,
    _proxy: Standalone,
    address: SocketAddr,
    backend: Strict,
}

impl Role {
    /// Rules: `/denied` 403, `/limited` 429, `/moved` 302, hosts other than the Service's are served alike.
    fn policies(resources: Resources, on: &Target) -> Resources {
        let deny = json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": ["/denied/*"] }] }] });
        let limit = json!({ "when": "request.path.startsWith(\"/limited\")", "limits": [{ "name": "l", "requests": 1, "per": "24h" }] });
        resources.policy("AuthorizationPolicy", "deny", &deny, std::slice::from_ref(on)).policy(
            "RateLimitPolicy",
            "limit",
            &limit,
            std::slice::from_ref(on),
        )
    }

    async fn edge(authority: &Authority) -> Self {
        let (backend, bind) = (Strict::start(address(0)).await, address(0));
        let bind = free(bind);
        let listener = keys::listener("shop", "public", "http");
        let target = keys::backend("shop", "orders", 80);
        let prefix = |path: &str| vec![MatchSpec { path: Some(PathMatch::Prefix(path.into())), ..MatchSpec::default() }];
        let redirect = RedirectSpec { hostname: Some("elsewhere.example".into()), status: 302, ..RedirectSpec::default() };
        let rules = vec![
            RuleSpec { matches: prefix("/moved"), filters: vec![FilterSpec::Redirect(redirect)], ..RuleSpec::default() },
            RuleSpec {
                matches: prefix("/"),
                backends: vec![WeightedBackend { backend: Some(target), weight: 1, filters: Vec::new() }],
                ..RuleSpec::default()
            },
        ];
        let resources = Resources::new(authority)
            .listener(&listener, &edge_listener(bind, bind.port()))
            .backend("orders", 80, AppProtocol::Http, &[(backend.address, None)])
            .route_of("orders", &listener, rules);
        let resources = Self::policies(resources, &Target::new(TargetKind::Gateway, "shop", "public"));
        Self { name: "edge", _proxy: started(&resources).await, address: bind, backend }
    }

    async fn sidecar(authority: &Authority) -> Self {
        let (backend, bind) = (Strict::start(address(0)).await, free(address(0)));
        let mut spec = inbound_listener(bind, backend.address);
        spec.protocol = Protocol::Http;
        let resources = Resources::new(authority)
            .leaf(authority, &identity("shop", "orders"))
            .listener(&keys::inbound("shop", "orders-0", bind.port()), &spec);
        let resources = Self::policies(resources, &service_chain("orders")[2]);
        Self { name: "sidecar", _proxy: started(&resources).await, address: bind, backend }
    }
}

async fn started(resources: &Resources) -> Standalone {
    let proxy = Standalone::start(resources).await;
    assert!(proxy.rejected.is_empty(), "{:?}", proxy.rejected);
    proxy
}

/// The same address with a port that is free now.
fn free(address: SocketAddr) -> SocketAddr {
    let socket = std::net::TcpListener::bind(address).expect("an address of our own");
    socket.local_addr().expect("a bound socket has an address")
}

/// What became of one vector.
#[derive(Debug)]
struct Outcome {
    replies: Vec<Reply>,
    /// The reply to the request that followed, if there was one.
    canary: Option<Reply>,
}

/// Sends the vector, reads what comes, then sends another request on the same connection and ends.
async fn attack(address: SocketAddr, number: usize, vector: &Vector, pipelined: bool) -> Outcome {
    let canary = format!("GET /canary-{number} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").into_bytes();
    let mut bytes = frames::replace(&vector.bytes, "§".as_bytes(), number.to_string().as_bytes());
    if pipelined {
        bytes.extend_from_slice(&canary);
    }
    let mut wire = Wire::connect(address).await;
    wire.send(&bytes).await;
    let patience = if vector.want == Want::Passed { PATIENCE } else { SILENCE };
    let mut replies = wire.replies(1, patience).await;
    if pipelined {
        replies.extend(wire.replies(2, SILENCE).await);
        return Outcome { replies, canary: None };
    }
    wire.send(&canary).await;
    let canary = wire.replies(1, SILENCE).await.pop();
    Outcome { replies, canary }
}

/// What is wrong with the outcome, given what reached the backend of this vector.
fn judge(number: usize, vector: &Vector, outcome: &Outcome, arrived: &[Arrived], pipelined: bool) -> Option<String> {
    let with = |prefix: &str| arrived.iter().filter(|request| mentions(&request.target, &format!("{prefix}-{number}"))).collect::<Vec<_>>();
    let first = outcome.replies.first();
    let (sent, hidden) = (with("v"), with("smuggled"));
    // Where the vector ends before what follows it, that is a request of its own right; only a refusal must not let it through.
    if vector.want == Want::Refused && !hidden.is_empty() {
        return Some(format!("what it hid reached the backend: {hidden:?}"));
    }
    if sent.len() > 1 || with("canary").len() > 1 {
        return Some(format!("reached the backend twice: {arrived:?}"));
    }
    for request in arrived {
        if let Some((name, value)) = request.fields.iter().find(|(_, value)| value.contains("forged")) {
            return Some(format!("{name}: {value} was believed"));
        }
        let clients: Vec<_> = request.fields.iter().filter(|(name, _)| name.replace('_', "-") == "x-forwarded-for").collect();
        if clients.len() != 1 || clients[0].1 != "127.0.0.1" {
            return Some(format!("the client's address is told as {clients:?}"));
        }
        if request.body.windows(7).any(|window| window == b"/canary") {
            return Some(format!("a body swallowed the next request: {request:?}"));
        }
    }
    match vector.want {
        Want::Refused if !sent.is_empty() => return Some(format!("reached the backend: {sent:?}")),
        Want::Refused if first.is_some_and(|reply| reply.status < 400) => return Some(format!("was answered {first:?}")),
        Want::Passed if sent.len() != 1 || first.is_none_or(|reply| reply.status != 200) => {
            return Some(format!("was not served: {first:?}, arrived {sent:?}"));
        }
        _ => {}
    }
    let canaries: Vec<&Reply> = if pipelined { outcome.replies.iter().skip(1).collect() } else { outcome.canary.iter().collect() };
    let wrong = canaries.iter().find(|reply| {
        let own = [format!("/canary-{number}"), format!("/smuggled-{number}")];
        reply.status == 200 && !own.iter().any(|own| reply.body.ends_with(own)) && !reply.body.is_empty()
    });
    wrong.map(|reply| format!("the request that followed was answered {reply:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ambiguous_never_reaches_the_backend() {
    let _shared = PROCESS.read().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let vectors = Arc::new(vectors());
    assert!(vectors.len() >= 150, "{} vectors", vectors.len());
    let mut table: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failures = Vec::new();
    for role in [Role::edge(&authority).await, Role::sidecar(&authority).await] {
        for pipelined in [false, true] {
            // Numbers of this round's own: what comes late of the other must not be taken for it.
            let first = if pipelined { vectors.len() } else { 0 };
            role.backend.take();
            let at_once = Arc::new(Semaphore::new(24));
            let tasks = (0..vectors.len()).map(|number| {
                let (vectors, at_once, address) = (vectors.clone(), at_once.clone(), role.address);
                tokio::spawn(async move {
                    let _permit = at_once.acquire().await;
                    attack(address, first + number, &vectors[number], pipelined).await
                })
            });
            let mut outcomes = Vec::new();
            for task in tasks.collect::<Vec<_>>() {
                outcomes.push(task.await.expect("no attack panics"));
            }
            let log = role.backend.take();
            failures.extend(log.violations.iter().map(|violation| format!("{}: {violation}", role.name)));
            for (number, (vector, outcome)) in vectors.iter().zip(&outcomes).enumerate() {
                let (cases, failed) = table.entry(vector.class).or_default();
                *cases += 1;
                let mark = format!("-{}", first + number);
                let arrived: Vec<Arrived> = log.arrived.iter().filter(|request| mentions(&request.target, &mark)).cloned().collect();
                if let Some(problem) = judge(first + number, vector, outcome, &arrived, pipelined) {
                    *failed += 1;
                    let way = if pipelined { ", pipelined" } else { "" };
                    failures.push(format!(
                        "{}{way}: {} `{}`: {problem}",
                        role.name,
                        vector.class,
                        vector.name.chars().take(120).collect::<String>()
                    ));
                }
            }
        }
    }
    eprintln!("{:12} {:>6} {:>9}", "class", "cases", "failures");
    for (class, (cases, failed)) in &table {
        eprintln!("{class:12} {cases:6} {failed:9}");
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Whether the number stands in the target as a whole.
fn mentions(target: &str, mark: &str) -> bool {
    target.match_indices(mark).any(|(at, mark)| !target[at + mark.len()..].starts_with(|next: char| next.is_ascii_digit()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_leaves_no_body_behind() {
    let _shared = PROCESS.read().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let (mut cases, mut failures) = (0, Vec::new());
    for role in [Role::edge(&authority).await, Role::sidecar(&authority).await] {
        // The one token of the limit.
        let mut wire = Wire::connect(role.address).await;
        wire.send(b"GET /limited HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
        assert_eq!(wire.replies(1, PATIENCE).await[0].status, 200);
        let moved = (role.name == "edge").then_some(("/moved", 302));
        for (path, status) in [("/denied/x", 403), ("/limited", 429), ("/x%2fy", 400)].into_iter().chain(moved) {
            let hidden = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
            let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
            let large = "x".repeat(300 * 1024);
            let bodies = [
                ("a small body", format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()), true),
                ("chunks", format!("Transfer-Encoding: chunked\r\n\r\n{chunked}"), true),
                ("a body that comes late", format!("Content-Length: {}\r\n\r\n", hidden.len()), false),
                ("a body that expects", format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", hidden.len()), false),
                ("half a chunk", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}", hidden.len(), &hidden[..10]), false),
                ("a large body", format!("Content-Length: {}\r\n\r\n{large}", large.len()), true),
                ("most of a large body", format!("Content-Length: {}\r\n\r\n{large}", 10 * large.len()), false),
            ];
            for (what, body, whole) in bodies {
                for pipelined in [false, true] {
                    cases += 1;
                    role.backend.take();
                    let mut wire = Wire::connect(role.address).await;
                    let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: a.example\r\n{body}").into_bytes();
                    let canary = b"GET /canary HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
                    if pipelined {
                        bytes.extend_from_slice(canary);
                    }
                    wire.send(&bytes).await;
                    let mut replies = wire.replies(1, PATIENCE).await;
                    if pipelined {
                        replies.extend(wire.replies(1, SILENCE).await);
                    } else {
                        // What is missing of a body is the hidden request, byte for byte.
                        wire.send(if whole { b"" } else { hidden.as_bytes() }).await;
                        wire.send(canary).await;
                        replies.extend(wire.replies(1, SILENCE).await);
                    }
                    let log = role.backend.take();
                    let place = format!("{}: POST {path} with {what}{}", role.name, if pipelined { ", pipelined" } else { "" });
                    if replies.first().is_none_or(|reply| reply.status != status) {
                        failures.push(format!("{place}: {replies:?}"));
                    }
                    if log.arrived.iter().any(|request| request.target != "/canary") || !log.violations.is_empty() {
                        failures.push(format!("{place}: {log:?}"));
                    }
                    // A body that is not whole takes what follows with it: that may be no request of its own.
                    if pipelined && !whole && !log.arrived.is_empty() && !what.contains("expects") {
                        failures.push(format!("{place}: the rest of the body was read as a request"));
                    }
                    let answered = replies.get(1).is_none_or(|reply| reply.status >= 400 || reply.body == "GET /canary");
                    if !answered || replies.len() > 2 {
                        failures.push(format!("{place}: {replies:?}"));
                    }
                }
            }
        }
    }
    eprintln!("early answers: {cases} cases, {} failures", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_does_not_slip_past_guards_of_a_detecting_listener() {
    let _shared = PROCESS.read().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let (backend, bind) = (Strict::start(address(0)).await, free(address(0)));
    let spec = inbound_listener(bind, backend.address);
    assert_eq!(spec.protocol, Protocol::Detect);
    let resources = Resources::new(&authority)
        .leaf(&authority, &identity("shop", "orders"))
        .listener(&keys::inbound("shop", "orders-0", bind.port()), &spec);
    let _proxy = started(&Role::policies(resources, &service_chain("orders")[2])).await;
    for line in [
        "GET  /denied/x HTTP/1.1",
        "GET /denied/x  HTTP/1.1",
        "\r\nGET /denied/x HTTP/1.1",
        "\nGET /denied/x HTTP/1.1",
        " GET /denied/x HTTP/1.1",
        "GET\t/denied/x HTTP/1.1",
        "GET /denied/x HTTP/1.1\r",
        "GET /denied/x HTTP/1.2",
        "GET /denied/x",
        "G\0T /denied/x HTTP/1.1",
        "GET /denied/x HTTP/0.9",
        "get /denied/x http/1.1",
        "\u{16}\u{3}GET /denied/x HTTP/1.1",
        "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX /denied/x HTTP/1.1",
    ] {
        let mut wire = Wire::connect(bind).await;
        wire.send(format!("{line}\r\nHost: a.example\r\n\r\n").as_bytes()).await;
        let replies = wire.replies(1, SILENCE).await;
        let log = backend.take();
        assert!(log.arrived.is_empty() && log.violations.is_empty(), "{line:?}: {log:?}");
        assert!(replies.iter().all(|reply| reply.status >= 400), "{line:?}: {replies:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_dribbles_in_ends_by_its_deadline_and_hinders_nobody() {
    let _alone = PROCESS.write().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let role = Role::edge(&authority).await;
    let begun = Instant::now();
    let slow = (0..100).map(|_| {
        let address = role.address;
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            wire.send(b"GET /slow HTTP/1.1\r\nHost: a.example\r\n").await;
            while begun.elapsed() < Duration::from_secs(25) {
                wire.send(b"X: 1\r\n").await;
                if let Some(reply) = wire.replies(1, Duration::from_millis(500)).await.first() {
                    return Some((reply.status, begun.elapsed()));
                }
                if wire.is_closed() {
                    return Some((0, begun.elapsed()));
                }
            }
            None
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut caller = Caller::new();
    let mut served = 0;
    while begun.elapsed() < Duration::from_secs(8) {
        let heard = caller.call(&authority, role.address, &Via::Plain, served % 2 == 0, &Call::get("/good")).await.expect("an answer");
        assert_eq!(heard.status, 200);
        served += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut ended = Vec::new();
    for task in slow {
        ended.push(task.await.expect("no client panics").expect("the connection ends"));
    }
    let last = ended.iter().map(|(_, after)| *after).max().expect("a hundred");
    eprintln!(
        "slow heads: {served} others served, 100 ended by {last:.1?}, with {:?}",
        ended.iter().map(|(status, _)| *status).collect::<std::collections::BTreeSet<_>>()
    );
    assert!(last < Duration::from_secs(24), "{last:?}");
    assert!(ended.iter().all(|(status, _)| matches!(status, 0 | 400 | 408 | 431)), "{ended:?}");
    assert!(served > 20, "{served}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_another_listener_of_the_certificate_serves_is_misdirected() {
    let _shared = PROCESS.read().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let (backend, bind) = (Strict::start(address(0)).await, free(address(0)));
    let target = keys::backend("shop", "orders", 80);
    let mut resources = Resources::new(&authority).backend("orders", 80, AppProtocol::Http, &[(backend.address, None)]);
    for name in ["a", "b"] {
        let (listener, host) = (keys::listener("shop", "public", name), format!("{name}.example"));
        let certificate = keys::certificate("shop", name);
        let mut spec = edge_listener(bind, 443);
        spec.protocol = Protocol::Https;
        spec.hostname = Some(host.clone().try_into().expect("a host"));
        spec.certificates = vec![certificate.clone()];
        resources = resources.certificate(&certificate, &authority.site(&["a.example", "b.example"])).listener(&listener, &spec);
        resources = resources.route(&format!("route-{name}"), &listener, "/", &target);
    }
    let _proxy = started(&resources).await;
    let mut caller = Caller::new();
    for h2 in [false, true] {
        for (sni, host, status) in [
            ("a.example", "a.example", 200),
            ("b.example", "b.example", 200),
            ("a.example", "b.example", 421),
            ("b.example", "a.example", 421),
            ("a.example", "B.Example.:443", 421),
            ("a.example", "c.example", 404),
            ("a.example", "A.EXAMPLE", 200),
        ] {
            let call = Call::get("/").host(host);
            let heard = caller.call(&authority, bind, &Via::Tls(sni.into()), h2, &call).await.expect("an answer");
            assert_eq!(heard.status, status, "SNI {sni}, host {host}, HTTP/2 {h2}: {}", heard.text());
        }
    }
    assert!(caller.call(&authority, bind, &Via::Tls("c.example".into()), true, &Call::get("/")).await.is_err(), "nobody has that name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_http2_requests_never_reach_the_backend() {
    let _shared = PROCESS.read().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let role = Role::edge(&authority).await;
    let mut failures = Vec::new();
    let all = frames::malformed();
    for (name, headers, body, want) in &all {
        role.backend.take();
        let mut frames = Frames::connect(role.address).await;
        let fields: Vec<(&[u8], &[u8])> = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        frames.headers(1, &fields, body.is_none()).await;
        if let Some(body) = body {
            frames.data(1, body, true).await;
        }
        let patience = if *want == Want::Passed { PATIENCE } else { SILENCE };
        let status = frames.status(1, patience).await;
        let log = role.backend.take();
        let arrived = log.arrived.len();
        let fine = match want {
            Want::Refused => arrived == 0 && status.is_none_or(|status| status >= 400),
            Want::Passed => arrived == 1 && status == Some(200),
            Want::Safe => arrived <= 1,
        };
        if !fine || !log.violations.is_empty() {
            failures.push(format!("{name}: answered {status:?}, {log:?}"));
        }
    }
    eprintln!("HTTP/2: {} requests, {} failures", all.len(), failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Others that are served while five connections flood, and the longest time one took.
const OTHERS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_http2_frames_end_their_connection_and_no_other() {
    let _alone = PROCESS.write().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let role = Role::edge(&authority).await;
    for (name, flood) in frames::floods() {
        let over = Arc::new(AtomicBool::new(false));
        let attackers: Vec<_> = (0..5)
            .map(|_| {
                let (address, over) = (role.address, over.clone());
                tokio::spawn(async move {
                    let mut longest = 0;
                    // Whoever is cut off comes back, until the others are served.
                    while !over.load(Ordering::Relaxed) {
                        let (ended, frames) = Frames::connect(address).await.flood(flood, PATIENCE).await;
                        assert!(ended, "{name}: the connection is still open after {frames} frames");
                        longest = longest.max(frames);
                    }
                    longest
                })
            })
            .collect();
        let mut longest = Duration::ZERO;
        let mut caller = Caller::new();
        for number in 0..OTHERS {
            let begun = Instant::now();
            let heard =
                caller.call(&authority, role.address, &Via::Plain, number % 2 == 0, &Call::get("/good")).await.expect("others are served");
            assert_eq!(heard.status, 200, "{}", heard.text());
            longest = longest.max(begun.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        let mut most = 0;
        for attacker in attackers {
            most = most.max(attacker.await.expect("every connection is cut off"));
        }
        eprintln!("{name}: cut off after at most {most} frames; {OTHERS} others served, the slowest in {longest:.0?}");
        assert!(longest < Duration::from_secs(10), "{name}: another request took {longest:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_are_allowed_hinder_nobody_however_many_there_are() {
    let _alone = PROCESS.write().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let role = Role::edge(&authority).await;
    for (name, flood) in frames::bearable() {
        let before = frames::resident();
        let address = role.address;
        let attackers: Vec<_> = (0..5)
            .map(|_| tokio::spawn(async move { Frames::connect(address).await.flood(flood, Duration::from_secs(3)).await }))
            .collect();
        let mut longest = Duration::ZERO;
        let mut caller = Caller::new();
        let mut served = 0;
        while served < OTHERS || attackers.iter().any(|attacker| !attacker.is_finished()) {
            let begun = Instant::now();
            let heard =
                caller.call(&authority, address, &Via::Plain, served % 2 == 0, &Call::get("/good")).await.expect("others are served");
            assert_eq!(heard.status, 200, "{}", heard.text());
            longest = longest.max(begun.elapsed());
            served += 1;
        }
        let mut most = 0;
        for attacker in attackers {
            most = most.max(attacker.await.expect("no attacker panics").1);
        }
        let grown = frames::resident().saturating_sub(before) >> 20;
        eprintln!(
            "{name}: up to {most} frames a connection; {served} others served, the slowest in {longest:.0?}; grown by {grown} MiB (limit 64)"
        );
        assert!(longest < Duration::from_secs(10), "{name}: another request took {longest:?}");
        assert!(grown <= 64, "{name}: {grown} MiB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_header_bombs_stay_small() {
    let _alone = PROCESS.write().await;
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let role = Role::edge(&authority).await;
    let mut caller = Caller::new();
    for h2 in [false, true] {
        caller.call(&authority, role.address, &Via::Plain, h2, &Call::get("/warm")).await.expect("an answer");
    }
    let before = frames::resident();
    let mut peaks = Vec::new();
    // What the first ones took the next ones find free again, their connections being closed.
    for _ in 0..3 {
        let mut peak = before;
        let mut connections = Vec::new();
        for _ in 0..10 {
            let mut frames = Frames::connect(role.address).await;
            frames.bomb(100, 1900).await;
            peak = peak.max(frames::resident());
            connections.push(frames);
        }
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            peak = peak.max(frames::resident());
        }
        peaks.push(peak);
    }
    let peak = peaks[0];
    let heard = caller.call(&authority, role.address, &Via::Plain, true, &Call::get("/after")).await.expect("others are served");
    assert_eq!(heard.status, 200);
    let grown = (peak.saturating_sub(before)) >> 20;
    eprintln!(
        "header bomb: 10 connections of 100 streams with 1,900 fields each grew this process by {grown} MiB (limit 64; attackers and backend included)"
    );
    assert!(grown <= 64, "{grown} MiB");
    assert!(peaks[2] <= peak + (16 << 20), "{peaks:?}");
    assert!(role.backend.take().arrived.iter().all(|request| request.target != "/bomb"), "a bomb reached the backend");
}
