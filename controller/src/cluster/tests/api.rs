//! An API server in this process: objects in memory, with versions, conflicts, watches, status subresources and field selectors.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast;

/// Collection (`/apis/group/version/plural`), namespace, name.
type Place = (String, String, String);

/// One.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    store: Mutex<Store>,
    events: broadcast::Sender<(u64, &'static str, Place, Value)>,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<Place, Value>,
    version: u64,
    /// Collections that the cluster does not have.
    absent: BTreeSet<String>,
    /// What TokenReview answers, by token.
    tokens: BTreeMap<String, Value>,
    /// Methods and paths, without queries, of everything that was asked.
    asked: Vec<String>,
    /// Other documents, by path.
    documents: BTreeMap<String, Value>,
    away: bool,
    /// Called before the next write to a path that ends so: somebody else is quicker.
    quicker: Option<(String, Value)>,
}

impl Api {
    pub fn new() -> Self {
        Self(Arc::new(Shared { store: Mutex::default(), events: broadcast::channel(1024).0 }))
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        let router: Router = Router::new().fallback(answer).with_state(self.clone());
        Client::new(router, "default")
    }

    /// Puts an object there, as somebody else does it.
    pub fn put(&self, collection: &str, object: Value) -> Value {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        let place = (collection.to_string(), text("/metadata/namespace"), text("/metadata/name"));
        self.store(place, object)
    }

    pub fn delete(&self, collection: &str, namespace: &str, name: &str) {
        let place = (collection.to_string(), namespace.to_string(), name.to_string());
        let mut store = self.0.store.lock();
        store.version += 1;
        let version = store.version;
        if let Some(mut object) = store.objects.remove(&place) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            let _ = self.0.events.send((version, "DELETED", place, object));
        }
    }

    pub fn object(&self, collection: &str, namespace: &str, name: &str) -> Option<Value> {
        self.0.store.lock().objects.get(&(collection.to_string(), namespace.to_string(), name.to_string())).cloned()
    }

    /// The cluster does not have this kind, or has it.
    pub fn absent(&self, collection: &str, absent: bool) {
        let mut store = self.0.store.lock();
        if absent {
            store.absent.insert(collection.into())
        } else {
            store.absent.remove(collection)
        };
    }

    /// TokenReview says this of that token.
    pub fn token(&self, token: &str, status: Value) {
        self.0.store.lock().tokens.insert(token.into(), status);
    }

    /// What it answers at that path.
    pub fn document(&self, path: &str, document: Value) {
        self.0.store.lock().documents.insert(path.into(), document);
    }

    /// It answers nothing but 503, or does again.
    pub fn away(&self, away: bool) {
        self.0.store.lock().away = away;
    }

    /// Somebody writes `object` just before the next write to a path that ends in `path`.
    pub fn quicker(&self, path: &str, collection: &str, object: Value) {
        self.0.store.lock().quicker = Some((format!("{path}|{collection}"), object));
    }

    /// How often was asked like this: `PATCH /apis/…`.
    pub fn asked(&self, like: &str) -> usize {
        self.0.store.lock().asked.iter().filter(|asked| asked.contains(like)).count()
    }

    fn store(&self, place: Place, mut object: Value) -> Value {
        let mut store = self.0.store.lock();
        store.version += 1;
        let version = store.version;
        let before = store.objects.get(&place).cloned();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let uid = before.as_ref().map_or_else(|| json!(format!("uid-{version}")), |before| before["metadata"]["uid"].clone());
        if object["metadata"].get("uid").is_none_or(Value::is_null) {
            object["metadata"]["uid"] = uid;
        }
        let generation = match &before {
            Some(before) if before["spec"] == object["spec"] => before["metadata"]["generation"].clone(),
            Some(before) => json!(before["metadata"]["generation"].as_i64().unwrap_or_default() + 1),
            None => json!(1),
        };
        object["metadata"]["generation"] = generation;
        store.objects.insert(place.clone(), object.clone());
        let _ = self.0.events.send((version, if before.is_some() { "MODIFIED" } else { "ADDED" }, place, object.clone()));
        object
    }
}

/// What a path names.
struct Asked {
    place: Place,
    status: bool,
}

impl Asked {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (root, rest) = if parts.first() == Some(&"api") { parts.split_at_checked(2)? } else { parts.split_at_checked(3)? };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, [&[*plural], rest].concat()),
            rest => ("", rest.to_vec()),
        };
        let collection = format!("/{}/{}", root.join("/"), rest.first()?);
        let place = (collection, namespace.to_string(), rest.get(1).map_or(String::new(), ToString::to_string));
        Some(Self { place, status: rest.get(2) == Some(&"status") })
    }
}

fn refusal(code: u16, reason: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason });
    (StatusCode::from_u16(code).expect("a code"), axum::Json(status)).into_response()
}

fn fits(object: &Value, selector: Option<&str>) -> bool {
    selector.is_none_or(|selector| {
        let (field, wanted) = selector.split_once('=').expect("field=value");
        object.pointer(&format!("/{}", field.replace('.', "/"))).and_then(Value::as_str) == Some(wanted)
    })
}

async fn answer(State(api): State<Api>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_string(), value.replace("%3D", "=").replace("%2F", "/")))
        })
        .collect();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    {
        let mut store = api.0.store.lock();
        store.asked.push(format!("{method} {path}"));
        if store.away {
            return refusal(503, "ServiceUnavailable");
        }
        if let Some(document) = store.documents.get(&path) {
            return axum::Json(document.clone()).into_response();
        }
    }
    if path.ends_with("/tokenreviews") {
        let token = body.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
        let known = api.0.store.lock().tokens.get(token).cloned();
        let status = known.unwrap_or_else(|| json!({ "authenticated": false, "error": "invalid bearer token" }));
        return axum::Json(
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {}, "status": status }),
        )
        .into_response();
    }
    let Some(asked) = Asked::parse(&path) else { return refusal(404, "NotFound") };
    if api.0.store.lock().absent.contains(&asked.place.0) {
        return refusal(404, "NotFound");
    }
    if method != Method::GET {
        let quicker = api.0.store.lock().quicker.take_if(|(at, _)| path.ends_with(at.split('|').next().expect("a path")));
        if let Some((at, object)) = quicker {
            api.put(at.split('|').nth(1).expect("a collection"), object);
        }
    }
    let selector = query.get("fieldSelector").map(String::as_str);
    match (method, asked.place.2.is_empty()) {
        (Method::GET, true) if query.get("watch").is_some_and(|watch| watch == "true") => {
            let since = query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or_default();
            watch(&api, asked.place, since, selector.map(String::from))
        }
        (Method::GET, true) => list(&api, &asked.place, selector),
        (Method::GET, false) => match api.0.store.lock().objects.get(&asked.place) {
            Some(object) => axum::Json(object.clone()).into_response(),
            None => refusal(404, "NotFound"),
        },
        (Method::DELETE, _) => {
            let given = body.pointer("/preconditions/uid").cloned();
            let present = api.object(&asked.place.0, &asked.place.1, &asked.place.2).map(|object| object["metadata"]["uid"].clone());
            if given.is_some() && present.is_some() && given != present {
                return refusal(409, "Conflict");
            }
            api.delete(&asked.place.0, &asked.place.1, &asked.place.2);
            axum::Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })).into_response()
        }
        (method, _) => write(&api, &method, asked, body),
    }
}

fn list(api: &Api, (collection, namespace, _): &Place, selector: Option<&str>) -> Response {
    let store = api.0.store.lock();
    let inside = |place: &Place| place.0 == *collection && (namespace.is_empty() || place.1 == *namespace);
    let items: Vec<Value> = store
        .objects
        .iter()
        .filter(|(place, object)| inside(place) && fits(object, selector))
        .map(|(_, object)| {
            // As a real one does it.
            let mut item = object.clone();
            item.as_object_mut().expect("an object").retain(|field, _| field != "kind" && field != "apiVersion");
            item
        })
        .collect();
    let version = store.version.to_string();
    axum::Json(json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items })).into_response()
}

fn watch(api: &Api, (collection, namespace, _): Place, since: u64, selector: Option<String>) -> Response {
    let events = api.0.events.subscribe();
    // What happened between the list and now.
    let missed: Vec<Value> = {
        let store = api.0.store.lock();
        let newer = store.objects.iter().filter(|(place, object)| {
            let version: u64 = object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default();
            place.0 == collection && version > since && (namespace.is_empty() || place.1 == namespace) && fits(object, selector.as_deref())
        });
        newer.map(|(_, object)| json!({ "type": "MODIFIED", "object": object })).collect()
    };
    let stream = futures::stream::unfold((events, missed), move |(mut events, mut missed)| {
        let (collection, namespace, selector) = (collection.clone(), namespace.clone(), selector.clone());
        async move {
            let line = |event: &Value| Ok::<_, Infallible>(Bytes::from(format!("{event}\n")));
            if let Some(event) = missed.pop() {
                return Some((line(&event), (events, missed)));
            }
            loop {
                let (version, kind, place, object) = events.recv().await.ok()?;
                let inside = place.0 == collection && version > since && (namespace.is_empty() || place.1 == namespace);
                if inside && fits(&object, selector.as_deref()) {
                    return Some((line(&json!({ "type": kind, "object": object })), (events, missed)));
                }
            }
        }
    });
    Body::from_stream(stream).into_response()
}

fn write(api: &Api, method: &Method, asked: Asked, body: Value) -> Response {
    let Asked { mut place, status } = asked;
    if *method == Method::POST {
        place.2 = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_string();
    }
    let before = api.0.store.lock().objects.get(&place).cloned();
    let given = |name: &str| body["metadata"].get(name).filter(|value| !value.is_null()).cloned();
    let conflicts =
        |before: &Value| ["resourceVersion", "uid"].iter().any(|name| given(name).is_some_and(|given| given != before["metadata"][*name]));
    let mut object = match (method, &before) {
        (&Method::POST, Some(_)) => return refusal(409, "AlreadyExists"),
        (&Method::POST, None) => body,
        (_, Some(before)) if conflicts(before) => return refusal(409, "Conflict"),
        (&Method::PUT, Some(_)) => body,
        (&Method::PATCH, Some(before)) => {
            let mut merged = before.clone();
            let mut patch = body;
            if status {
                patch.as_object_mut().expect("an object").retain(|member, _| member == "status");
            }
            merge(&mut merged, &patch);
            merged
        }
        // Server-side apply makes what is not there.
        (&Method::PATCH, None) if body.get("kind").is_some() => body,
        _ => return refusal(404, "NotFound"),
    };
    object["metadata"]["namespace"] = if place.1.is_empty() { Value::Null } else { json!(place.1) };
    axum::Json(api.store(place, object)).into_response()
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("just made one").remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}
