//! Prints the schema of one version of a CRD as JSON without descriptions: `strip_schema FILE VERSION`. Used by `gen-gateway-api.sh`.

use anyhow::{Context, bail};
use serde_json::Value;
use std::io::Write;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, version] = args.as_slice() else { bail!("usage: strip_schema FILE VERSION") };
    let crd: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array).context("no /spec/versions")?;
    let chosen = versions.iter().find(|v| v["name"] == version.as_str()).context("no such version")?;
    let mut schema = chosen.pointer("/schema/openAPIV3Schema").cloned().context("no schema")?;
    strip(&mut schema);
    let mut text = serde_json::to_string(&schema)?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Removes descriptions. A field that is itself called `description` is a schema (an object), not a text, and stays.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| !(name == "description" && value.is_string()));
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
