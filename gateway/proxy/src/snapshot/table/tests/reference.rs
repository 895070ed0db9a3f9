//! The table against the plainest matcher that could be written: look at every match of every route, sort, take the first.

use crate::snapshot::fixture::{Dice, Facts, World};
use percent_encoding::percent_decode_str;
use selvage_config::RouteSpec;
use selvage_config::resource::route::{MatchSpec, PathMatch, ValueMatch, ValueTest};
use selvage_config::resource::text::HostPattern;
use serde_json::{Value, json};
use std::cmp::Reverse;

const WORLDS: u64 = 150;
const REQUESTS: usize = 40;

const HOSTS: [&str; 7] =
    ["a.example.com", "b.example.com", "example.com", "x.a.example.com", "y.x.a.example.com", "other.org", "q.other.org"];
const PATTERNS: [&str; 6] = ["a.example.com", "*.example.com", "*.a.example.com", "*.com", "other.org", "*.other.org"];
const PATHS: [&str; 10] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b", "/b/a", "/a//b", "/c/d/e/f"];
const REGEXES: [&str; 4] = ["/a.*", "/[ab]/.*", "/", "/c/d/[a-z]/f"];

fn condition(dice: &mut Dice, names: &[&str]) -> Value {
    let value =
        if dice.chance(70) { json!({"exact": dice.one(&["1", "2", ""])}) } else { json!({"regex": dice.one(&["[12]", ".*", "1|3"])}) };
    json!({"name": dice.one(names), "value": value})
}

fn one_match(dice: &mut Dice) -> Value {
    let mut written = json!({});
    match dice.below(10) {
        0 => {}
        1..=3 => written["path"] = json!({"exact": dice.one(&PATHS)}),
        4 | 5 => written["path"] = json!({"regex": dice.one(&REGEXES)}),
        _ => written["path"] = json!({"prefix": dice.one(&PATHS)}),
    }
    if dice.chance(25) {
        written["method"] = json!(dice.one(&["GET", "POST"]));
    }
    if dice.chance(30) {
        written["headers"] = (0..=dice.below(2)).map(|_| condition(dice, &["x-a", "x-b"])).collect();
    }
    if dice.chance(30) {
        written["query"] = (0..=dice.below(2)).map(|_| condition(dice, &["q", "r"])).collect();
    }
    written
}

fn random_world(dice: &mut Dice) -> World {
    let mut world = World::default();
    let hostname = if dice.chance(30) { json!({"hostname": dice.one(&PATTERNS)}) } else { json!({}) };
    // `//` is kept, so that empty segments are met.
    world.core("Mesh/default", json!({"trustDomain": "cluster.local", "roots": [], "paths": {"doubleSlash": "Keep"}}));
    world.listener("http", hostname);
    for number in 0..1 + dice.below(8) {
        let hostnames: Vec<&str> = (0..dice.below(3)).map(|_| dice.one(&PATTERNS)).collect();
        let rules: Vec<Value> = (0..1 + dice.below(3))
            .map(|_| json!({"matches": (0..dice.below(3)).map(|_| one_match(dice)).collect::<Vec<Value>>()}))
            .collect();
        let created = dice.below(3) as i64;
        world.route(&format!("r{number}"), created, json!({"hostnames": hostnames, "rules": rules}));
    }
    world
}

fn random_request(dice: &mut Dice) -> Facts {
    let query = match dice.below(4) {
        0 => String::new(),
        _ => format!(
            "?{}",
            (0..=dice.below(2)).map(|_| dice.one(&["q=1", "q=2", "r=1", "q", "r=%31", "%71=3"])).collect::<Vec<_>>().join("&")
        ),
    };
    let headers: Vec<(&str, &str)> =
        (0..dice.below(3)).map(|_| dice.one(&[("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-b", "")])).collect();
    Facts::of(dice.one(&["GET", "POST", "PUT"]), &format!("{}{}{query}", dice.one(&HOSTS), dice.one(&PATHS)), &headers)
}

fn value_holds(test: &ValueTest, value: Option<String>) -> bool {
    match (test, value) {
        (_, None) => false,
        (ValueTest::Exact(wanted), Some(value)) => *wanted == value,
        (ValueTest::Regex(pattern), Some(value)) => pattern.matches(&value),
    }
}

/// Of conditions with one name the first.
fn distinct(conditions: &[ValueMatch]) -> Vec<&ValueMatch> {
    conditions
        .iter()
        .enumerate()
        .filter(|(at, one)| !conditions[..*at].iter().any(|other| other.name == one.name))
        .map(|(_, one)| one)
        .collect()
}

/// How specific the path is, if it matches: exact 3, prefix 2 with its length, regex 1, root 0.
fn path_rank(path: Option<&PathMatch>, request: &str) -> Option<(u8, usize)> {
    match path {
        None => Some((0, 0)),
        Some(PathMatch::Exact(exact)) => (exact == request).then_some((3, 0)),
        Some(PathMatch::Regex(pattern)) => pattern.matches(request).then_some((1, 0)),
        Some(PathMatch::Prefix(prefix)) => {
            let prefix = prefix.trim_end_matches('/');
            let holds = request == prefix || request.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
            holds.then_some(if prefix.is_empty() { (0, 0) } else { (2, prefix.len()) })
        }
    }
}

/// How specific the host is, if it matches.
fn host_rank(route: &RouteSpec, listener: Option<&HostPattern>, host: &str) -> Option<(u8, usize)> {
    let rank = |pattern: &HostPattern| (if pattern.suffix().is_some() { 1 } else { 2 }, pattern.as_str().len());
    let effective: Vec<Option<HostPattern>> = match (route.hostnames.is_empty(), listener) {
        (true, listener) => vec![listener.cloned()],
        (false, None) => route.hostnames.iter().cloned().map(Some).collect(),
        (false, Some(listener)) => route.hostnames.iter().filter_map(|own| own.intersection(listener)).map(Some).collect(),
    };
    let ranks = effective.iter().filter_map(|pattern| match pattern {
        None => Some((0, 0)),
        Some(pattern) => pattern.matches(host).then(|| rank(pattern)),
    });
    ranks.max()
}

fn holds(one: &MatchSpec, facts: &Facts) -> bool {
    let header = |name: &str| {
        let lines: Vec<&str> = facts.headers.get_all(name).iter().map(|line| line.to_str().expect("text")).collect();
        (!lines.is_empty()).then(|| lines.join(", "))
    };
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let parameter = |name: &str| {
        let pairs: Vec<(String, String)> = facts
            .query
            .iter()
            .flat_map(|query| query.split('&'))
            .map(|pair| pair.split_once('=').map_or((decode(pair), String::new()), |(key, value)| (decode(key), decode(value))))
            .collect();
        pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    };
    one.method.as_ref().is_none_or(|method| method == facts.method.as_str())
        && distinct(&one.headers).iter().all(|condition| value_holds(&condition.value, header(&condition.name)))
        && distinct(&one.query).iter().all(|condition| value_holds(&condition.value, parameter(&condition.name)))
}

/// What the reference looks at, parsed once a world.
struct Known {
    listener: Option<HostPattern>,
    routes: Vec<(i64, RouteSpec)>,
}

fn known(world: &World) -> Known {
    let mut known = Known { listener: None, routes: Vec::new() };
    for resource in world.resources.values() {
        match resource.key.kind.as_str() {
            "Listener" => known.listener = resource.spec.get("hostname").map(|host| serde_json::from_value(host.clone()).expect("a host")),
            "Route" => known.routes.push((resource.created, serde_json::from_value(resource.spec.clone()).expect("a route"))),
            _ => {}
        }
    }
    known
}

/// The rule that the precedence of Gateway API gives a request, found by looking at everything.
fn reference(known: &Known, facts: &Facts) -> Option<(String, String)> {
    let mut candidates = Vec::new();
    for (created, route) in &known.routes {
        let Some(host) = host_rank(route, known.listener.as_ref(), &facts.host) else { continue };
        for (number, rule) in route.rules.iter().enumerate() {
            let all = [MatchSpec::default()];
            let matches = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
            for (index, one) in matches.iter().enumerate().filter(|(_, one)| holds(one, facts)) {
                let Some(path) = path_rank(one.path.as_ref(), &facts.path) else { continue };
                let conditions = (one.method.is_some(), distinct(&one.headers).len(), distinct(&one.query).len());
                let order = (Reverse(host), Reverse(path), Reverse(conditions), *created, route.object.name.clone(), number, index);
                candidates.push((order, number.to_string()));
            }
        }
    }
    candidates.into_iter().min().map(|(order, rule)| (order.4, rule))
}

#[test]
fn the_table_agrees_with_a_linear_reference() {
    let (mut cases, mut matched) = (0, 0);
    for seed in 1..=WORLDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let world = random_world(&mut dice);
        let (snapshot, known) = (world.snapshot(), known(&world));
        let table = &snapshot.listeners.values().next().expect("one listener").routes;
        for _ in 0..REQUESTS {
            let facts = random_request(&mut dice);
            let found = table.find(&facts.exchange()).map(|found| (found.rule.route.name.clone(), found.rule.name.to_string()));
            let wanted = reference(&known, &facts);
            assert_eq!(
                found, wanted,
                "seed {seed}: {} {}{}?{:?} {:?} in {:#?}",
                facts.method, facts.host, facts.path, facts.query, facts.headers, world.resources
            );
            cases += 1;
            matched += usize::from(wanted.is_some());
        }
    }
    assert!(cases >= 5000 && matched * 3 > cases && matched < cases, "{matched} of {cases} cases match: both outcomes are exercised");
}
