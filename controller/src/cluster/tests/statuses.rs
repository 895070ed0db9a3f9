use super::super::kinds::StatusForm;
use super::super::lease::Tenure;
use super::super::merge::change;
use super::super::present::Present;
use super::super::statuses::{Round, Said, Writer};
use super::*;
use crate::translate::status::{Condition, ListenerStatus, ParentStatus, Reference, Status};
use selvage_policy::Key;
use std::collections::BTreeMap;

const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const EARLIER: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-02-02T00:00:00Z";

fn to_gateway(name: &str) -> Reference {
    Reference::object("gateway.networking.k8s.io", "Gateway", Some("shop"), name)
}

fn said(generation: i64, parents: &[(&str, Condition)]) -> Said {
    let parent = |(name, condition): &(&str, Condition)| ParentStatus {
        reference: to_gateway(name),
        conditions: vec![condition.clone()],
        targets: Vec::new(),
    };
    let status = Status { observed_generation: generation, parents: parents.iter().map(parent).collect(), ..Status::default() };
    // The UID of the first object of a test.
    Said { uid: "uid-1".into(), status, addresses: None }
}

fn accepted() -> Condition {
    Condition::holds("Accepted", "Accepted", "")
}

fn refused() -> Condition {
    Condition::fails("Accepted", "NotAllowedByListeners", "no listener takes it")
}

fn written(kind: &str, status: &str, reason: &str, message: &str, generation: i64, since: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "observedGeneration": generation, "lastTransitionTime": since,
    })
}

fn entry(controller: &str, name: &str, conditions: Value) -> Value {
    let reference = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop", "name": name });
    json!({ "parentRef": reference, "controllerName": controller, "conditions": conditions })
}

fn ours(name: &str, conditions: Value) -> Value {
    entry("selvage.dev/controller", name, conditions)
}

fn others() -> Value {
    entry("example.com/other", "public", json!([written("Accepted", "False", "Mine", "leave me", 1, EARLIER)]))
}

#[test]
fn what_is_said_already_is_not_written() {
    let present = json!({ "parents": [ours("public", json!([written("Accepted", "True", "Accepted", "", 3, EARLIER)]))] });
    assert_eq!(change(StatusForm::Parents, Some(&said(3, &[("public", accepted())])), &present, NOW), None);
    assert_eq!(change(StatusForm::Parents, None, &json!({ "parents": [others()] }), NOW), None);
    assert_eq!(change(StatusForm::Parents, None, &Value::Null, NOW), None);
    assert_eq!(change(StatusForm::Whole, None, &json!({ "conditions": [] }), NOW), None);
}

#[test]
fn the_time_of_a_transition_changes_with_the_status_alone() {
    let present = json!({ "parents": [ours("public", json!([written("Accepted", "True", "Accepted", "", 3, EARLIER)]))] });
    let parents = |said: &Said| change(StatusForm::Parents, Some(said), &present, NOW).expect("a change")["parents"].clone();
    // Another generation: written, but no transition.
    let again = parents(&said(4, &[("public", accepted())]));
    assert_eq!(again, json!([ours("public", json!([written("Accepted", "True", "Accepted", "", 4, EARLIER)]))]));
    let turned = parents(&said(4, &[("public", refused())]));
    let condition = written("Accepted", "False", "NotAllowedByListeners", "no listener takes it", 4, NOW);
    assert_eq!(turned, json!([ours("public", json!([condition]))]));
}

#[test]
fn entries_of_other_controllers_stay_and_ours_go_with_what_they_were_about() {
    let mine = ours("public", json!([written("Accepted", "True", "Accepted", "", 3, EARLIER)]));
    let present = json!({ "parents": [mine, others()] });
    let to_other = change(StatusForm::Parents, Some(&said(4, &[("partners", accepted())])), &present, NOW).expect("a change");
    let new = ours("partners", json!([written("Accepted", "True", "Accepted", "", 4, NOW)]));
    assert_eq!(to_other["parents"], json!([others(), new]));
    let gone = change(StatusForm::Parents, None, &present, NOW).expect("a change");
    assert_eq!(gone["parents"], json!([others()]));
}

#[test]
fn no_more_entries_are_written_than_there_is_room_for() {
    let names: Vec<String> = (0..40).map(|n| format!("g{n}")).collect();
    let parents: Vec<(&str, Condition)> = names.iter().map(|name| (name.as_str(), accepted())).collect();
    let change = change(StatusForm::Parents, Some(&said(1, &parents)), &json!({ "parents": [others()] }), NOW).expect("a change");
    let list = change["parents"].as_array().expect("a list");
    assert_eq!((list.len(), &list[0]), (32, &others()));
}

#[test]
fn of_a_gateway_conditions_of_others_stay_and_ours_that_are_no_longer_said_go() {
    let present = json!({ "conditions": [
        written("example.com/Audited", "True", "Fine", "", 1, EARLIER),
        written("PartiallyInvalid", "True", "ListenersNotValid", "old", 1, EARLIER),
        written("Accepted", "True", "Accepted", "", 2, EARLIER),
    ]});
    let status = Status { observed_generation: 2, conditions: vec![accepted()], ..Status::default() };
    let addresses = Some(vec![json!({ "type": "IPAddress", "value": "192.0.2.1" })]);
    let change = change(StatusForm::Whole, Some(&Said { status, addresses, ..Said::default() }), &present, NOW).expect("a change");
    let kinds: Vec<&str> =
        change["conditions"].as_array().expect("a list").iter().map(|one| one["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["example.com/Audited", "Accepted"]);
    assert_eq!(change["addresses"], json!([{ "type": "IPAddress", "value": "192.0.2.1" }]));
}

#[test]
fn conditions_of_others_stay_at_listeners_and_parents_as_far_as_there_is_room() {
    let theirs = |n: usize| written(&format!("example.com/Audited{n}"), "True", "Fine", "", 1, EARLIER);
    let kinds = |conditions: &Value| -> Vec<String> {
        conditions.as_array().expect("a list").iter().map(|one| one["type"].as_str().expect("a type").into()).collect()
    };
    let before = json!([theirs(0), written("Programmed", "True", "Programmed", "old", 1, EARLIER)]);
    let listener = ListenerStatus {
        name: "http".into(),
        attached_routes: 0,
        supported_kinds: Vec::new(),
        conditions: vec![accepted()],
        resource: None,
    };
    let status = Status { observed_generation: 2, listeners: vec![listener], ..Status::default() };
    let present = json!({ "listeners": [{ "name": "http", "conditions": before }] });
    let gateway = change(StatusForm::Whole, Some(&Said { status, ..Said::default() }), &present, NOW).expect("a change");
    assert_eq!(kinds(&gateway["listeners"][0]["conditions"]), ["example.com/Audited0", "Accepted"]);
    let present = json!({ "parents": [ours("public", before)] });
    let route = change(StatusForm::Parents, Some(&said(2, &[("public", accepted())])), &present, NOW).expect("a change");
    assert_eq!(kinds(&route["parents"][0]["conditions"]), ["example.com/Audited0", "Accepted"]);
    // Eight are allowed: ours first.
    let present = json!({ "parents": [ours("public", (0..8).map(theirs).collect())] });
    let route = change(StatusForm::Parents, Some(&said(2, &[("public", accepted())])), &present, NOW).expect("a change");
    let kinds = kinds(&route["parents"][0]["conditions"]);
    assert_eq!((kinds.len(), kinds[0].as_str(), kinds[7].as_str()), (8, "example.com/Audited0", "Accepted"));
}

#[test]
fn what_cannot_be_read_at_all_is_said_at_the_entries_that_there_were() {
    let present = json!({ "parents": [ours("public", json!([written("Accepted", "True", "Accepted", "", 3, EARLIER)])), others()] });
    let status = Status {
        observed_generation: 4,
        conditions: vec![Condition::fails("Accepted", "Invalid", "spec.rules: what")],
        ..Status::default()
    };
    let change = change(StatusForm::Parents, Some(&Said { status, ..Said::default() }), &present, NOW).expect("a change");
    let condition = written("Accepted", "False", "Invalid", "spec.rules: what", 4, NOW);
    assert_eq!(change["parents"], json!([others(), ours("public", json!([condition]))]));
}

fn route(name: &str, status: Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": name },
        "spec": { "parentRefs": [{ "name": "public" }] }, "status": status,
    })
}

fn key(name: &str) -> Key {
    Key::new("HTTPRoute", "shop", name)
}

struct Fixture {
    api: Api,
    writer: Writer,
    said: BTreeMap<Key, Said>,
    tenure: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
}

impl Fixture {
    /// An API server with one route, as a watch has seen it.
    fn new(status: Value) -> Self {
        let api = Api::new();
        let present = Arc::new(Present::default());
        present.saw(key("r"), &api.put(ROUTES, route("r", status)));
        let (tenure_sender, tenure) = Tenure::fixed(true);
        let writer = Writer::new(api.client(), present, tenure, metrics());
        let said = BTreeMap::from([(key("r"), said(1, &[("public", accepted())]))]);
        Self { api, writer, said, tenure: tenure_sender }
    }

    async fn round(&mut self) -> Round {
        self.writer.round(&self.said).await
    }

    fn parents(&self) -> Value {
        self.api.object(ROUTES, "shop", "r").expect("the route")["status"]["parents"].clone()
    }
}

#[tokio::test]
async fn a_status_is_written_once() {
    let mut fixture = Fixture::new(json!({ "parents": [others()] }));
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
    assert_eq!(fixture.parents().as_array().map(Vec::len), Some(2));
    assert_eq!(fixture.parents()[0], others());
    assert_eq!(fixture.round().await, Round { written: 0, failed: 0 });
    assert_eq!(fixture.api.asked("PATCH"), 1);
}

#[tokio::test]
async fn what_somebody_else_writes_at_the_same_moment_is_not_lost() {
    let mut fixture = Fixture::new(Value::Null);
    let theirs = route("r", json!({ "parents": [others()] }));
    fixture.api.quicker("/httproutes/r/status", ROUTES, theirs);
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
    let parents = fixture.parents();
    assert_eq!((&parents[0], &parents[1]["controllerName"]), (&others(), &json!("selvage.dev/controller")));
}

#[tokio::test]
async fn a_replica_without_the_lease_writes_nothing() {
    let mut fixture = Fixture::new(Value::Null);
    fixture.tenure.send_replace(None);
    assert_eq!(fixture.round().await, Round { written: 0, failed: 1 });
    assert_eq!(fixture.api.asked("PATCH"), 0);
    fixture.tenure.send_replace(Some(tokio::time::Instant::now() + Duration::from_secs(60)));
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
}

#[tokio::test]
async fn an_object_that_is_gone_or_made_anew_gets_no_status_of_the_old_one() {
    let mut fixture = Fixture::new(Value::Null);
    fixture.api.delete(ROUTES, "shop", "r");
    assert_eq!(fixture.round().await, Round { written: 0, failed: 0 });
    let mut anew = route("r", Value::Null);
    anew["metadata"]["uid"] = json!("another");
    let anew = fixture.api.put(ROUTES, anew);
    // The first try names the old UID; then it is compared with what is there.
    assert_eq!(fixture.round().await, Round { written: 0, failed: 0 });
    assert_eq!(fixture.parents(), Value::Null);
    // Nor where the watch has it already, and nothing was said of it.
    fixture.writer.present.saw(key("r"), &anew);
    assert_eq!(fixture.round().await, Round { written: 0, failed: 0 });
    fixture.said.get_mut(&key("r")).expect("said").uid = "another".into();
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
}

#[tokio::test]
async fn what_was_said_of_an_earlier_generation_is_not_written_to_a_later_one() {
    let mut fixture = Fixture::new(Value::Null);
    let mut edited = route("r", json!({ "parents": [others()] }));
    edited["spec"]["hostnames"] = json!(["a.example"]);
    fixture.api.quicker("/httproutes/r/status", ROUTES, edited);
    assert_eq!(fixture.round().await, Round { written: 0, failed: 0 });
    assert_eq!(fixture.parents(), json!([others()]));
    fixture.said.insert(key("r"), said(2, &[("public", accepted())]));
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
    assert_eq!(fixture.parents()[1]["conditions"][0]["observedGeneration"], 2);
}

#[tokio::test]
async fn entries_of_ours_go_from_objects_that_are_not_ours_any_more() {
    let mut fixture = Fixture::new(json!({ "parents": [others()] }));
    fixture.round().await;
    fixture.said.clear();
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
    assert_eq!(fixture.parents(), json!([others()]));
}

#[tokio::test]
async fn with_the_api_server_away_it_is_tried_again() {
    let mut fixture = Fixture::new(Value::Null);
    fixture.api.away(true);
    assert_eq!(fixture.round().await, Round { written: 0, failed: 1 });
    fixture.api.away(false);
    assert_eq!(fixture.round().await, Round { written: 1, failed: 0 });
}
