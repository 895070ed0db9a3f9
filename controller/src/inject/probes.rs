//! The application's probes: the kubelet asks the sidecar, and the sidecar asks the application.
//!
//! A probe comes from the node, without an identity: inbound capture would judge it like any plain caller. So it is sent to the
//! sidecar's health port, with a path that says which probe is meant, and the sidecar performs the original, which it is given.

use super::SIDECAR;
use crate::world::Fault;
use k8s_openapi::api::core::v1::PodSpec;
use selvage_config::ports::HEALTH;
use selvage_policy::Key;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The variable that tells the sidecar the original probes: a JSON map from path to probe.
pub(super) const VARIABLE: &str = "SELVAGE_PROBES";

/// The fields of a container, and the word that stands for each in a path.
const KINDS: [(&str, &str); 3] = [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];
/// What a probe may do that goes through the network.
const ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// Original probes by path.
pub(super) type Probes = BTreeMap<String, Value>;

/// The originals that an earlier run gave to the sidecar.
pub(super) fn known(spec: &PodSpec) -> Probes {
    let sidecar = spec.init_containers.iter().flatten().find(|container| container.name == SIDECAR);
    let variable = sidecar.and_then(|container| container.env.iter().flatten().find(|variable| variable.name == VARIABLE));
    let text = variable.and_then(|variable| variable.value.as_deref()).unwrap_or_default();
    serde_json::from_str(&text.replace("$$", "$")).unwrap_or_default()
}

/// As the value of [`VARIABLE`]: the kubelet reads `$(NAME)` there as a reference, and `$$` as a dollar.
pub(super) fn written(probes: &Probes) -> String {
    serde_json::to_string(probes).expect("a map of texts to JSON is JSON").replace('$', "$$")
}

/// Points every probe that goes through the network at the sidecar; what they were.
pub(super) fn rewrite(key: &Key, spec: &mut Value, known: &Probes) -> Result<Probes, Vec<Fault>> {
    let (mut probes, mut faults) = (Probes::new(), Vec::new());
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (index, container) in containers.enumerate() {
            let name = container["name"].as_str().unwrap_or_default().to_string();
            if name == SIDECAR {
                continue;
            }
            let ports = named_ports(container);
            for (field, word) in KINDS {
                let path = format!("/probe/{name}/{word}");
                let Some(probe) = container.get_mut(field).filter(|probe| probe.is_object()) else { continue };
                match original(probe, &path, &ports, known) {
                    Ok(Some(original)) => {
                        let fields: Map<String, Value> = original.as_object().cloned().unwrap_or_default();
                        let timing = fields.into_iter().filter(|(field, _)| !ACTIONS.contains(&field.as_str()));
                        let action = ("httpGet".to_string(), json!({ "path": path, "port": HEALTH }));
                        *probe = Value::Object(timing.chain([action]).collect());
                        probes.insert(path, original);
                    }
                    Ok(None) => {}
                    Err((below, problem)) => faults.push(Fault::of(key, format!("spec.{list}[{index}].{field}.{below}"), problem)),
                }
            }
        }
    }
    if faults.is_empty() { Ok(probes) } else { Err(faults) }
}

/// The probe that the sidecar performs, with a number for its port; none where the kubelet can perform it itself.
fn original(probe: &Value, path: &str, ports: &BTreeMap<String, u16>, known: &Probes) -> Result<Option<Value>, (String, String)> {
    let Some(action) = ACTIONS.into_iter().find(|action| probe.get(action).is_some_and(Value::is_object)) else { return Ok(None) };
    let asked = &probe[action];
    if asked.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        return Ok(None);
    }
    if action == "httpGet" && asked["port"] == json!(HEALTH) {
        return match known.get(path) {
            // What stands in the Pod may be anybody's: it passes the same checks as a probe.
            Some(earlier) if asked["path"] == json!(path) => original(earlier, path, ports, &Probes::new()),
            _ => Err(("httpGet.port".into(), format!("{HEALTH} is a port of the sidecar: name the application's own"))),
        };
    }
    let number = match &asked["port"] {
        Value::Number(number) => number.as_u64().and_then(|port| u16::try_from(port).ok()),
        Value::String(name) => ports.get(name).copied().or_else(|| name.parse().ok()),
        _ => None,
    };
    let Some(number) = number.filter(|port| *port != 0) else {
        let shown = asked["port"].as_str().map_or_else(|| asked["port"].to_string(), String::from);
        return Err((format!("{action}.port"), format!("`{shown}` is neither a port nor the name of one of the container's ports")));
    };
    let mut original = probe.clone();
    original[action]["port"] = json!(number);
    Ok(Some(original))
}

fn named_ports(container: &Value) -> BTreeMap<String, u16> {
    let ports = container.get("ports").and_then(Value::as_array).into_iter().flatten();
    let named = |port: &Value| Some((port["name"].as_str()?.to_string(), u16::try_from(port["containerPort"].as_u64()?).ok()?));
    ports.filter_map(named).collect()
}
