//! How long it takes to translate and publish a large World: 1,000 Services, 5,000 routes and 10,000 endpoints by default.
//!
//! `cargo run --release -p selvage-controller --example scale [SERVICES ROUTES PODS]`

use selvage_config::VersionKey;
use selvage_controller::ca::{Authority, Kept};
use selvage_controller::publish::{Publication, Publisher};
use selvage_controller::translate::{CONTROLLER, Inputs, Translation, translate};
use selvage_controller::world::World;
use serde_json::{Value, json};
use std::time::{Instant, SystemTime};

/// Times each step is run; the shortest counts.
const ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut number = |default: usize| numbers.next().unwrap_or(Ok(default));
    let (services, routes, pods) = (number(1000)?, number(5000)?, number(10_000)?);
    let mut world = World::default();
    let begun = Instant::now();
    objects(services, routes, pods).into_iter().for_each(|object| world.insert_json(object));
    anyhow::ensure!(world.malformed.is_empty(), "{:?}", world.malformed.values().next());
    eprintln!("{services} Services, {routes} routes, {pods} Pods: taken in in {:?}", begun.elapsed());

    let translation = timed("translate", || translated(&world));
    eprintln!("  {} resources, {} views, {} nodes", translation.resources.len(), translation.views.len(), translation.nodes.len());
    let domain = world.mesh().trust_domain;
    let publisher = Publisher::new(std::sync::Arc::new(Authority::new(Kept::create(&domain, SystemTime::now())?)?));
    let publication = timed("publication", || Publication::from(&translation));
    let begun = Instant::now();
    publisher.publish(&publication);
    eprintln!("first publish: {:?}", begun.elapsed());
    timed("publish of the same", || publisher.publish(&publication));
    // One endpoint goes: what a rollout does, again and again.
    world.insert_json(slice(0, 1, pods, services));
    let next = Publication::from(&translated(&world));
    let begun = Instant::now();
    publisher.publish(&next);
    eprintln!("publish of one changed slice: {:?}", begun.elapsed());
    Ok(())
}

fn timed<T>(what: &str, mut step: impl FnMut() -> T) -> T {
    let mut best = None;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let value = step();
        let took = begun.elapsed();
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, value));
        }
    }
    let (took, value) = best.expect("there is at least one round");
    eprintln!("{what}: {took:?}");
    value
}

fn translated(world: &World) -> Translation {
    translate(world, &Inputs { roots: &["root".into()], version_key: &VersionKey::derive(b"scale") })
}

/// Fifty namespaces, half of the Pods with a sidecar, half of the routes the mesh's.
fn objects(services: usize, routes: usize, pods: usize) -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "selvage"}, "spec": {"controllerName": CONTROLLER}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public", "namespace": "ns0"},
            "spec": {"gatewayClassName": "selvage", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}]}}),
    ];
    for one in 0..services {
        objects.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{one}"), "namespace": namespace(one)},
            "spec": {"clusterIPs": [format!("10.96.{}.{}", one / 250, one % 250 + 1)], "selector": {"app": format!("s{one}")},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
        objects.push(slice(one, 0, pods, services));
    }
    for one in 0..pods {
        let sidecar = json!([{"name": "selvage-proxy", "restartPolicy": "Always"}]);
        objects.push(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{one}"), "namespace": namespace(one % services), "uid": format!("u{one}"), "labels": {"app": format!("s{}", one % services)}},
            "spec": {"serviceAccountName": format!("s{}", one % services), "initContainers": if one % 2 == 0 { sidecar } else { json!([]) },
                "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": address(one)}]}}));
    }
    for one in 0..routes {
        let to = one % services;
        let parent = if one % 2 == 0 {
            json!({"name": "public", "namespace": "ns0"})
        } else {
            json!({"group": "", "kind": "Service", "name": format!("s{to}"), "port": 80})
        };
        objects.push(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": format!("r{one}"), "namespace": namespace(to)},
            "spec": {"parentRefs": [parent], "hostnames": if one % 2 == 0 { vec![format!("h{one}.example.com")] } else { Vec::new() },
                "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": format!("/{one}")}}], "backendRefs": [{"name": format!("s{to}"), "port": 80}]}]}}));
    }
    objects
}

fn namespace(one: usize) -> String {
    format!("ns{}", one % 50)
}

fn address(pod: usize) -> String {
    format!("10.{}.{}.{}", 1 + pod / 62_500, pod / 250 % 250, pod % 250 + 1)
}

/// The slice of a Service, without its first few endpoints.
fn slice(service: usize, without: usize, pods: usize, services: usize) -> Value {
    let endpoint = |pod: usize| json!({"addresses": [address(pod)], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": format!("p{pod}"), "uid": format!("u{pod}")}});
    let endpoints: Vec<Value> = (service..pods).step_by(services).skip(without).map(endpoint).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s{service}"), "namespace": namespace(service), "labels": {"kubernetes.io/service-name": format!("s{service}")}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}
