//! `docs/reference` is what the code says. `make gen` writes it again; this test fails where it was forgotten.

use clap::CommandFactory;
use regex::Regex;
use schemars::{JsonSchema, schema_for};
use selvage_policy::Reason;
use selvage_policy::authorization::AuthorizationPolicySpec;
use selvage_policy::mesh::MeshConfigSpec;
use selvage_policy::rate_limit::RateLimitPolicySpec;
use selvage_policy::traffic::TrafficPolicySpec;
use selvage_tests::program::root;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// Set: pages are written instead of compared.
const WRITE: &str = "SELVAGE_WRITE";

const HEAD: &str = "<!-- Written by `make gen`; edit the code instead. -->\n";

fn check(page: &str, text: &str) {
    let path = root().join("docs/reference").join(page);
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(path.parent().expect("a page has a folder")).expect("the folder can be made");
        std::fs::write(&path, text).expect("the page can be written");
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let line = written.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert_eq!(written, text, "docs/reference/{page} is not what the code says (from line {line:?} on): run `make gen`");
}

#[test]
fn the_reasons_page_lists_every_reason_with_its_statuses() {
    let source = std::fs::read_to_string(root().join("gateway/policy/src/reason.rs")).expect("reason.rs");
    // The documentation of each variant stands above it.
    let mut meanings: BTreeMap<&str, String> = BTreeMap::new();
    let mut doc = String::new();
    for line in source.lines().skip_while(|line| !line.contains("pub enum Reason")).skip(1).take_while(|line| *line != "}") {
        match line.trim().strip_prefix("/// ") {
            Some(text) => {
                doc.push_str(if doc.is_empty() { "" } else { " " });
                doc.push_str(text);
            }
            None => {
                meanings.insert(line.trim().trim_end_matches(','), std::mem::take(&mut doc));
            }
        }
    }
    let mut page = format!(
        "{HEAD}# Reasons\n\nWhy a request was refused or failed: the same word in the body (`reason`), the access log, the metric label `reason` and here. An API: words are added, \
         never changed.\n\n| reason | HTTP | gRPC | meaning |\n| --- | --- | --- | --- |\n"
    );
    for reason in Reason::ALL {
        let meaning = &meanings[format!("{reason:?}").as_str()];
        writeln!(page, "| `{reason}` | {} | {} | {meaning} |", reason.status(), reason.grpc_status()).expect("a String takes everything");
    }
    check("reasons.md", &page);
}

#[test]
fn the_policies_page_lists_every_field_of_every_kind() {
    let mut page = format!(
        "{HEAD}# Policy kinds, field by field\n\nGroup `selvage.dev`, version `v1alpha1`. What they mean together: [policies](../policies/README.md).\n"
    );
    kind::<AuthorizationPolicySpec>(&mut page, "AuthorizationPolicy");
    kind::<RateLimitPolicySpec>(&mut page, "RateLimitPolicy");
    kind::<TrafficPolicySpec>(&mut page, "TrafficPolicy");
    kind::<MeshConfigSpec>(&mut page, "MeshConfig");
    check("policies.md", &page);
}

#[test]
fn the_command_line_page_is_the_help_of_every_command() {
    let mut page = format!("{HEAD}# `selvage`\n");
    let mut command = selvage_ctl::cli::Cli::command().term_width(100);
    command.build();
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set())
        .map(|sub| sub.get_name().to_string())
        .filter(|name| name != "help")
        .collect();
    for name in names {
        let sub = command.find_subcommand_mut(&name).expect("it was just listed");
        let help = sub.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()).expect("a String takes everything");
    }
    check("command-line.md", &page);
}

/// One metric, as it is registered.
struct Metric {
    name: String,
    kind: &'static str,
    help: String,
    labels: String,
}

/// Every metric that a file registers: its name and meaning, the type whose constructor stands before, the labels that stand behind.
fn metrics(file: &str) -> Vec<Metric> {
    let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let literal = Regex::new(r#""(selvage_[a-z_]+)",\s*"([^"]+)""#).expect("a literal");
    let types = Regex::new(r"(Counter|Gauge|Histogram)(?:Opts|Vec)?::").expect("a literal");
    let labels = Regex::new(r#"&\[("[^\]]*)\]"#).expect("a literal");
    let starts: Vec<usize> = literal.find_iter(&text).map(|found| found.start()).collect();
    let each = literal.captures_iter(&text).enumerate().map(|(index, found)| {
        let (start, end) = (starts[index], starts.get(index + 1).copied().unwrap_or(text.len()));
        let kind = types.captures_iter(&text[..start]).last().unwrap_or_else(|| panic!("{file}: {} has no type", &found[1]));
        let kind = match &kind[1] {
            "Counter" => "counter",
            "Gauge" => "gauge",
            _ => "histogram",
        };
        let behind = text[start..end].split(")?").next().unwrap_or_default();
        let labels = labels.captures(behind).map(|found| found[1].replace('"', "`")).unwrap_or_default();
        Metric { name: found[1].into(), kind, help: found[2].into(), labels }
    });
    each.collect()
}

#[test]
fn the_metrics_page_lists_every_metric() {
    let mut page = format!("{HEAD}# Metrics\n\nIn the text form of Prometheus. Every label has a bounded set of values.\n");
    let observe = root().join("gateway/proxy/src/observe");
    let mut files: Vec<String> =
        std::fs::read_dir(observe).expect("observe").flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    files.retain(|name| name.ends_with(".rs") && name != "tests.rs");
    let of_proxies = files.iter().flat_map(|name| metrics(&format!("gateway/proxy/src/observe/{name}"))).collect();
    let of_controllers = metrics("controller/src/cluster/metrics.rs");
    for (title, place, mut list) in
        [("Proxies", "Of an edge and of a sidecar, at port 15320 of each.", of_proxies), ("Controller", "At port 15420.", of_controllers)]
            as [(&str, &str, Vec<Metric>); 2]
    {
        list.sort_by(|one, other| one.name.cmp(&other.name));
        assert!(list.len() > 10, "{title}: the metrics are not where this test looks for them");
        write!(page, "\n## {title}\n\n{place}\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
            .expect("a String takes everything");
        for Metric { name, kind, help, labels } in list {
            writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("a String takes everything");
        }
    }
    let registry = selvage_proxy::observe::Metrics::new().expect("metrics").render().expect("text");
    for line in String::from_utf8(registry).expect("text").lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        assert!(page.contains(&format!("| `{name}` | {kind} |")), "{line} is registered, and not found by its name in the code");
    }
    check("metrics.md", &page);
}

/// One kind: its spec, then every object in it.
fn kind<T: JsonSchema>(page: &mut String, name: &str) {
    let schema = serde_json::to_value(schema_for!(T)).expect("a schema is JSON");
    let definitions = schema["$defs"].as_object().cloned().unwrap_or_default();
    write!(page, "\n## {name}\n\n{}\n", description(&schema)).expect("a String takes everything");
    let mut open: VecDeque<(String, Value)> = VecDeque::from([("spec".to_string(), schema)]);
    while let Some((path, object)) = open.pop_front() {
        let Some(properties) = object["properties"].as_object() else { continue };
        let required: Vec<&str> =
            object["required"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        write!(page, "\n**`{path}`**\n\n| field | type | |\n| --- | --- | --- |\n").expect("a String takes everything");
        for (field, schema) in properties {
            let (text, below) = type_of(schema, &definitions);
            let need = if required.contains(&field.as_str()) { " (required)" } else { "" };
            writeln!(page, "| `{field}`{need} | {text} | {} |", description(schema).replace('|', "\\|"))
                .expect("a String takes everything");
            if let Some(below) = below {
                let list = if text.starts_with("list") { "[]" } else { "" };
                open.push_back((format!("{path}.{field}{list}"), below));
            }
        }
    }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The type in words, and the object to describe below.
fn type_of(schema: &Value, definitions: &Map<String, Value>) -> (String, Option<Value>) {
    let resolve = |reference: &str| reference.rsplit('/').next().and_then(|name| definitions.get(name)).cloned().unwrap_or_default();
    if let Some(reference) = schema["$ref"].as_str() {
        return type_of(&resolve(reference), definitions);
    }
    let alternatives = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    if let Some(alternatives) = alternatives {
        let words: Vec<String> = alternatives.iter().filter_map(|one| one["const"].as_str()).map(|word| format!("`{word}`")).collect();
        if !words.is_empty() {
            return (words.join(", "), None);
        }
        if let Some(one) = alternatives.iter().find(|one| one["type"] != "null") {
            return type_of(one, definitions);
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        return (words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "), None);
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or("any"),
        name => name.as_str().unwrap_or("any"),
    };
    match name {
        "array" => {
            let (text, below) = type_of(&schema["items"], definitions);
            let most = schema["maxItems"].as_u64().map(|most| format!(", at most {most}")).unwrap_or_default();
            (format!("list of {text}{most}"), below)
        }
        "object" if schema["properties"].is_object() => ("object".into(), Some(schema.clone())),
        "object" => ("map".into(), None),
        name => (name.into(), None),
    }
}
