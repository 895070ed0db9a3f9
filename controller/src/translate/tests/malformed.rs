//! What is said of objects that cannot be read, and of fields that are not known, as the API server gets it.

use super::*;
use crate::cluster::kinds::StatusForm;
use crate::cluster::merge::change;
use crate::cluster::statuses::Said;

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const NOW: &str = "2026-02-02T00:00:00Z";

fn object(kind: &str, name: &str, generation: i64, spec: Value) -> Value {
    json!({"apiVersion": GATEWAY_API, "kind": kind, "metadata": {"name": name, "namespace": "shop", "generation": generation}, "spec": spec})
}

fn class(name: &str, controller: &str) -> Value {
    json!({"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": name}, "spec": {"controllerName": controller}})
}

fn gateway(class: &str, generation: i64, listeners: Value) -> Value {
    object("Gateway", class, generation, json!({"gatewayClassName": class, "listeners": listeners}))
}

fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP"}])
}

fn parents() -> Value {
    json!([{"name": "selvage"}, {"name": "other"}, {"group": "", "kind": "Service", "name": "web"}])
}

/// A cluster with a Gateway of ours, called as its class, and one of another controller.
fn cluster(more: &[Value]) -> World {
    let base =
        [class("selvage", CONTROLLER), class("other", "example.com/other"), gateway("selvage", 1, http()), gateway("other", 1, http())];
    let mut world = World::default();
    base.iter().chain(more).cloned().for_each(|object| world.insert_json(object));
    world
}

/// What is written of an object that has `present` as its status.
fn written(world: &World, form: StatusForm, key: &str, present: &Value) -> Option<Value> {
    let status = translated(world).statuses.get(&key.parse::<Key>().expect("a key")).cloned();
    let said = status.map(|status| Said { uid: String::new(), status, addresses: None });
    change(form, said.as_ref(), present, NOW).map(Value::Object)
}

/// Type, status and generation of each condition.
fn conditions(list: &Value) -> Vec<(&str, &str, i64)> {
    list.as_array()
        .expect("conditions")
        .iter()
        .map(|one| {
            (
                one["type"].as_str().expect("a type"),
                one["status"].as_str().expect("a status"),
                one["observedGeneration"].as_i64().expect("a number"),
            )
        })
        .collect()
}

#[test]
fn a_route_that_became_malformed_is_not_accepted_any_more() {
    let mut world = cluster(&[object("HTTPRoute", "r", 3, json!({"parentRefs": parents(), "rules": [{}]}))]);
    let before = written(&world, StatusForm::Parents, "HTTPRoute/shop/r", &json!({})).expect("a status");
    assert_eq!(conditions(&before["parents"][0]["conditions"])[0], ("Accepted", "True", 3));
    for spec in [json!({"parentRefs": parents(), "rules": 1}), json!({"parentRefs": parents(), "hostnames": ["no host"], "rules": [{}]})] {
        world.insert_json(object("HTTPRoute", "r", 4, spec));
        let after = written(&world, StatusForm::Parents, "HTTPRoute/shop/r", &before).expect("it is said");
        let parents = after["parents"].as_array().expect("parents");
        assert_eq!(parents.len(), 2, "the Gateway of ours and the Service: {after}");
        for parent in parents {
            assert_eq!(conditions(&parent["conditions"])[0], ("Accepted", "False", 4), "{parent}");
            assert_eq!(parent["conditions"].as_array().expect("conditions").iter().filter(|one| one["type"] == "Accepted").count(), 1);
        }
    }
    // Where even its parents cannot be read, it is said wherever something was said.
    world.insert_json(object("HTTPRoute", "r", 5, json!(1)));
    let after = written(&world, StatusForm::Parents, "HTTPRoute/shop/r", &before).expect("it is said");
    assert_eq!(after["parents"].as_array().expect("parents").len(), 2);
    assert_eq!(conditions(&after["parents"][1]["conditions"])[0], ("Accepted", "False", 5));
    world.insert_json(object("HTTPRoute", "r", 6, json!({"parentRefs": parents(), "rules": [{}]})));
    let after = written(&world, StatusForm::Parents, "HTTPRoute/shop/r", &after).expect("it is well again");
    assert_eq!(conditions(&after["parents"][0]["conditions"])[0], ("Accepted", "True", 6));
}

#[test]
fn a_route_that_was_malformed_from_the_first_has_a_status() {
    let world = cluster(&[object("HTTPRoute", "r", 1, json!({"parentRefs": parents(), "rules": 1}))]);
    let said = written(&world, StatusForm::Parents, "HTTPRoute/shop/r", &json!({})).expect("a status");
    assert_eq!(said["parents"][0]["parentRef"]["name"], "selvage");
    assert_eq!(conditions(&said["parents"][0]["conditions"]), [("Accepted", "False", 1)]);
    let others = cluster(&[object("HTTPRoute", "r", 1, json!({"parentRefs": [{"name": "other"}], "rules": 1}))]);
    assert_eq!(written(&others, StatusForm::Parents, "HTTPRoute/shop/r", &json!({})), None, "it is another controller's");
}

#[test]
fn a_gateway_that_became_malformed_says_so_once_and_only_if_it_is_ours() {
    let mut world = cluster(&[]);
    world.insert_json(gateway("selvage", 2, json!([])));
    world.insert_json(gateway("other", 2, json!([])));
    world.insert_json(json!({"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": "third", "generation": 2},
        "spec": {"controllerName": "example.com/other", "parametersRef": 1}}));
    let said = written(&world, StatusForm::Whole, "Gateway/shop/selvage", &json!({})).expect("a status");
    let accepted: Vec<_> = conditions(&said["conditions"]).into_iter().filter(|(kind, ..)| *kind == "Accepted").collect();
    assert_eq!(accepted, [("Accepted", "False", 2)]);
    for others in ["Gateway/shop/other", "GatewayClass/third"] {
        assert_eq!(written(&world, StatusForm::Whole, others, &json!({})), None, "{others}");
    }
}

#[test]
fn fields_of_a_newer_gateway_api_take_nothing_down() {
    let mut listeners = http();
    listeners[0]["since"] = json!("1.9");
    let rules = json!([
        {"name": "plain", "backendRefs": [{"name": "web", "port": 80}]},
        {"name": "new", "mirrorAll": true, "matches": [{"path": {"value": "/new"}}], "backendRefs": [{"name": "web", "port": 80}]},
        {"name": "strange", "matches": [{"path": {"value": "/strange"}, "cookies": []}], "backendRefs": [{"name": "web", "port": 80}]},
    ]);
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}});
    let world = cluster(&[
        gateway("selvage", 2, listeners),
        service,
        object("HTTPRoute", "r", 3, json!({"parentRefs": [{"name": "selvage"}], "scope": "new", "rules": rules})),
    ]);
    assert!(world.malformed.is_empty(), "{:?}", world.malformed);
    let translation = translated(&world);
    let route: selvage_config::RouteSpec = spec(&translation, &keys::route("shop", "HTTPRoute", "r"));
    let served: Vec<(Option<&str>, bool)> = route.rules.iter().map(|rule| (rule.name.as_deref(), rule.filters.is_empty())).collect();
    assert_eq!(served, [(Some("plain"), true), (Some("new"), false)], "the second answers 500, the third has no requests");
    let status = &translation.statuses[&"HTTPRoute/shop/r".parse::<Key>().expect("a key")].parents[0];
    assert!(status.conditions[0].message.contains("spec.scope"), "{status:?}");
    assert!(status.conditions.iter().any(|one| one.kind == "PartiallyInvalid" && one.message.contains("mirrorAll")), "{status:?}");
    let gateway = &translation.statuses[&"Gateway/shop/selvage".parse::<Key>().expect("a key")];
    assert!(gateway.conditions[0].message.contains("spec.listeners[0].since"), "{gateway:?}");
    // In files nothing is newer than what reads them.
    let mut files = World { addresses: Some(Default::default()), ..World::default() };
    files.insert_json(object("HTTPRoute", "r", 3, json!({"scope": "new"})));
    assert_eq!(files.malformed.len(), 1);
}
