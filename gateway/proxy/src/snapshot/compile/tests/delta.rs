//! compile(previous, delta) equals a compile of everything from nothing.

use crate::snapshot::fixture::{Dice, World, gateway, service};
use crate::snapshot::{Live, Rule, Snapshot};
use selvage_policy::list::GuardSet;
use selvage_policy::{Target, TargetKind};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

const WORLDS: u64 = 40;
const DELTAS: usize = 20;

fn guards(set: &GuardSet) -> String {
    let levels: Vec<String> = set
        .levels
        .iter()
        .map(|level| format!("{}: {:?}", level.target, level.policies.iter().map(|attached| &attached.policy).collect::<Vec<_>>()))
        .collect();
    format!("{levels:?} {:?}", set.posture)
}

/// A rule in words; that it leads to the backends of this very Snapshot is asserted on the way.
fn rule(snapshot: &Snapshot, rule: &Rule) -> String {
    let mut text = format!("{}#{} {:?} [{}]", rule.route, rule.name, rule.filters, guards(&rule.guards));
    for backend in &rule.backends {
        if let Some(found) = &backend.backend {
            let current = &snapshot.destinations[&*found.key].backend;
            assert!(Arc::ptr_eq(found, current), "{} leads to an old {}", rule.route, found.key);
        }
        let key = backend.backend.as_ref().map(|backend| backend.key.to_string());
        write!(text, " -> {key:?} {} {:?} {:?}", backend.weight, backend.filters, backend.settings).expect("a String grows");
    }
    text
}

/// Everything a request could notice, sorted.
fn describe(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = vec![format!("{:?}", snapshot.mesh)];
    for (bind, listeners) in &snapshot.sockets {
        lines.push(format!("{bind:?}: {:?}", listeners.iter().map(|listener| listener.key.to_string()).collect::<Vec<_>>()));
        for listener in listeners {
            assert!(Arc::ptr_eq(listener, &snapshot.listeners[&*listener.key]));
            lines.push(format!("{:?} {} {:?}", listener.spec, guards(&listener.guards), listener.settings));
        }
    }
    let mut rest = Vec::new();
    for (key, parent) in &snapshot.parts.parents {
        let table = snapshot.listeners.get(key).map(|listener| &listener.routes);
        let table = table.or_else(|| snapshot.destinations.get(key).map(|destination| &destination.routes)).expect("the parent is here");
        assert!(parent.routes.is_empty() || Arc::ptr_eq(table, &parent.table), "{key} has an old table");
        for (route, placed) in &parent.routes {
            let rules: Vec<String> = placed.rules.iter().map(|one| rule(snapshot, one)).collect();
            rest.push(format!("{key} {route} {} {:?} {rules:?}", placed.created, placed.matches));
        }
    }
    for (key, destination) in &snapshot.destinations {
        let backend = &destination.backend;
        let mut endpoints: Vec<String> = backend.endpoints.endpoints().iter().map(|state| format!("{:?}", state.endpoint)).collect();
        endpoints.sort();
        let default = rule(snapshot, &destination.default_rule);
        rest.push(format!(
            "{key} {:?} {} {endpoints:?} {default} {}",
            backend.spec,
            guards(&backend.guards),
            destination.routes.is_empty()
        ));
    }
    for ((ip, port), destination) in &snapshot.by_address {
        assert!(Arc::ptr_eq(destination, &snapshot.destinations[&*destination.backend.key]));
        rest.push(format!("{ip}:{port} {}", destination.backend.key));
    }
    // Every address that any step of any world gives an endpoint, also those that have none by now.
    for port in 9000..9003 {
        let behind = snapshot.behind(([127, 0, 0, 1], port).into());
        rest.push(format!("{port} {:?}", behind.iter().map(|found| found.backend.key.to_string()).collect::<Vec<_>>()));
    }
    rest.sort();
    lines.extend(rest);
    lines
}

const LISTENERS: [&str; 3] = ["http", "other", "late"];
const SERVICES: [&str; 3] = ["orders", "stock", "web"];

fn target(dice: &mut Dice) -> Target {
    let route = Target::new(TargetKind::HTTPRoute, "shop", &format!("r{}", dice.below(5)));
    let listener = dice.one(&LISTENERS);
    let service = service(dice.one(&SERVICES));
    let all = [
        Target::new(TargetKind::Mesh, "", "default"),
        Target::new(TargetKind::Namespace, "", "shop"),
        gateway("public"),
        gateway("public").section(listener),
        route.clone(),
        route.section("one"),
        service,
    ];
    dice.one(&all)
}

fn backends(dice: &mut Dice) -> Value {
    (0..dice.below(3)).map(|_| json!({"backend": format!("Backend/shop/{}#80", dice.one(&SERVICES)), "weight": dice.below(3)})).collect()
}

/// One random edit: something new, something different, or something gone.
fn edit(world: &mut World, dice: &mut Dice) {
    match dice.below(9) {
        0 => {
            let name = dice.one(&LISTENERS);
            let extra = match dice.below(3) {
                0 => json!({}),
                1 => json!({"hostname": dice.one(&["a.example.com", "*.example.com"])}),
                _ => json!({"chain": [gateway("public")], "posture": true, "identity": "spiffe://cluster.local/ns/shop/sa/web"}),
            };
            world.listener(name, extra);
        }
        1..=3 => {
            let parents: Vec<String> = (0..1 + dice.below(2))
                .map(|_| match dice.chance(70) {
                    true => format!("Listener/shop/public#{}", dice.one(&LISTENERS)),
                    false => format!("Backend/shop/{}#80", dice.one(&SERVICES)),
                })
                .collect();
            let rules = json!([{"name": "one", "backends": backends(dice)}, {"matches": [{"path": {"prefix": "/x//y"}}], "backends": backends(dice)}]);
            let name = format!("r{}", dice.below(5));
            let created = dice.below(3) as i64;
            let hosts = if dice.chance(50) { json!(["a.example.com"]) } else { json!([]) };
            world.route(&name, created, json!({"parents": parents, "rules": rules, "hostnames": hosts}));
        }
        4 => {
            let name = dice.one(&SERVICES);
            let extra = if dice.chance(50) {
                json!({"addresses": [dice.one(&["10.0.0.1", "10.0.0.2"])]})
            } else {
                json!({"chain": [service(name)]})
            };
            let endpoints = (0..dice.below(3)).map(|port| json!({"address": format!("127.0.0.1:{}", 9000 + port)})).collect();
            world.backend(name, extra, endpoints);
        }
        5 => {
            let (name, at) = (format!("a{}", dice.below(3)), target(dice));
            let spec = match dice.below(3) {
                0 => json!({"rules": [{"name": "x", "action": "Deny", "to": [{"methods": ["PUT"]}]}]}),
                1 => json!({"rules": [{"name": "x", "action": "Allow", "from": [{"serviceAccount": "web"}]}]}),
                _ => json!({"broken": 1}),
            };
            world.policy("AuthorizationPolicy", &name, at, spec);
        }
        6 => {
            let (name, at) = (format!("t{}", dice.below(3)), target(dice));
            let mut spec = json!({"timeouts": {"request": format!("{}s", 1 + dice.below(3))}});
            if dice.chance(30) {
                spec["when"] = json!("request.method == 'GET'");
            }
            world.policy("TrafficPolicy", &name, at, spec);
        }
        7 => {
            let (posture, domain) = (dice.one(&["AllowAll", "Deny"]), dice.one(&["cluster.local", "other.local"]));
            let paths = json!({"doubleSlash": dice.one(&["Merge", "Keep"])});
            world.core("Mesh/default", json!({"trustDomain": domain, "roots": [], "posture": posture, "paths": paths}));
        }
        _ => {
            let keys: Vec<String> = world.resources.keys().map(ToString::to_string).collect();
            if !keys.is_empty() {
                let gone = dice.one(&keys);
                world.remove(&gone);
            }
        }
    }
}

#[test]
fn a_delta_gives_what_a_full_compile_gives() {
    let mut compared = 0;
    for seed in 1..=WORLDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut world, live) = (World::default(), Live::default());
        (0..10).for_each(|_| edit(&mut world, &mut dice));
        let mut snapshot = Snapshot::compile(&Snapshot::empty(), &world.resources, &live).0;
        for step in 0..DELTAS {
            for _ in 0..1 + dice.below(3) {
                edit(&mut world, &mut dice);
            }
            let (next, rejections) = Snapshot::compile(&snapshot, &world.resources, &live);
            let (full, all_rejections) = world.compile();
            assert_eq!(describe(&next), describe(&full), "seed {seed}, step {step}: {:#?}", world.resources);
            assert_eq!(rejections, all_rejections, "seed {seed}, step {step}");
            assert_eq!(Snapshot::check(&snapshot, &world.resources), rejections, "seed {seed}, step {step}");
            snapshot = next;
            compared += full.parts.parents.len();
        }
    }
    assert!(compared > 1000, "{compared} parents were compared: the worlds are not empty");
}
