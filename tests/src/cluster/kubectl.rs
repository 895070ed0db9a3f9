//! kubectl, as a user types it.

use super::PATIENCE;
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs kubectl, which must succeed; what it wrote.
pub fn kubectl(arguments: &[&str]) -> String {
    try_kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
}

/// Runs kubectl; what it wrote, or what it complained about.
pub fn try_kubectl(arguments: &[&str]) -> Result<String, String> {
    run(arguments, None)
}

/// Applies manifests that must be admitted.
pub fn apply(manifests: &str) -> String {
    try_apply(manifests).unwrap_or_else(|error| panic!("kubectl apply: {error}\n{manifests}"))
}

/// Applies manifests; what kubectl wrote, or why they are refused.
pub fn try_apply(manifests: &str) -> Result<String, String> {
    run(&["apply", "-f", "-"], Some(manifests))
}

/// Deletes what manifests name; what is not there need not go.
pub fn delete(manifests: &str) {
    let deleted = run(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], Some(manifests));
    deleted.unwrap_or_else(|error| panic!("kubectl delete: {error}"));
}

/// An object.
pub fn json(kind: &str, namespace: &str, name: &str) -> Value {
    let text = kubectl(&["get", kind, name, "-n", namespace, "-o", "json"]);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{kind} {namespace}/{name}: {error}"))
}

fn run(arguments: &[&str], input: Option<&str>) -> Result<String, String> {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is there: tests/cluster/with");
    if let Some(input) = input {
        let mut stdin = child.stdin.take().expect("a pipe");
        // One that ended early says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("kubectl ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(format!("{}{said}", String::from_utf8_lossy(&output.stderr))) }
}

/// Asks until there is an answer, or time is up.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Puts back what a test changed. Where the test has failed, its own message is the one to read.
pub fn put_back(restore: impl FnOnce() + std::panic::UnwindSafe) {
    let outcome = std::panic::catch_unwind(restore);
    if let Err(panic) = outcome
        && !std::thread::panicking()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Objects that go with the test.
#[derive(Debug)]
pub struct Applied(String);

impl Applied {
    /// Applies manifests that must be admitted.
    pub fn new(manifests: &str) -> Self {
        apply(manifests);
        Self(manifests.to_string())
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        // What a failing test leaves may be in the way of the next, but its own message is the one to read.
        let _ = run(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], Some(&self.0));
    }
}
