//! The examples in `docs/policies` and README are what they say: manifests are admitted or refused, requests come out as written.
//!
//! `docs/policies/README.md` tells how blocks are marked.

use selvage_tests::Directory;
use selvage_tests::program::{program, root};
use std::process::Command;

/// A fenced block: what stands behind the backticks, and its text.
#[derive(Debug)]
struct Block {
    page: String,
    line: usize,
    mark: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(mark) if !open => {
                open = true;
                found.push(Block { page: page.into(), line: number + 1, mark: mark.trim().into(), text: String::new() });
            }
            Some(_) => open = false,
            None if open => {
                if let Some(block) = found.last_mut() {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
            None => {}
        }
    }
    assert!(!open, "{page}: a block is not closed");
    found
}

fn pages() -> Vec<String> {
    let folder = root().join("docs/policies");
    let mut pages: Vec<String> = std::fs::read_dir(folder)
        .expect("docs/policies")
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".md") && name != "README.md")
        .map(|name| format!("docs/policies/{name}"))
        .collect();
    pages.sort();
    pages
}

fn selvage(arguments: &[&str], directory: &Directory) -> (Option<i32>, String) {
    let (command, rest) = arguments.split_first().expect("a command");
    let output = Command::new(program("selvage")).arg(command).arg(directory.path()).args(rest).output().expect("selvage runs");
    (output.status.code(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// `kind namespace name` of a manifest, so that a later block with the same object replaces the earlier one.
fn object(manifest: &str) -> String {
    let kind = manifest.lines().find_map(|line| line.strip_prefix("kind: ")).expect("a kind");
    let metadata = manifest.lines().find_map(|line| line.strip_prefix("metadata: ")).expect("metadata on one line");
    let name = metadata.trim_matches(['{', '}', ' ']).split(',').map(str::trim).collect::<Vec<_>>().join("-").replace([':', ' '], "");
    format!("{kind}-{name}")
}

#[test]
fn examples_are_admitted_or_refused_as_marked_and_requests_come_out_as_written() {
    let (mut manifests, mut refusals, mut requests) = (0, 0, 0);
    for page in pages() {
        let directory = Directory::copy_of("docs/policies/base");
        for block in blocks(&page) {
            let place = format!("{}:{}", block.page, block.line);
            match block.mark.as_str() {
                "yaml manifest" => {
                    for document in block.text.split("\n---\n") {
                        directory.write(&format!("app/example-{}.yaml", object(document)), document);
                    }
                    let (code, said) = selvage(&["check"], &directory);
                    assert_eq!(code, Some(0), "{place} is not admitted:\n{said}");
                    manifests += 1;
                }
                "yaml refused" => {
                    let field =
                        block.text.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_else(|| panic!("{place}: which field?"));
                    let file = directory.write("app/refused.yaml", &block.text);
                    let (code, said) = selvage(&["check"], &directory);
                    assert_eq!(code, Some(1), "{place} is admitted:\n{said}");
                    assert!(said.contains(field), "{place}: the error does not name `{field}`:\n{said}");
                    std::fs::remove_file(file).expect("the file can be removed");
                    refusals += 1;
                }
                "explain" => {
                    let lines: Vec<&str> = block.text.lines().filter(|line| !line.trim().is_empty()).collect();
                    for pair in lines.chunks(2) {
                        let [request, outcome] = pair else { panic!("{place}: a request without an outcome: {pair:?}") };
                        let outcome = outcome.strip_prefix("=> ").unwrap_or_else(|| panic!("{place}: `=> ` is missing: {outcome}"));
                        let words: Vec<&str> = request.split_whitespace().collect();
                        let arguments: Vec<&str> = ["explain"].into_iter().chain(words).chain(["-o", "json"]).collect();
                        let (_, said) = selvage(&arguments, &directory);
                        let value: serde_json::Value =
                            serde_json::from_str(&said).unwrap_or_else(|error| panic!("{place}: {request}: {error}\n{said}"));
                        let text = |name: &str| value[name].as_str().map(String::from);
                        let came: Vec<String> = [text("verdict"), text("reason"), text("policy")].into_iter().flatten().collect();
                        let wanted: Vec<String> = outcome.split_whitespace().map(String::from).collect();
                        assert_eq!(
                            came.iter().take(wanted.len()).collect::<Vec<_>>(),
                            wanted.iter().collect::<Vec<_>>(),
                            "{place}: {request}\n{said}"
                        );
                        requests += 1;
                    }
                }
                _ => {}
            }
        }
    }
    // That the examples are found at all: these pages have more.
    assert!(manifests >= 5 && refusals >= 5 && requests >= 8, "{manifests} manifests, {refusals} refusals, {requests} requests");
}

#[test]
fn the_readme_shows_the_policy_and_the_commands_that_the_bookshop_has() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let policy = blocks("README.md").into_iter().find(|block| block.mark == "yaml").expect("a first policy").text;
    let directory = Directory::copy_of("examples/bookshop");
    let policies = directory.read("app/policies.yaml");
    let (_, rest) = policies.split_once("---\n").expect("several policies");
    directory.write("app/policies.yaml", &format!("{policy}---\n{rest}"));
    let (code, said) = selvage(&["check"], &directory);
    assert_eq!(code, Some(0), "{said}");

    let line = readme.lines().find_map(|line| line.strip_prefix("selvage explain examples/bookshop ")).expect("an explain command");
    let arguments: Vec<&str> = ["explain"].into_iter().chain(line.split_whitespace()).chain(["-o", "json"]).collect();
    let (code, said) = selvage(&arguments, &directory);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("orders-callers"), "{said}");
}

#[test]
fn every_command_has_help_with_its_exit_codes_and_examples() {
    let help = |arguments: &[&str]| {
        let output = Command::new(program("selvage")).args(arguments).output().expect("selvage runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(help(&["--help"]).1.contains("Exit codes"));
    for command in ["up", "render", "check", "explain"] {
        let (code, text) = help(&[command, "--help"]);
        assert!(code == Some(0) && text.contains("Example"), "{command}: {text}");
    }
    assert_eq!(help(&["no-such-command"]).0, Some(2));
    for shell in ["bash", "zsh", "fish"] {
        assert!(help(&["completion", shell]).1.contains("selvage"), "{shell}");
    }
    assert!(help(&["version"]).1.contains(env!("CARGO_PKG_VERSION")));
    assert!(help(&["version", "-o", "json"]).1.contains("\"version\""));
}
