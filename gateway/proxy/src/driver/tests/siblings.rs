//! An endpoint without a sidecar belongs to several Services: the guards of all of them hold there.

use super::*;

fn deny(service: &str) -> Value {
    let target = json!({ "kind": "Service", "namespace": "shop", "name": service });
    policy("AuthorizationPolicy", service, target, json!({ "rules": [{ "name": "all", "action": "Deny" }] }))
}

#[tokio::test]
async fn the_guards_of_another_service_of_the_endpoint_hold_too() {
    let app = Backend::hello().await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({}))), deny("twin")];
    resources.extend(service("app", "Http", &[app.address]));
    let world = World::start(resources.clone()).await;
    assert_eq!(get(address, "/", "").await.status, 200);
    resources.extend(service("twin", "Http", &[app.address]));
    world.change(resources).await;
    let refused = get(address, "/", "").await;
    assert_eq!((refused.status, refused.reason().as_str()), (403, "authorization_denied"));
    assert!(refused.body.contains("AuthorizationPolicy/shop/twin"), "{}", refused.body);
}

#[tokio::test]
async fn each_endpoint_is_judged_by_its_own_services_whichever_is_tried_first() {
    let app = Backend::hello().await;
    let address = free_address();
    let mut resources = vec![mesh_settings(), listener(address, json!({})), route("all", to("app", json!({}))), deny("twin")];
    resources.extend(service("app", "Http", &[free_address(), app.address]));
    resources.extend(service("twin", "Http", &[app.address]));
    let _world = World::start(resources).await;
    for _ in 0..8 {
        assert_eq!(get(address, "/", "").await.reason(), "authorization_denied");
    }
    assert_eq!(app.count(), 0);
}
