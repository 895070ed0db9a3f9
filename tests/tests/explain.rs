//! Explain equals live: random policies and routes, random requests; `explain` says before each request what the proxy then answers.
//!
//! The seed is printed; `SELVAGE_SEED` sets another.

mod explain {
    pub mod random;
}

use explain::random::{Configuration, Random, Request};
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, MeshMode, Protocol};
use selvage_config::{BackendSpec, ListenerSpec, keys};
use selvage_policy::{SpiffeId, Target, TargetKind};
use selvage_proxy::explain::{At, Described, DescribedHttp, Explanation, Moment, Verdict, explain};
use selvage_proxy::state::clock;
use selvage_tests::Client;
use selvage_tests::standalone::{
    Authority, Call, Caller, Heard, Recorder, Resources, Standalone, Via, address, edge_listener, identity, inbound_listener, service_chain,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

const CONFIGURATIONS: usize = 160;
const REQUESTS: usize = 20;
/// Configurations of a listener of bytes.
const OPAQUE: usize = 80;
/// A slow machine stops early, with fewer requests but enough of them.
const BUDGET: Duration = Duration::from_secs(45);
const ENOUGH: usize = 2000;

struct Role {
    is_edge: bool,
    proxy: Standalone,
    base: Resources,
    address: SocketAddr,
    identity: SpiffeId,
}

impl Role {
    async fn edge(authority: &Authority, backend: &Recorder) -> Self {
        let (address, identity) = (address(18080), identity("shop", "public-selvage"));
        let mut spec = edge_listener(address, 8080);
        spec.mesh = Some(MeshMode::Permissive);
        let orders = BackendSpec { addresses: Vec::new(), port: 80, protocol: AppProtocol::Detect, chain: service_chain("orders") };
        let base = Resources::new(authority)
            .leaf(authority, &identity)
            .listener(&keys::listener("shop", "public", "http"), &spec)
            .backend_of("orders", &orders, &[(backend.address, None)])
            .backend("plain", 80, AppProtocol::Http, &[(backend.address, None)])
            .backend("empty", 80, AppProtocol::Http, &[]);
        Self { is_edge: true, proxy: Standalone::start(&base).await, base, address, identity }
    }

    async fn sidecar(authority: &Authority, backend: &Recorder) -> Self {
        let (address, identity) = (address(8080), identity("shop", "orders"));
        let spec = inbound_listener(address, backend.address);
        let base = Resources::new(authority).leaf(authority, &identity).listener(&keys::inbound("shop", "orders-0", 8080), &spec);
        Self { is_edge: false, proxy: Standalone::start(&base).await, base, address, identity }
    }

    /// The same for a port of which nothing but bytes is known.
    async fn opaque(authority: &Authority, backend: &Recorder) -> Self {
        let (address, identity) = (address(9000), identity("shop", "orders"));
        let spec = ListenerSpec { protocol: Protocol::Tcp, mesh: None, ..inbound_listener(address, backend.address) };
        let base = Resources::new(authority).leaf(authority, &identity).listener(&keys::inbound("shop", "orders-0", 9000), &spec);
        Self { is_edge: false, proxy: Standalone::start(&base).await, base, address, identity }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = service_chain("orders");
        if self.is_edge {
            let (gateway, route) = (Target::new(TargetKind::Gateway, "shop", "public"), Target::new(TargetKind::HTTPRoute, "shop", "main"));
            targets.extend([gateway.clone(), gateway.section("http"), route.section("main"), route]);
        } else {
            targets.push(Target::new(TargetKind::Workload, "shop", "orders-0"));
        }
        targets
    }

    fn explained(&self, request: &Request) -> Explanation {
        let principal = request.principal.as_ref().map(|(namespace, account)| identity(namespace, account));
        let http = DescribedHttp {
            method: request.call.method.clone(),
            scheme: "http".into(),
            host: request.call.host.clone(),
            path: request.call.target.clone(),
            headers: request.call.headers.clone(),
        };
        let described = Described { source: IpAddr::V4(Ipv4Addr::LOCALHOST), principal, http: Some(http), random: 0 };
        let moment = Moment { now: clock::now(), wall: SystemTime::now() };
        explain(&self.proxy.snapshot(), &At::Address(Bind::Bound(self.address), self.address), &described, moment)
    }
}

/// Where the two disagree.
fn difference(explained: &Explanation, heard: &Heard, details_hidden: bool) -> Option<String> {
    let live = heard.json();
    let (reason, policy, rule) = (live["reason"].as_str(), live["policy"].as_str(), live["rule"].as_str());
    let from_application = heard.field("x-application") == "recorder";
    match (&explained.verdict, &explained.redirect) {
        (Verdict::Allowed, Some(redirect)) => {
            let same = heard.status == redirect.status && heard.field("location") == redirect.location;
            (!same).then(|| format!("explained {redirect:?}, answered {} {:?}", heard.status, heard.field("location")))
        }
        (Verdict::Allowed, None) => {
            let text = heard.text();
            let path =
                explained.next.as_ref().and_then(|next| next.request.http.as_ref()).map(|http| http.path.clone()).unwrap_or_default();
            let same = from_application && text.split(' ').nth(1) == Some(path.as_str());
            (!same).then(|| format!("explained as allowed, at {path}; answered {} {text}", heard.status))
        }
        (Verdict::Denied { reason: wanted, status, policy: by, rule: in_rule, .. }, _) => {
            let by = by.as_ref().map(ToString::to_string);
            let named = policy == by.as_deref() && rule == in_rule.as_deref();
            let same = heard.status == *status && reason == Some(wanted) && (named || (details_hidden && policy.is_none()));
            (!same).then(|| format!("explained {wanted} by {by:?} {in_rule:?}; answered {} {live}", heard.status))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_what_the_proxy_answers() {
    selvage_tests::client::crypto();
    let seed = std::env::var("SELVAGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_124);
    eprintln!("explain: SELVAGE_SEED={seed}");
    let mut random = Random::new(seed);
    let authority = Authority::new();
    let backend = Recorder::start(address(0)).await;
    let roles = [Role::edge(&authority, &backend).await, Role::sidecar(&authority, &backend).await];
    let mut caller = Caller::new();
    let begun = Instant::now();
    let (mut asked, mut said) = (0, BTreeMap::<String, usize>::new());
    for number in 0..CONFIGURATIONS {
        if begun.elapsed() > BUDGET {
            break;
        }
        let role = &roles[number % 2];
        let configuration = Configuration::random(&mut random, &role.targets(), role.is_edge);
        let resources = configuration.resources(role.base.clone());
        role.proxy.apply(&resources).await;
        for _ in 0..REQUESTS {
            let request = Request::random(&mut random);
            let explained = role.explained(&request);
            let via = match &request.principal {
                None => Via::Plain,
                Some((namespace, account)) => Via::Mesh { from: identity(namespace, account), to: role.identity.clone() },
            };
            let context =
                || format!("SELVAGE_SEED={seed}, configuration {number}\n{}---\n{}", configuration.yaml(&resources), request.yaml());
            let heard = caller.call(&authority, role.address, &via, request.h2, &request.call).await;
            let heard = heard.unwrap_or_else(|error| panic!("{error:#}\n{}", context()));
            asked += 1;
            let word = match &explained.verdict {
                Verdict::Allowed if explained.redirect.is_some() => "redirected".to_string(),
                Verdict::Allowed => "allowed".to_string(),
                Verdict::Denied { reason, .. } => reason.to_string(),
            };
            *said.entry(word).or_default() += 1;
            if let Some(difference) = difference(&explained, &heard, configuration.hides_details) {
                panic!("{difference}\n{}", context());
            }
        }
    }
    eprintln!("explain: {asked} requests over {} connections in {:.1?}: {said:?}", caller.connections, begun.elapsed());
    assert!(asked >= ENOUGH, "only {asked} requests in {BUDGET:?}");
    for wanted in
        ["allowed", "redirected", "authorization_denied", "rate_limited", "bad_request", "policy_invalid", "posture_denied", "no_route"]
    {
        assert!(said.contains_key(wanted), "no request was {wanted}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_whether_an_opaque_connection_is_let_in() {
    selvage_tests::client::crypto();
    let seed = std::env::var("SELVAGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_126);
    let mut random = Random::new(seed);
    let authority = Authority::new();
    let backend = Recorder::start(address(0)).await;
    let role = Role::opaque(&authority, &backend).await;
    let client = Client::new(role.address);
    let mut said = BTreeMap::<String, usize>::new();
    for number in 0..OPAQUE {
        let configuration = Configuration::random(&mut random, &role.targets(), false);
        let resources = configuration.resources(role.base.clone());
        role.proxy.apply(&resources).await;
        // More than one, for limits. What the bytes are makes no difference.
        for _ in 0..3 {
            let explained = role.explained(&Request::random(&mut random));
            let word = match &explained.verdict {
                Verdict::Allowed => "allowed".to_string(),
                Verdict::Denied { reason, .. } => reason.to_string(),
            };
            let let_in = client.try_send(http::Method::GET, "/", "").await.is_ok();
            let context = || format!("SELVAGE_SEED={seed}, configuration {number}: {word}\n{}", configuration.yaml(&resources));
            assert_eq!(let_in, word == "allowed", "{}", context());
            *said.entry(word).or_default() += 1;
        }
    }
    eprintln!("explain: opaque connections: {said:?}");
    for wanted in ["allowed", "authorization_denied", "rate_limited", "posture_denied"] {
        assert!(said.contains_key(wanted), "no connection was {wanted}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_a_route_and_on_its_service_counts_a_request_once() {
    selvage_tests::client::crypto();
    let authority = Authority::new();
    let backend = Recorder::start(address(0)).await;
    let role = Role::edge(&authority, &backend).await;
    let on = [Target::new(TargetKind::HTTPRoute, "shop", "main"), Target::new(TargetKind::Service, "shop", "orders")];
    let limit = serde_json::json!({ "limits": [{ "name": "l", "requests": 2, "per": "24h" }] });
    let resources = role.base.clone().policy("RateLimitPolicy", "limit", &limit, &on);
    let resources = resources.route("main", &keys::listener("shop", "public", "http"), "/", &keys::backend("shop", "orders", 80));
    assert!(role.proxy.apply(&resources).await.is_empty());
    let mut caller = Caller::new();
    let mut answered = Vec::new();
    for _ in 0..3 {
        let heard = caller.call(&authority, role.address, &Via::Plain, false, &Call::get("/")).await;
        answered.push(heard.expect("an answer").status);
    }
    assert_eq!(answered, [200, 200, 429]);
}
