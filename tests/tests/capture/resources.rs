//! What the proxies of two pods are told: `pod` is `orders-0`, `peer` is `stock-0`, both as in a cluster.

use super::{EDGE, INBOUND, OUTBOUND};
use selvage_config::resource::backend::AppProtocol;
use selvage_config::resource::listener::{Bind, Clients, DestinationMatch, Forward, MeshMode, Protocol};
use selvage_config::{BackendSpec, ListenerSpec, keys};
use selvage_policy::{SpiffeId, Target, TargetKind};
use selvage_tests::standalone::{Authority, Resources, edge_listener, identity, inbound_listener, outbound_listener, service_chain};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// One pod.
pub struct Pod {
    name: &'static str,
    service: &'static str,
    ip: &'static str,
}

pub const ORDERS: Pod = Pod { name: "orders-0", service: "orders", ip: "10.77.0.2" };
pub const STOCK: Pod = Pod { name: "stock-0", service: "stock", ip: "10.77.0.4" };

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn deny(path: &str) -> Value {
    json!({ "rules": [{ "name": "r", "action": "Deny", "to": [{ "paths": [path] }] }] })
}

/// The same on these ports only: a path is unknown on opaque TCP, and what is unknown matches where it denies.
fn deny_on(path: &str, ports: &[u16]) -> Value {
    let mut spec = deny(path);
    spec["rules"][0]["to"][0]["ports"] = json!(ports);
    spec
}

impl Pod {
    fn identity(&self) -> SpiffeId {
        identity("shop", self.service)
    }

    fn workload(&self) -> Target {
        Target::new(TargetKind::Workload, "shop", self.name)
    }

    /// On a declared port, or on every other.
    fn inbound(&self, port: Option<u16>, mode: MeshMode) -> ListenerSpec {
        let to = SocketAddr::new(self.ip.parse().expect("an address"), port.unwrap_or(INBOUND));
        let mut chain = service_chain(self.service);
        if port.is_none() {
            chain.truncate(2);
        }
        chain.push(self.workload());
        ListenerSpec {
            bind: Bind::Captured(INBOUND),
            port: port.unwrap_or(0),
            destination: port.map(|port| DestinationMatch { addresses: Vec::new(), port: Some(port) }),
            mesh: Some(mode),
            forward: if port.is_some() { Forward::Local(to) } else { Forward::Own(to.ip()) },
            chain,
            identity: Some(self.identity()),
            ..inbound_listener(to, to)
        }
    }

    fn outbound(&self) -> ListenerSpec {
        ListenerSpec {
            bind: Bind::Captured(OUTBOUND),
            forward: Forward::Destination,
            clients: Clients::Application,
            port: 0,
            identity: Some(self.identity()),
            ..outbound_listener(at("10.77.0.2:1"), &keys::backend("shop", "remote", 80))
        }
    }
}

fn backend(service: &str, address: Option<&str>, port: u16, protocol: AppProtocol) -> BackendSpec {
    let addresses = address.into_iter().map(|address| address.parse::<IpAddr>().expect("an address")).collect();
    BackendSpec { addresses, port, protocol, chain: service_chain(service) }
}

/// What every proxy in the cluster knows of Services.
fn services(resources: Resources) -> Resources {
    let (orders, stock) = (Some(ORDERS.identity()), Some(STOCK.identity()));
    resources
        .backend_of("orders", &backend("orders", Some("10.96.0.30"), 80, AppProtocol::Http), &[(at("10.77.0.2:8080"), orders.clone())])
        .backend_of("own-db", &backend("own-db", Some("10.96.0.31"), 6379, AppProtocol::Tcp), &[(at("10.77.0.2:6379"), orders)])
        .backend_of("stock", &backend("stock", Some("10.96.0.20"), 80, AppProtocol::Http), &[(at("10.77.0.4:8080"), stock.clone())])
        // Headless: no address of its own.
        .backend_of("replicas", &backend("replicas", None, 8090, AppProtocol::Detect), &[(at("10.77.0.4:8090"), stock.clone())])
        .backend_of("db", &backend("db", Some("10.96.0.21"), 5432, AppProtocol::Tcp), &[(at("10.77.0.4:5432"), stock.clone())])
        .backend_of("remote", &backend("remote", Some("10.96.0.10"), 80, AppProtocol::Http), &[(at("10.77.0.3:9090"), None)])
        // Another Service of the same endpoint, with guards of its own.
        .backend_of("twin", &backend("twin", Some("10.96.0.11"), 80, AppProtocol::Http), &[(at("10.77.0.3:9090"), None)])
        // Said to have a sidecar, and has none.
        .backend_of("bare", &backend("bare", Some("10.96.0.12"), 80, AppProtocol::Http), &[(at("10.77.0.3:9091"), stock)])
        .policy("AuthorizationPolicy", "remote", &deny("/secret/*"), &[Target::new(TargetKind::Service, "shop", "remote")])
        .policy("AuthorizationPolicy", "twin", &deny("/twin/*"), &[Target::new(TargetKind::Service, "shop", "twin")])
}

/// The proxy of `pod`: edge, captured inbound and captured outbound.
pub fn of_orders(authority: &Authority, mode: MeshMode) -> Resources {
    let public = keys::listener("shop", "public", "http");
    services(Resources::new(authority))
        .leaf(authority, &ORDERS.identity())
        .leaf(authority, &identity("shop", "public-selvage"))
        .listener(&public, &edge_listener(at(&format!("10.77.0.2:{EDGE}")), 80))
        .listener(&keys::inbound("shop", "orders-0", 8080), &ORDERS.inbound(Some(8080), mode))
        .listener(&keys::inbound_any("shop", "orders-0"), &ORDERS.inbound(None, mode))
        .listener(&keys::outbound_any("shop", "orders-0"), &ORDERS.outbound())
        .route("orders", &public, "/", &keys::backend("shop", "remote", 80))
        // A mesh route of `stock`: it holds for the Service's address, not for a pod's.
        .route("stock", &keys::backend("shop", "stock", 80), "/routed", &keys::backend("shop", "stock", 80))
        .policy("AuthorizationPolicy", "inside", &deny("/admin/*"), &[Target::new(TargetKind::Service, "shop", "orders")])
        .policy("AuthorizationPolicy", "workload", &deny_on("/hidden/*", &[7000, 8080]), &[ORDERS.workload()])
}

/// The proxy of `peer`: what its own workload is told, and nothing of the edge.
pub fn of_stock(authority: &Authority, mode: MeshMode) -> Resources {
    let mut db = STOCK.inbound(Some(5432), mode);
    db.protocol = Protocol::Tcp;
    services(Resources::new(authority))
        .leaf(authority, &STOCK.identity())
        .listener(&keys::inbound("shop", "stock-0", 8080), &STOCK.inbound(Some(8080), mode))
        .listener(&keys::inbound("shop", "stock-0", 5432), &db)
        .listener(&keys::inbound_any("shop", "stock-0"), &STOCK.inbound(None, mode))
        .listener(&keys::outbound_any("shop", "stock-0"), &STOCK.outbound())
        .policy("AuthorizationPolicy", "stock", &deny_on("/admin/*", &[8080, 8090]), &[STOCK.workload()])
}
