//! Defaults and checks of an object by the structural schema of its CRD: what the API server does, done to files.
//!
//! Understood: types, required fields, unknown fields, enums, patterns, bounds of texts, lists, maps and numbers, and defaults. Not understood: CEL
//! rules (`x-kubernetes-validations`). Those of our own kinds are checked again where a policy is compiled; of Gateway API's, what would be
//! served otherwise than written is refused by [`crate::admission`]. Sources: Kubernetes "Extend the API with CustomResourceDefinitions",
//! OpenAPI v3.

use super::Fault;
use parking_lot::Mutex;
use selvage_policy::Key;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Fills in defaults, in place.
pub fn fill_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(properties)) = schema.get("properties") {
                for (name, property) in properties {
                    if let (false, Some(default)) = (fields.contains_key(name), property.get("default")) {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(field) = fields.get_mut(name) {
                        fill_defaults(property, field);
                    }
                }
            }
            if let Some(values @ Value::Object(_)) = schema.get("additionalProperties") {
                fields.values_mut().for_each(|field| fill_defaults(values, field));
            }
        }
        Value::Array(items) => {
            if let Some(schema) = schema.get("items") {
                items.iter_mut().for_each(|item| fill_defaults(schema, item));
            }
        }
        _ => {}
    }
}

/// What becomes of fields that a schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are faults: files say what this version reads, or are refused.
    Refuse,
    /// They are noted: the API server has checked the object, by a CRD that may be newer than this version.
    Note,
}

/// What was found out about an object.
#[derive(Debug, Default)]
pub struct Found {
    /// What the schema does not allow.
    pub faults: Vec<Fault>,
    /// Paths of fields that it does not know, where they are only noted.
    pub unknown: Vec<String>,
}

/// Everything about `value` that `schema` does not allow, or does not know.
pub fn check(key: &Key, schema: &Value, value: &Value, unknown: Unknown) -> Found {
    let mut checker = Checker { key, unknown, found: Found::default() };
    checker.visit(schema, value, "");
    checker.found
}

/// Faults of one object that are reported; more would not be read.
const MOST_FAULTS: usize = 32;

struct Checker<'a> {
    key: &'a Key,
    unknown: Unknown,
    found: Found,
}

impl Checker<'_> {
    fn fault(&mut self, path: &str, problem: String) {
        if self.found.faults.len() < MOST_FAULTS {
            self.found.faults.push(Fault::of(self.key, path, problem));
        }
    }

    fn visit(&mut self, schema: &Value, value: &Value, path: &str) {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            if !(value.is_i64() || value.is_string()) {
                self.fault(path, "is neither a whole number nor a text".into());
            }
            return;
        }
        let fits = match schema.get("type").and_then(Value::as_str) {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            _ => true,
        };
        if !fits {
            let wanted = schema.get("type").and_then(Value::as_str).unwrap_or_default();
            return self.fault(path, format!("is {}, but must be of type {wanted}", describe(value)));
        }
        match value {
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Array(items) => self.list(schema, items, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number, path),
            _ => {}
        }
        if let Some(Value::Array(allowed)) = schema.get("enum")
            && !allowed.contains(value)
        {
            let words: Vec<String> = allowed.iter().map(plain).collect();
            self.fault(path, format!("`{}` is not allowed: use one of {}", plain(value), words.join(", ")));
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(required) {
                self.fault(&join(path, required), "is required".into());
            }
        }
        self.count(schema, fields.len(), path, "minProperties", "maxProperties", "entries");
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        let open = schema.get("x-kubernetes-preserve-unknown-fields").is_some() || properties.is_none();
        for (name, value) in fields {
            let at = join(path, name);
            match (properties.and_then(|properties| properties.get(name)), others) {
                (Some(property), _) | (None, Some(property)) => self.visit(property, value, &at),
                (None, None) if open => {}
                (None, None) if self.unknown == Unknown::Note => self.found.unknown.push(at),
                (None, None) => {
                    let known: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                    self.fault(&at, format!("is not a field: known are {}", known.join(", ")));
                }
            }
        }
    }

    fn list(&mut self, schema: &Value, items: &[Value], path: &str) {
        self.count(schema, items.len(), path, "minItems", "maxItems", "items");
        if let Some(item_schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.visit(item_schema, item, &format!("{path}[{index}]"));
            }
        }
        self.unique(schema, items, path);
    }

    /// Lists that are maps (`x-kubernetes-list-type: map`) have no two items with the same keys; sets no two equal items.
    fn unique(&mut self, schema: &Value, items: &[Value], path: &str) {
        let keys: Vec<&str> =
            schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let identity = |item: &Value| -> Vec<Value> {
            if keys.is_empty() { vec![item.clone()] } else { keys.iter().map(|key| item[*key].clone()).collect() }
        };
        if matches!(schema.get("x-kubernetes-list-type").and_then(Value::as_str), Some("map" | "set")) {
            for (index, item) in items.iter().enumerate() {
                if items[..index].iter().any(|earlier| identity(earlier) == identity(item)) {
                    let shown: Vec<String> = identity(item).iter().map(plain).collect();
                    self.fault(&format!("{path}[{index}]"), format!("`{}` is there twice", shown.join(", ")));
                }
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        self.count(schema, text.chars().count(), path, "minLength", "maxLength", "characters");
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            // Patterns of CRDs are RE2, which the regex crate reads; one it does not read checks nothing, as in a cluster the API server will.
            if compiled(pattern).is_some_and(|pattern| !pattern.is_match(text)) {
                self.fault(path, format!("`{text}` does not match {pattern}"));
            }
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number, path: &str) {
        let value = number.as_f64().unwrap_or_default();
        let bound = |word: &str| schema.get(word).and_then(Value::as_f64);
        let (least, most) = match schema.get("format").and_then(Value::as_str) {
            Some("int32") => (f64::from(i32::MIN), f64::from(i32::MAX)),
            _ => (f64::MIN, f64::MAX),
        };
        let (least, most) = (bound("minimum").unwrap_or(least), bound("maximum").unwrap_or(most));
        if value < least || value > most {
            self.fault(path, format!("{number} is out of range: use {least} to {most}"));
        }
    }

    fn count(&mut self, schema: &Value, count: usize, path: &str, least: &str, most: &str, what: &str) {
        let bound = |word: &str| schema.get(word).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
        if let Some(least) = bound(least).filter(|least| count < *least) {
            self.fault(path, format!("has {count} {what}; at least {least} are needed"));
        }
        if let Some(most) = bound(most).filter(|most| count > *most) {
            self.fault(path, format!("has {count} {what}; at most {most} are allowed"));
        }
    }
}

/// Patterns of the schemas, compiled once. There are as many as schemas have.
fn compiled(pattern: &str) -> Option<regex::Regex> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Option<regex::Regex>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock();
    if let Some(known) = compiled.get(pattern) {
        return known.clone();
    }
    let new = regex::Regex::new(pattern).ok();
    compiled.insert(pattern.into(), new.clone());
    new
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
