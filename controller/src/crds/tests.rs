use super::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Calls `visit` with every schema and its path.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&Value, &str)) {
    visit(schema, path);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(property, &format!("{path}.{name}"), visit);
    }
    for part in ["items", "additionalProperties"] {
        if let Some(part @ Value::Object(_)) = schema.get(part) {
            walk(part, &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn every_list_map_and_string_is_bounded() {
    let mut unbounded = Vec::new();
    for kind in &KINDS {
        walk(&kind.schema(), kind.kind, &mut |schema, path| {
            let bounded = match schema["type"].as_str() {
                Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array(),
                Some("array") => schema["maxItems"].is_u64(),
                Some("object") => !schema["additionalProperties"].is_object() || schema["maxProperties"].is_u64(),
                Some("integer" | "boolean" | "number") => true,
                _ => false,
            };
            if !bounded {
                unbounded.push(format!("{path}: {}", schema["type"]));
            }
        });
    }
    assert!(unbounded.is_empty(), "{unbounded:#?}");
}

#[test]
fn schemas_are_structural() {
    for kind in &KINDS {
        walk(&kind.schema(), kind.kind, &mut |schema, path| {
            for word in ["$ref", "oneOf", "anyOf", "allOf", "nullable", "$schema", "const"] {
                assert!(schema.get(word).is_none(), "{path} has `{word}`");
            }
            assert!(schema["type"].is_string(), "{path} has no one type: {schema}");
            assert!(!(schema["properties"].is_object() && schema["additionalProperties"].is_object()), "{path} mixes fields and a map");
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(
                    schema["properties"].get(required.as_str().expect("a text")).is_some(),
                    "{path} requires {required} and does not have it"
                );
            }
        });
    }
}

#[test]
fn definitions_are_what_kubernetes_reads() {
    for kind in &KINDS {
        let definition: CustomResourceDefinition = serde_json::from_value(kind.definition()).expect("a CustomResourceDefinition");
        assert_eq!(definition.metadata.name.as_deref(), Some(format!("{}.selvage.dev", kind.plural).as_str()));
        let version = &definition.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()));
        assert_eq!(definition.spec.names.categories, Some(vec!["selvage".to_string()]));
        assert!(definition.spec.names.short_names.is_some_and(|names| !names.is_empty()));
        let label = definition.metadata.labels.and_then(|labels| labels.get("gateway.networking.k8s.io/policy").cloned());
        assert_eq!(label.as_deref(), (kind.kind != "MeshConfig").then_some("Inherited"));
    }
}

#[test]
fn printed_definitions_read_back_as_the_same() {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml().expect("printable")).expect("YAML");
    let definitions: Vec<Value> = KINDS.iter().map(OwnKind::definition).collect();
    assert_eq!(documents, definitions);
}

#[test]
fn fields_keep_their_documentation_and_bounds() {
    let schema = OwnKind::of("AuthorizationPolicy").expect("ours").schema();
    let rules = schema.pointer("/properties/spec/properties/rules").expect("rules");
    assert_eq!(rules["maxItems"], 64);
    assert_eq!(rules["minItems"], 1);
    assert_eq!(rules.pointer("/items/properties/action/enum"), Some(&json!(["Allow", "Deny"])));
    assert!(rules["description"].as_str().is_some_and(|text| !text.is_empty()));
    let trust_domain = OwnKind::of("MeshConfig").expect("ours").schema();
    assert_eq!(
        trust_domain.pointer("/properties/spec/properties/trustDomain/x-kubernetes-validations/0/rule"),
        Some(&json!("self == oldSelf"))
    );
}

#[test]
fn a_policys_own_rules_stand_beside_the_one_for_targets() {
    for kind in ["AuthorizationPolicy", "RateLimitPolicy", "TrafficPolicy"] {
        let schema = OwnKind::of(kind).expect("a kind of ours").schema();
        let rules = schema.pointer("/properties/spec/x-kubernetes-validations").and_then(Value::as_array).expect("rules");
        let text = rules.iter().map(|rule| rule["rule"].to_string()).collect::<String>();
        assert!(rules.len() == 2 && text.contains("self.inheritance") && text.contains("self.targetSelectors"), "{kind}: {text}");
    }
}
