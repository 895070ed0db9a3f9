//! The chart says what the code says: its CRDs, the names of webhooks and accounts, and the settings that the controller reads.
//!
//! Helm itself runs in the suites with a cluster; here the parts that need no templating are read as they are.

use regex::Regex;
use selvage_controller::crds::KINDS;
use selvage_controller::webhook::{MUTATING, VALIDATING, WEBHOOKS};
use selvage_tests::program::root;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Set: generated templates are written instead of compared.
const WRITE: &str = "SELVAGE_WRITE";

fn chart() -> PathBuf {
    root().join("charts/selvage")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(chart().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn crds_are_those_of_the_code_and_are_kept_on_uninstall() {
    let folder = chart().join("templates/crds");
    let mut expected = Vec::new();
    for kind in &KINDS {
        let mut definition = kind.definition();
        definition["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
        let text = format!(
            "# Written by `make gen`; edit the code instead.\n{}\n",
            serde_saphyr::to_string(&definition).expect("YAML").trim_end()
        );
        assert!(!text.contains("{{"), "{}: a description holds what Helm takes for a template", kind.kind);
        let name = format!("{}.yaml", kind.plural);
        if std::env::var_os(WRITE).is_some() {
            std::fs::create_dir_all(&folder).expect("the folder can be made");
            std::fs::write(folder.join(&name), &text).expect("the file can be written");
        }
        let written = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        assert_eq!(written, text, "charts/selvage/templates/crds/{name} is not what the code says: run `make gen`");
        assert_eq!(serde_saphyr::from_str::<Value>(&text).expect("YAML"), definition);
        expected.push(name);
    }
    let files = std::fs::read_dir(&folder).expect("the folder").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = files.collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "a file is left of a kind that is gone");
}

#[test]
fn webhooks_have_the_names_that_the_controller_looks_for() {
    let text = read("templates/webhooks.yaml");
    for configuration in [MUTATING, VALIDATING] {
        assert!(text.contains(&format!("name: {configuration}\n")), "{configuration}");
    }
    for (_, name, path) in WEBHOOKS {
        assert!(text.contains(&format!("- name: {name}\n")) && text.contains(&format!("\"path\" \"{path}\"")), "{name} at {path}");
    }
    assert_eq!(text.matches("failurePolicy: Fail").count(), WEBHOOKS.len());
    assert!(!text.contains("caBundle:"), "the controller keeps caBundle: an upgrade must not take it away");
    let rbac = read("templates/rbac.yaml");
    assert!(rbac.contains(&format!("resourceNames: [{MUTATING}]")) && rbac.contains(&format!("resourceNames: [{VALIDATING}]")));
}

/// The documents of a template, with nothing in place of what Helm puts in.
fn documents(path: &str) -> Vec<Value> {
    let template = Regex::new(r"(?s)\{\{.*?\}\}").expect("a literal");
    serde_saphyr::from_multiple(&template.replace_all(&read(path), "")).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A rule of RBAC in one line: `group: resources [names] -> verbs`.
fn line(rule: &Value) -> String {
    let list = |field: &str| {
        let list = rule[field].as_array().into_iter().flatten();
        list.map(|one| one.as_str().expect("a text")).collect::<Vec<_>>().join(" ")
    };
    let known = ["apiGroups", "resources", "resourceNames", "verbs", "nonResourceURLs"];
    let unknown: Vec<&String> = rule.as_object().expect("a rule").keys().filter(|field| !known.contains(&field.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?} in {rule}");
    let names = if rule["resourceNames"].is_null() { String::new() } else { format!(" [{}]", list("resourceNames")) };
    format!("{}: {}{}{names} -> {}", list("apiGroups"), list("resources"), list("nonResourceURLs"), list("verbs"))
}

/// Nothing is added here without somebody reading it twice.
#[test]
fn the_rights_are_these_and_no_others() {
    let everywhere = [
        ": namespaces pods services -> list watch",
        ": secrets -> list watch",
        "discovery.k8s.io: endpointslices -> list watch",
        "gateway.networking.k8s.io: referencegrants -> list watch",
        "gateway.networking.k8s.io: gatewayclasses gateways listenersets httproutes grpcroutes tlsroutes tcproutes -> get list watch",
        "gateway.networking.k8s.io: gatewayclasses/status gateways/status listenersets/status httproutes/status grpcroutes/status \
         tlsroutes/status tcproutes/status -> patch",
        "selvage.dev: authorizationpolicies ratelimitpolicies trafficpolicies meshconfigs -> get list watch",
        "selvage.dev: authorizationpolicies/status ratelimitpolicies/status trafficpolicies/status meshconfigs/status -> patch",
        "selvage.dev: meshconfigs -> create",
        "authentication.k8s.io: tokenreviews -> create",
        ": /.well-known/openid-configuration /openid/v1/jwks -> get",
        ": configmaps -> create",
        ": configmaps [selvage-roots] -> list watch patch",
        ": services serviceaccounts -> get list create patch delete",
        "apps: deployments -> get list create patch delete",
        "policy: poddisruptionbudgets -> get list create patch delete",
        "admissionregistration.k8s.io: mutatingwebhookconfigurations [selvage-injection] -> patch",
        "admissionregistration.k8s.io: validatingwebhookconfigurations [selvage-validation] -> patch",
    ];
    let in_its_namespace = [
        ": secrets -> create",
        ": secrets [selvage-ca] -> get list watch update",
        "coordination.k8s.io: leases -> create",
        "coordination.k8s.io: leases [selvage-controller] -> get update",
    ];
    let documents = documents("templates/rbac.yaml");
    let kinds: Vec<&str> = documents.iter().map(|one| one["kind"].as_str().expect("a kind")).collect();
    assert_eq!(kinds, ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]);
    for (role, expected) in [(&documents[0], &everywhere[..]), (&documents[2], &in_its_namespace[..])] {
        let rules: Vec<String> = role["rules"].as_array().expect("rules").iter().map(line).collect();
        assert_eq!(rules, expected, "{}", role["kind"]);
    }
    for binding in [&documents[1], &documents[3]] {
        let subjects = binding["subjects"].as_array().expect("subjects");
        assert_eq!(
            (subjects.len(), &subjects[0]["kind"], &subjects[0]["name"]),
            (1, &json!("ServiceAccount"), &json!("selvage-controller"))
        );
    }
}

#[test]
fn the_mesh_config_is_guarded_against_deletion() {
    let documents = documents("templates/webhooks.yaml");
    let validating = documents.iter().find(|one| one["kind"] == "ValidatingWebhookConfiguration").expect("a configuration");
    let rules = validating["webhooks"][0]["rules"].as_array().expect("rules");
    let guards = |rule: &&Value| rule["resources"] == json!(["meshconfigs"]) && rule["operations"] == json!(["DELETE"]);
    assert_eq!(rules.iter().filter(guards).count(), 1, "{rules:?}");
}

#[test]
fn the_class_is_kept_on_uninstall_like_the_gateways_of_it() {
    let class = &documents("templates/gatewayclass.yaml")[0];
    assert_eq!(class["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
}

#[test]
fn every_kind_of_ours_may_be_watched_and_told_its_status() {
    let rbac = read("templates/rbac.yaml");
    for kind in &KINDS {
        for resource in [kind.plural.to_string(), format!("{}/status", kind.plural)] {
            assert!(rbac.contains(&resource), "{resource} is missing in templates/rbac.yaml");
        }
    }
    assert!(!rbac.contains('*'), "rights are named one by one");
}

#[test]
fn every_value_is_in_the_schema_and_unknown_ones_are_refused() {
    fn visit(schema: &Value, whole: &Value, value: &Value, path: &str, missing: &mut Vec<String>) {
        let target = schema["$ref"].as_str().and_then(|reference| whole.pointer(reference.trim_start_matches('#')));
        let schema = target.unwrap_or(schema);
        let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else { return };
        if schema["additionalProperties"] != json!(false) {
            missing.push(format!("{path} takes unknown values"));
        }
        for (name, value) in fields {
            match properties.get(name) {
                Some(below) => visit(below, whole, value, &format!("{path}.{name}"), missing),
                None => missing.push(format!("{path}.{name} is not in the schema")),
            }
        }
    }
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("JSON");
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("YAML");
    let mut missing = Vec::new();
    visit(&schema, &schema, &values, "values", &mut missing);
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(values.as_object().is_some_and(|fields| fields.len() > 5), "values.yaml was not read");
}

/// The same as `selvage.settings` in `_helpers.tpl`.
#[test]
fn the_controller_reads_what_the_values_become() {
    let values: Value = serde_saphyr::from_str(&read("values.yaml")).expect("YAML");
    let settings = json!({
        "image": "selvage:1", "imagePullPolicy": values["image"]["pullPolicy"], "controller": "selvage-controller.selvage-system.svc.cluster.local:15410",
        "trustDomain": values["trustDomain"], "sidecars": values["sidecars"], "gateways": values["gateways"],
    });
    let template = read("templates/_helpers.tpl");
    for field in settings.as_object().expect("an object").keys() {
        assert!(template.contains(&format!("\"{field}\"")), "{field}");
    }
    selvage_controller::settings::Settings::parse(&settings.to_string()).expect("settings");
}

#[test]
fn the_chart_holds_no_object_of_our_own_kinds() {
    for entry in std::fs::read_dir(chart().join("templates")).expect("templates").flatten().filter(|entry| entry.path().is_file()) {
        let text = std::fs::read_to_string(entry.path()).expect("a template");
        assert!(!text.contains("apiVersion: selvage.dev"), "{:?}", entry.path());
    }
}
