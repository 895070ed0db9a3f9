//! Golden files: manifests in, Resources and statuses out. `SELVAGE_WRITE=1` writes the outputs anew; read the difference before you keep it.
//!
//! ```text
//! golden/<case>/input.yaml     manifests, on a laptop; of a case called cluster-… in a cluster
//! golden/<case>/output.yaml    Resources by key, views by proxy, statuses by object, remarks
//! ```
//!
//! The case `bookshop` has no input of its own: it is the example's directory. `$CERTIFICATE` and `$KEY` stand for a pair that fits, `$OTHER` for
//! another key, in base64. Conditions and targets are shown as one line each.

use base64::Engine as _;
use selvage_config::{Resource, VersionKey};
use selvage_controller::translate::{Condition, Inputs, Status, Translation, translate};
use selvage_controller::world::{Addresses, World, directory};
use selvage_policy::Target;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const WRITE: &str = "SELVAGE_WRITE";

#[test]
fn manifests_come_to_these_resources_and_statuses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root).expect("cases").map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    assert!(cases.len() > 10, "{} holds too few cases", root.display());
    let mut wrong = Vec::new();
    for case in &cases {
        let world = world(case);
        let inputs = Inputs { roots: &["root".into()], version_key: &VersionKey::derive(b"golden") };
        let output = serde_saphyr::to_string(&output(&translate(&world, &inputs))).expect("YAML");
        let file = case.join("output.yaml");
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&file, &output).expect("written");
        } else {
            let expected = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some(at) = first_difference(&expected, &output) {
                wrong.push(format!("{}: {at}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nif that is right, write them anew with {WRITE}=1", wrong.join("\n"));
}

fn world(case: &Path) -> World {
    let name = case.file_name().and_then(|name| name.to_str()).expect("a name");
    if name == "bookshop" {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bookshop");
        return directory::read(&dir, Addresses::default()).world;
    }
    let text = std::fs::read_to_string(case.join("input.yaml")).expect("an input");
    let ((certificate, key), (_, other)) = (pair(), pair());
    let text = text.replace("$CERTIFICATE", &certificate).replace("$KEY", &key).replace("$OTHER", &other);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut world = World::default();
    if !name.starts_with("cluster-") {
        world.addresses = Some(Addresses::default());
    }
    documents.into_iter().filter(|document| !document.is_null()).for_each(|document| world.insert_json(document));
    if world.addresses.is_some() {
        world.settle().expect("there is room");
    }
    world
}

fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["shop.example".to_string()]).expect("a certificate");
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    (encode(made.cert.pem()), encode(made.signing_key.serialize_pem()))
}

fn output(translation: &Translation) -> Value {
    let resources = translation.resources.values().filter(|resource| resource.key.kind != "Mesh");
    let resources: Map<String, Value> = resources.map(|resource| (resource.key.to_string(), shown(resource))).collect();
    let views = translation.views.iter().map(|(proxy, keys)| {
        let keys: Vec<String> = keys.iter().filter(|key| key.kind != "Mesh").map(ToString::to_string).collect();
        (proxy.to_string(), json!(keys))
    });
    let statuses = translation.statuses.iter().map(|(object, status)| (object.to_string(), said(status)));
    json!({
        "resources": resources,
        "views": views.collect::<Map<_, _>>(),
        "statuses": statuses.collect::<Map<_, _>>(),
        "remarks": translation.remarks,
    })
}

/// Without what changes from run to run (versions, certificates) or says nothing here (the raw spec of policies).
fn shown(resource: &Resource) -> Value {
    let mut shown = Map::new();
    if !resource.attachments.is_empty() {
        shown.insert("attachments".into(), json!(resource.attachments.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    if !resource.refs.is_empty() {
        shown.insert("refs".into(), json!(resource.refs));
    }
    if resource.attachments.is_empty() && resource.key.kind != "Certificate" {
        let mut spec = resource.spec.clone();
        for target in spec.get_mut("chain").and_then(Value::as_array_mut).into_iter().flatten() {
            *target = Target::deserialize(&*target).expect("a target").to_string().into();
        }
        shown.insert("spec".into(), spec);
    }
    Value::Object(shown)
}

fn said(status: &Status) -> Value {
    let conditions = |conditions: &[Condition]| -> Value {
        let line = |one: &Condition| {
            format!("{}={}, {}{}{}", one.kind, one.status.as_str(), one.reason, if one.message.is_empty() { "" } else { ": " }, one.message)
        };
        conditions.iter().map(line).collect()
    };
    let mut said = Map::from_iter([("observedGeneration".to_string(), json!(status.observed_generation))]);
    if !status.conditions.is_empty() {
        said.insert("conditions".into(), conditions(&status.conditions));
    }
    if let Some(attached) = status.attached_listener_sets {
        said.insert("attachedListenerSets".into(), json!(attached));
    }
    let listeners = status.listeners.iter().map(|one| {
        let kinds: Vec<&str> = one.supported_kinds.iter().map(|kind| kind.kind).collect();
        let head =
            format!("{}: {} of {}", one.name, one.attached_routes, if kinds.is_empty() { "nothing".into() } else { kinds.join(", ") });
        json!({ head: conditions(&one.conditions) })
    });
    let parents = status.parents.iter().map(|one| json!({ one.reference.to_string(): conditions(&one.conditions) }));
    for (name, list) in [("listeners", listeners.collect::<Vec<_>>()), ("parents", parents.collect())] {
        if !list.is_empty() {
            said.insert(name.into(), list.into());
        }
    }
    Value::Object(said)
}

fn first_difference(expected: &str, found: &str) -> Option<String> {
    let (mut a, mut b) = (expected.lines(), found.lines());
    for number in 1.. {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("line {number}: expected `{}`, found `{}`", a.unwrap_or("the end"), b.unwrap_or("the end"))),
        }
    }
    None
}
