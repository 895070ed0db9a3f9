//! `selvage explain`: a described request, hop by hop, through the Snapshots that the proxies would have.

mod text;

pub use text::write;

use crate::cli;
use crate::read::Read;
use anyhow::{Context, Result, bail};
use http::Uri;
use selvage_config::keys;
use selvage_config::resource::listener::{Bind, Forward, Protocol};
use selvage_policy::{Key, SpiffeId};
use selvage_proxy::explain::{At, Described, DescribedHttp, Explanation, Moment, Verdict, explain};
use selvage_proxy::snapshot::{Listener, Live, Snapshot};
use selvage_proxy::state::clock;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

/// More hops than any path has: a guard against our own faults.
const MOST_HOPS: usize = 8;

/// What would happen to a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// `Allowed` or `Denied`.
    pub verdict: &'static str,
    /// Why it is denied: a word of the list of reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The policy that denies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Key>,
    /// The rule or limit in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The status of the answer, where a proxy gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// One sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The request as it was described.
    pub request: String,
    /// Proxies, in order.
    pub hops: Vec<ProxyHop>,
}

/// One proxy's part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyHop {
    /// The proxy: a Gateway's, or a workload's sidecar.
    pub proxy: Key,
    /// What it does.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Where a described request begins.
struct Start {
    proxy: Key,
    address: SocketAddr,
    /// The application's own address, or the client's.
    source: IpAddr,
}

/// Explains a request.
pub fn run(read: &Read, options: &cli::Explain) -> Result<Explained> {
    let url: Uri = options.url.parse().with_context(|| format!("--url {} is not a URL: write http://HOST:PORT/PATH", options.url))?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        bail!("--url {} lacks scheme or host: write http://HOST:PORT/PATH", options.url)
    };
    if !matches!(scheme, "http" | "https") {
        bail!("--url begins with {scheme}://: only http:// and https:// can be explained");
    }
    let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let headers = options.header.iter().map(|line| header(line)).collect::<Result<Vec<_>>>()?;
    let named = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
    let host = named.unwrap_or_else(|| authority.to_string());
    let start = match &options.from {
        Some(from) => from_workload(read, from, authority.host(), port)?,
        None => from_outside(read, options, scheme, bare(&host), authority.host(), port)?,
    };
    let http = DescribedHttp {
        method: options.method.to_uppercase(),
        scheme: scheme.into(),
        host,
        path: url.path_and_query().map_or_else(|| "/".to_string(), ToString::to_string),
        headers: headers.into_iter().filter(|(name, _)| name != "host").collect(),
    };
    let mut explained = Explained {
        verdict: "Allowed",
        reason: None,
        policy: None,
        rule: None,
        status: None,
        detail: None,
        request: format!("{} {}", http.method, options.url),
        hops: Vec::new(),
    };
    let described = Described { source: start.source, principal: None, http: Some(http), random: 0 };
    explained.walk(read, start.proxy, start.address, described)?;
    Ok(explained)
}

impl Explained {
    fn walk(&mut self, read: &Read, mut proxy: Key, mut address: SocketAddr, mut described: Described) -> Result<()> {
        for _ in 0..MOST_HOPS {
            let snapshot = snapshot(read, &proxy)?;
            let moment = Moment { now: clock::now(), wall: SystemTime::now() };
            let explanation = explain(&snapshot, &At::Address(Bind::Bound(address), address), &described, moment);
            let (verdict, next) = (explanation.verdict.clone(), explanation.next.clone());
            let redirect = explanation.redirect.as_ref().map(|redirect| redirect.status);
            self.hops.push(ProxyHop { proxy, explanation });
            if let Verdict::Denied { reason, status, policy, rule, detail } = verdict {
                self.verdict = "Denied";
                (self.reason, self.policy, self.rule) = (Some(reason.into()), policy, rule);
                (self.status, self.detail) = (Some(status), Some(detail));
                return Ok(());
            }
            self.status = redirect;
            // Without an identity an application is there, and no proxy of ours.
            let Some((next, workload)) = next.and_then(|next| Some((next.clone(), next.identity.and(next.workload)?))) else {
                return Ok(());
            };
            (proxy, address, described) = (workload, next.address, next.request);
        }
        bail!("the request passes more than {MOST_HOPS} proxies; this is a fault of Selvage")
    }
}

/// What a proxy of the laptop would have in force. Leaves are no matter here: who has which identity is in the Resources.
fn snapshot(read: &Read, proxy: &Key) -> Result<Snapshot> {
    let resources = read.view(proxy).with_context(|| format!("{proxy} has no proxy"))?;
    Ok(Snapshot::compile(&Snapshot::empty(), &resources, &Live::default()).0)
}

fn from_workload(read: &Read, from: &str, host: &str, port: u16) -> Result<Start> {
    let (namespace, name) =
        from.split_once('/').with_context(|| format!("--from {from}: write NAMESPACE/NAME of a Pod or a service account"))?;
    let near = || read.world.pods.iter().filter(|(pod, _)| pod.namespace == namespace);
    let pod =
        near().find(|(pod, _)| pod.name == name).or_else(|| near().find(|(_, pod)| pod.spec.account() == name)).map(|(pod, _)| pod.clone());
    let pod = pod.with_context(|| format!("--from {from}: there is no such Pod, and no Pod with that service account"))?;
    let proxy = pod.key("Pod");
    let snapshot = snapshot(read, &proxy)
        .with_context(|| format!("--from {from} has no sidecar; leave --from out for a caller from outside the mesh"))?;
    let service = service_of(host, &pod.namespace);
    let listener = service
        .as_ref()
        .and_then(|(space, service)| snapshot.listeners.get(&keys::outbound(&pod.namespace, &pod.name, space, service, port)));
    let by_address = || host.parse::<IpAddr>().ok().and_then(|ip| listening(&snapshot, SocketAddr::new(ip, port)));
    let listener = listener.cloned().or_else(by_address).with_context(|| {
        let known: Vec<String> = snapshot.destinations.keys().map(|key| key.to_string()).collect();
        format!("{host}:{port} is no Service's port that {from} can call; there are: {}", known.join(", "))
    })?;
    let Bind::Bound(address) = listener.spec.bind else { bail!("{} is captured, which a laptop has not", listener.key) };
    let own = read.world.addresses.as_ref().and_then(|addresses| addresses.process(&pod)).map(IpAddr::from);
    Ok(Start { proxy, address, source: own.unwrap_or(address.ip()) })
}

/// A Service's name in a URL: `orders`, `orders.shop`, `orders.shop.svc`, `orders.shop.svc.cluster.local`.
fn service_of<'a>(host: &'a str, own: &'a str) -> Option<(&'a str, &'a str)> {
    let mut parts = host.split('.');
    let (service, namespace) = (parts.next()?, parts.next().unwrap_or(own));
    matches!(parts.next(), None | Some("svc")).then_some((namespace, service))
}

fn listening(snapshot: &Snapshot, address: SocketAddr) -> Option<Arc<Listener>> {
    snapshot.sockets.get(&Bind::Bound(address)).and_then(|sharing| sharing.first()).cloned()
}

fn from_outside(read: &Read, options: &cli::Explain, scheme: &str, host: &str, dialled: &str, port: u16) -> Result<Start> {
    let wanted = options.gateway.as_ref().map(|name| read.proxy(name)).transpose()?;
    let mut found: Vec<(Key, SocketAddr, bool, bool)> = Vec::new();
    let edges = read.translation.views.keys().filter(|key| key.kind == "Gateway");
    for proxy in edges.filter(|key| wanted.as_ref().is_none_or(|wanted| wanted == *key)) {
        let snapshot = snapshot(read, proxy)?;
        for listener in snapshot.listeners.values() {
            let secure = matches!(listener.spec.protocol, Protocol::Https | Protocol::Tls);
            let Bind::Bound(address) = listener.spec.bind else { continue };
            if matches!(listener.spec.forward, Forward::Routes) && listener.spec.port == port && secure == (scheme == "https") {
                let dialled = dialled.parse::<IpAddr>().is_ok_and(|ip| ip == address.ip());
                found.push((proxy.clone(), address, dialled, listener.serves(host)));
            }
        }
    }
    // The address that was dialled says most, then who serves the host.
    for decisive in [|one: &(Key, SocketAddr, bool, bool)| one.2, |one: &(Key, SocketAddr, bool, bool)| one.3] {
        if found.iter().any(decisive) {
            found.retain(decisive);
        }
    }
    found.sort();
    found.dedup_by_key(|one| one.1);
    match found.as_slice() {
        [(proxy, address, ..)] => Ok(Start { proxy: proxy.clone(), address: *address, source: options.source }),
        [] => bail!("no Gateway listens on port {port} for {scheme}; to explain a call between workloads add --from NAMESPACE/NAME"),
        several => {
            let all: Vec<String> = several.iter().map(|(proxy, ..)| format!("{}/{}", proxy.namespace, proxy.name)).collect();
            bail!("several Gateways would take it: add --gateway with one of {}", all.join(", "))
        }
    }
}

fn bare(host: &str) -> &str {
    host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(host, _)| host)
}

fn header(line: &str) -> Result<(String, String)> {
    let (name, value) = line.split_once(':').with_context(|| format!("--header {line}: write NAME:VALUE"))?;
    Ok((name.trim().to_lowercase(), value.trim().to_string()))
}

/// A principal as people know it: without the trust domain's scheme.
fn short(identity: &SpiffeId) -> String {
    format!("{}/{}", identity.namespace(), identity.account())
}
