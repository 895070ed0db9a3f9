//! The command lines of the programs: forms of output that other programs can read, and help with examples.

use selvage_tests::Directory;
use selvage_tests::program::{program, root};
use serde_json::Value;
use std::process::Command;

/// What a program prints on standard output.
fn printed(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(name)).args(arguments).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text")
}

/// The same in a form; a form that is not what it is called fails.
fn read(name: &str, arguments: &[&str], form: &str) -> Vec<Value> {
    let text = printed(name, &[arguments, &["-o", form]].concat());
    match form {
        "json" => vec![serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name} {arguments:?}: {error}: {text}"))],
        _ => serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{name} {arguments:?}: {error}: {text}")),
    }
}

#[test]
fn what_is_printed_for_programs_is_what_its_form_says() {
    let directory = Directory::copy_of("examples/bookshop");
    let dir = directory.path().to_str().expect("text");
    let url = "http://127.64.1.1:8080/orders/17";
    for (arguments, member) in [
        (vec!["render", dir], "resources"),
        (vec!["render", dir, "--for", "Gateway/bookshop/public"], "resources"),
        (vec!["check", dir], "errors"),
        (vec!["explain", dir, "--url", url], "verdict"),
        (vec!["version"], "version"),
    ] {
        for form in ["json", "yaml"] {
            let documents = read("selvage", &arguments, form);
            assert!(documents.len() == 1 && documents[0].get(member).is_some(), "{arguments:?} -o {form}: {documents:?}");
        }
    }
    let both = Command::new(program("selvage")).args(["render", dir, "--out", "unwritten.yaml", "-o", "json"]).output().expect("it runs");
    assert_eq!(both.status.code(), Some(2), "a file has one form: {}", String::from_utf8_lossy(&both.stderr));
}

#[test]
fn the_controller_prints_the_definitions_of_its_kinds() {
    let kinds = |definitions: &[Value]| -> Vec<String> {
        definitions.iter().map(|one| one["spec"]["names"]["kind"].as_str().expect("a kind").to_string()).collect()
    };
    let yaml = read("controller", &["crds"], "yaml");
    let json = read("controller", &["crds"], "json");
    let items = json[0]["items"].as_array().expect("a List");
    assert_eq!(kinds(&yaml), ["AuthorizationPolicy", "RateLimitPolicy", "TrafficPolicy", "MeshConfig"]);
    assert_eq!(kinds(&yaml), kinds(items));
    assert!(yaml.iter().all(|one| one["kind"] == "CustomResourceDefinition"));
    assert_eq!(yaml, *items);
}

#[test]
fn the_remedy_of_a_cluster_without_gateway_api_is_that_of_the_readme() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.lines().any(|line| line == selvage_controller::cluster::gateway_api::INSTALL));
}

#[test]
fn the_help_of_every_command_has_examples() {
    for (name, commands) in [
        ("selvage", &["up", "render", "check", "explain", "status", "version", "completion"][..]),
        ("gateway", &["run", "check"]),
        ("mesh-agent", &["init", "run", "check"]),
        ("controller", &["run", "crds"]),
    ] {
        for command in commands {
            let help = printed(name, &[command, "--help"]);
            assert!(help.contains("Example") && help.contains(&format!("{name} {command}")), "{name} {command}:\n{help}");
        }
    }
}
