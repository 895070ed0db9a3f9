use super::super::gateway_api::missing;
use super::super::kinds::WATCHED;
use super::*;

const SERVED: &str = "/apis/gateway.networking.k8s.io/v1";

fn serving(kinds: &[&str]) -> Value {
    let resources: Vec<Value> = kinds
        .iter()
        .map(|kind| json!({"name": kind.to_lowercase(), "kind": kind, "namespaced": true, "singularName": "", "verbs": []}))
        .collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "gateway.networking.k8s.io/v1", "resources": resources})
}

#[tokio::test]
async fn kinds_that_the_cluster_does_not_serve_are_named() {
    let ours: Vec<&str> = WATCHED.iter().filter(|kind| kind.group == "gateway.networking.k8s.io").map(|kind| kind.kind).collect();
    assert!(ours.contains(&"ListenerSet") && ours.len() > 5, "{ours:?}");
    let api = Api::new();
    assert_eq!(missing(&api.client()).await.expect("an answer"), ours, "the group is not there at all");
    // An older Gateway API.
    let older: Vec<&str> = ours.iter().copied().filter(|kind| *kind != "ListenerSet").collect();
    api.document(SERVED, serving(&older));
    assert_eq!(missing(&api.client()).await.expect("an answer"), ["ListenerSet"]);
    api.document(SERVED, serving(&[&ours[..], &["BackendTLSPolicy"]].concat()));
    assert!(missing(&api.client()).await.expect("an answer").is_empty());
    api.away(true);
    assert!(missing(&api.client()).await.is_err(), "who does not answer does not lack anything");
}
