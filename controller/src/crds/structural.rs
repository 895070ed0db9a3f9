//! From what schemars writes to what Kubernetes takes as a structural schema: no references, no `oneOf` of constants, no `null` types,
//! no `additionalProperties: false` (the API server refuses unknown fields by itself), only formats it knows.

use serde_json::{Map, Value, json};

/// A label value (Kubernetes): maps of ours hold nothing else.
const LABEL_VALUE: u64 = 63;

/// Rewrites a schema with everything inlined.
pub(super) fn rewrite(schema: Value) -> Value {
    match schema {
        Value::Object(fields) => Value::Object(rewrite_object(fields)),
        other => other,
    }
}

fn rewrite_object(mut fields: Map<String, Value>) -> Map<String, Value> {
    for word in ["$schema", "title", "nullable", "$defs", "definitions", "components"] {
        fields.remove(word);
    }
    if fields.get("default").is_some_and(Value::is_null) {
        fields.remove("default");
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = fields.remove(word) {
            absorb(&mut fields, branches);
        }
    }
    if let Some(Value::Array(types)) = fields.get("type") {
        let kept = types.iter().find(|name| *name != "null").cloned();
        fields.insert("type".into(), kept.unwrap_or(Value::Null));
    }
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| !matches!(format, "int32" | "int64" | "date-time")) {
        fields.remove("format");
    }
    match fields.remove("additionalProperties") {
        Some(Value::Object(values)) => {
            let mut values = rewrite_object(values);
            if values.get("type").is_some_and(|name| name == "string") {
                values.entry("maxLength").or_insert(json!(LABEL_VALUE));
            }
            fields.insert("additionalProperties".into(), Value::Object(values));
        }
        Some(Value::Bool(_)) | None => {}
        Some(other) => drop(fields.insert("additionalProperties".into(), other)),
    }
    if let Some(Value::Object(properties)) = fields.remove("properties") {
        let properties = properties.into_iter().map(|(name, schema)| (name, rewrite(schema))).collect();
        fields.insert("properties".into(), Value::Object(properties));
    }
    if let Some(items) = fields.remove("items") {
        fields.insert("items".into(), rewrite(items));
    }
    fields
}

/// Takes the branches of a union into the schema itself: constants become one `enum`, `null` is dropped (an absent field says it), and
/// what a single branch says holds.
fn absorb(fields: &mut Map<String, Value>, branches: Vec<Value>) {
    let mut constants: Vec<Value> = Vec::new();
    let mut meanings: Vec<String> = Vec::new();
    for branch in branches {
        let Value::Object(branch) = branch else { continue };
        let mut branch = rewrite_object(branch);
        if branch.get("type").is_some_and(|name| name == "null") || branch.get("enum") == Some(&json!([null])) {
            continue;
        }
        let named = branch.remove("const").map(|constant| vec![constant]).or_else(|| match branch.remove("enum") {
            Some(Value::Array(values)) => Some(values),
            _ => None,
        });
        if let Some(values) = named {
            if let ([Value::String(name)], Some(Value::String(meaning))) = (values.as_slice(), branch.remove("description")) {
                meanings.push(format!("`{name}`: {meaning}"));
            }
            constants.extend(values);
        }
        for (word, value) in branch {
            fields.entry(word).or_insert(value);
        }
    }
    if !constants.is_empty() {
        fields.insert("enum".into(), Value::Array(constants));
        fields.insert("type".into(), json!("string"));
    }
    if !meanings.is_empty() {
        let text = fields.get("description").and_then(Value::as_str).unwrap_or_default();
        fields.insert("description".into(), json!(format!("{text} {}", meanings.join(" ")).trim()));
    }
}
