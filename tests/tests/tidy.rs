//! What `docs/ARCHITECTURE.md` and `docs/STYLE.md` say and a program can check: crate edges, who may name what, sizes and names.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// No source file is longer, unless it is generated.
const MOST_LINES: usize = 700;

/// Words that say nothing.
const EMPTY_WORDS: [&str; 12] =
    ["manager", "helper", "helpers", "util", "utils", "common", "misc", "inner", "data", "info", "new2", "stuff"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().expect("cargo metadata")
}

/// Files that git knows or would take, by their path from the root.
fn files() -> Vec<String> {
    let list = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    assert!(list.status.success(), "git ls-files failed");
    let list = String::from_utf8(list.stdout).expect("paths are UTF-8");
    list.lines().filter(|path| root().join(path).is_file()).map(String::from).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rust_files() -> Vec<(String, String)> {
    files().into_iter().filter(|path| path.ends_with(".rs")).map(|path| (read(&path), path)).map(|(text, path)| (path, text)).collect()
}

fn is_generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.contains("@generated"))
}

/// The text without comments and string literals, roughly: enough to look for names in code.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn crates_depend_on_each_other_only_as_the_architecture_says() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("selvage-policy", &[][..]),
        ("selvage-config", &["selvage-policy"]),
        ("selvage-proxy", &["selvage-policy", "selvage-config"]),
        ("selvage-gateway", &["selvage-policy", "selvage-config", "selvage-proxy"]),
        ("selvage-mesh-agent", &["selvage-policy", "selvage-config", "selvage-proxy"]),
        ("selvage-controller", &["selvage-policy", "selvage-config"]),
        (
            "selvage-ctl",
            &["selvage-policy", "selvage-config", "selvage-proxy", "selvage-gateway", "selvage-mesh-agent", "selvage-controller"],
        ),
        ("selvage-bookshop", &[]),
    ]);
    let metadata = metadata();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let name = package.name.to_string();
        seen.insert(name.clone());
        for dependency in package.dependencies.iter().filter(|dependency| dependency.name.starts_with("selvage-")) {
            let may = name == "selvage-tests" || allowed.get(name.as_str()).is_some_and(|list| list.contains(&dependency.name.as_str()));
            if !may {
                wrong.push(format!("{name} -> {}", dependency.name));
            }
        }
    }
    none("edges that the architecture does not have", wrong);
    assert_eq!(seen.len(), allowed.len() + 1, "a crate was added or removed: say in this test what it may depend on; found {seen:?}");
}

#[test]
fn pingora_is_named_in_the_proxy_only_and_kubernetes_in_the_controller_only() {
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development) {
            let (name, target) = (package.name.as_str(), dependency.name.as_str());
            let pingora =
                target.starts_with("pingora") && name != "selvage-proxy" && !(target == "pingora-http" && name == "selvage-policy");
            let kubernetes = matches!(target, "kube" | "k8s-openapi" | "gateway-api") && name != "selvage-controller";
            let sockets = name == "selvage-policy" && matches!(target, "tokio" | "tonic" | "hyper" | "rustls");
            if pingora || kubernetes || sockets {
                wrong.push(format!("{name} -> {target}"));
            }
        }
    }
    none("dependencies in the wrong place", wrong);
}

#[test]
fn pure_code_has_no_clock_and_no_socket() {
    let impure = Regex::new(r"\b(SystemTime::now|Instant::now|TcpStream|TcpListener|UdpSocket|std::fs|tokio::)").expect("a literal");
    let pure = ["gateway/policy/src/", "controller/src/translate/", "gateway/config/src/resource/", "gateway/config/src/attach"];
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        if pure.iter().any(|folder| path.starts_with(folder)) && !path.ends_with("tests.rs") {
            let until_tests = text.split("#[cfg(test)]").next().unwrap_or_default().to_string();
            wrong.extend(impure.find_iter(&code(&until_tests)).map(|found| format!("{path}: {}", found.as_str())));
        }
    }
    none("clocks, files or sockets in code that must be pure", wrong);
}

#[test]
fn every_policy_kind_is_one_folder_of_the_same_anatomy() {
    let list = read("gateway/policy/src/list.rs");
    for (folder, kind) in [("authorization", "AuthorizationPolicy"), ("rate_limit", "RateLimitPolicy"), ("traffic", "TrafficPolicy")] {
        let at = |file: &str| root().join("gateway/policy/src").join(folder).join(file).is_file();
        for file in ["mod.rs", "spec.rs", "compile.rs", "tests.rs"] {
            assert!(at(file), "gateway/policy/src/{folder}/{file} is missing");
        }
        assert!(at("filter.rs") || at("settings.rs"), "gateway/policy/src/{folder} has neither filter.rs nor settings.rs");
        assert!(list.contains(&format!("Self::{kind}")), "{kind} is not in the list");
        let page = format!("docs/policies/{}.md", folder.replace('_', "-"));
        assert!(root().join(&page).is_file(), "{page} is missing");
    }
    let kinds = list.matches("Self::").count();
    assert!(kinds > 3, "the list is not where this test looks for it");
}

#[test]
fn source_files_are_short_enough_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        if is_generated(&text) {
            continue;
        }
        if text.lines().count() > MOST_LINES {
            wrong.push(format!("{path}: {} lines; split it below {MOST_LINES}", text.lines().count()));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{path}: begin with a module doc (`//!`) that says what it is"));
        }
    }
    none("source files", wrong);
}

#[test]
fn names_say_something() {
    let types = Regex::new(r"\b(?:struct|enum|trait|type|mod) ([A-Za-z0-9_]+)").expect("a literal");
    let word = Regex::new(r"[A-Z]?[a-z0-9]+").expect("a literal");
    let mut wrong = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(_, text)| !is_generated(text)) {
        let file = path.trim_end_matches(".rs").split('/').filter(|part| EMPTY_WORDS.contains(part)).map(|part| format!("{path}: {part}"));
        wrong.extend(file);
        for name in types.captures_iter(&code(&text)).map(|found| found[1].to_string()) {
            if word.find_iter(&name).any(|word| EMPTY_WORDS.contains(&word.as_str().to_lowercase().as_str())) {
                wrong.push(format!("{path}: {name}"));
            }
        }
    }
    none("names without meaning", wrong);
}

#[test]
fn nothing_is_left_unfinished() {
    // Written in two halves, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["unimplemented", "!("], ["todo", "!("], ["Placeholder", "."]]
        .map(|halves| halves.concat());
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("unfinished", wrong);
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let place = Regex::new(r"(^|[^\w.])/(work|root|home/\w|var/tmp|Users)/").expect("a literal");
    let mut wrong = Vec::new();
    for path in files() {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        if path == "tests/tests/tidy.rs" || path == "Cargo.lock" {
            continue;
        }
        wrong.extend(
            text.lines()
                .enumerate()
                .filter(|(_, line)| place.is_match(line))
                .map(|(number, line)| format!("{path}:{}: {line}", number + 1)),
        );
    }
    none("paths of a machine", wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#\s]+)(?:#[^)]*)?\)").expect("a literal");
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in files().into_iter().filter(|path| path.ends_with(".md")) {
        let text = read(&path);
        for target in link.captures_iter(&text).map(|found| found[1].to_string()).filter(|target| !target.contains("://")) {
            count += 1;
            if !root().join(&path).parent().expect("a file has a folder").join(&target).exists() {
                wrong.push(format!("{path}: {target}"));
            }
        }
    }
    assert!(count > 5, "no links were found: the pattern is wrong");
    none("links that lead nowhere", wrong);
}

#[test]
fn every_reason_is_told_apart_in_the_documentation() {
    let reference = read("docs/reference/reasons.md");
    let missing = selvage_policy::Reason::ALL
        .into_iter()
        .filter(|reason| !reference.contains(&format!("`{reason}`")))
        .map(|reason| reason.to_string());
    none("reasons that docs/reference/reasons.md does not have (run `make gen`)", missing.collect());
}
