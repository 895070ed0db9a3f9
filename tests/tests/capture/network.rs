//! Network namespaces of a test's own, and processes in them.
//!
//! ```text
//! `outside`  10.77.0.3 fd77::3   bridge ─┬─ veth ── `pod`   10.77.0.2, 10.77.0.5, fd77::2
//!                                        └─ veth ── `peer`  10.77.0.4, fd77::4
//! ```

use super::{APPLICATION, PROXY};
use selvage_config::Resource;
use selvage_tests::program::program;
use selvage_tests::standalone::Resources;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than a process takes to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Shorter than detection waits for a client's first bytes.
const SOON: Duration = Duration::from_secs(2);
/// A busy machine may make one connection slow, but not each of these.
const TRIES: usize = 5;

/// Runs a command that must succeed.
pub fn run(command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}`: {error}: this suite needs iproute2 and nftables"));
    assert!(output.status.success(), "`{command}`: {}: this suite needs root", String::from_utf8_lossy(&output.stderr));
}

/// Connected network namespaces. They go with the test.
pub struct Network {
    pub pod: String,
    pub peer: String,
    pub outside: String,
    /// Programs where every user may start them, and configurations.
    folder: TempDir,
}

impl Network {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("selvage-capture-").tempdir().expect("a temporary directory");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("our own folder");
        for (name, from) in [("standalone", PathBuf::from(env!("CARGO_BIN_EXE_standalone"))), ("mesh-agent", program("mesh-agent"))] {
            let to = folder.path().join(name);
            std::fs::copy(&from, &to).expect("a program can be copied");
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).expect("our own file");
        }
        let network = Self { pod: format!("svg-pod-{id}"), peer: format!("svg-peer-{id}"), outside: format!("svg-out-{id}"), folder };
        let Self { pod, peer, outside, .. } = &network;
        for namespace in [pod, peer, outside] {
            run(&format!("ip netns add {namespace}"));
            run(&format!("ip -n {namespace} link set lo up"));
        }
        run(&format!("ip -n {outside} link add eth0 type bridge"));
        for (port, namespace) in [("to-pod", pod), ("to-peer", peer)] {
            run(&format!("ip -n {namespace} link add eth0 type veth peer name {port} netns {outside}"));
            run(&format!("ip -n {outside} link set {port} master eth0 up"));
        }
        for (namespace, address) in [(pod, "2"), (pod, "5"), (peer, "4"), (outside, "3")] {
            run(&format!("ip -n {namespace} addr add 10.77.0.{address}/24 dev eth0"));
        }
        for (namespace, address) in [(pod, "2"), (peer, "4"), (outside, "3")] {
            run(&format!("ip -n {namespace} addr add fd77::{address}/64 dev eth0 nodad"));
            run(&format!("ip -n {namespace} link set eth0 up"));
        }
        for namespace in [pod, peer] {
            run(&format!("ip -n {namespace} route add default via 10.77.0.3"));
            run(&format!("ip -n {namespace} route add default via fd77::3"));
        }
        network
    }

    /// One with both pods captured, `pod` but for these inbound ports.
    pub fn captured(excluded: &str) -> Self {
        let network = Self::new();
        network.init(&network.pod, &["--exclude-inbound-ports", excluded]).expect("captured");
        network.init(&network.peer, &[]).expect("captured");
        network
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().expect("a plain path").to_string()
    }

    /// A program of the test's own, by its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).expect("our own folder");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our own file");
        path
    }

    /// `mesh-agent init`, as root; what it says where it fails.
    pub fn init(&self, namespace: &str, arguments: &[&str]) -> Result<(), String> {
        self.init_by(&["ip", "netns", "exec", namespace], arguments)
    }

    /// The same, entered by other words.
    pub fn init_by(&self, enter: &[&str], arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(enter[0])
            .args(&enter[1..])
            .args([&self.path("mesh-agent"), "init"])
            .args(arguments)
            .output()
            .expect("this suite needs iproute2 and util-linux");
        match output.status.code() {
            Some(0) => Ok(()),
            code => Err(format!("{code:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// What the kernel lists.
    pub fn ruleset(&self, namespace: &str) -> String {
        let output = Command::new("ip").args(["netns", "exec", namespace, "nft", "list", "ruleset"]).output().expect("nft runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A process of ours in `namespace`, under `user`.
    fn command(&self, namespace: &str, user: u32, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([format!("--net=/run/netns/{namespace}"), format!("--setgid={user}"), format!("--setuid={user}")])
            .arg("--")
            .arg(self.path(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::piped());
        command
    }

    /// A part of `standalone` that runs until it is dropped.
    pub fn start(&self, namespace: &str, user: u32, arguments: &[&str], input: &str) -> Part {
        let mut child =
            self.command(namespace, user, "standalone", arguments).spawn().expect("nsenter starts: this suite needs util-linux");
        let mut stdin = child.stdin.take().expect("a pipe");
        writeln!(stdin, "{input}").expect("the part reads its input");
        let stdout = child.stdout.take().expect("a pipe");
        let part = Part { child, _stdin: Some(stdin) };
        let (told, line) = mpsc::channel();
        // Ends with the part, which ends with this where it says nothing.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            told.send(read.map(|_| line))
        });
        let line = line.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{arguments:?} says nothing"));
        assert_eq!(line.expect("the part speaks").trim(), "ready", "{arguments:?}");
        part
    }

    /// An application.
    pub fn application(&self, namespace: &str, address: &str) -> Part {
        self.start(namespace, APPLICATION, &["application", address], "")
    }

    /// `mesh-agent run` from a file, as in a pod: ready when this returns. `ip` is the pod's address.
    pub fn agent(&self, namespace: &str, ip: &str, resources: &Resources, probes: &str) -> Part {
        let path = self.folder.path().join(format!("{namespace}.json"));
        let all: Vec<&Resource> = resources.list().values().map(AsRef::as_ref).collect();
        selvage_config::file::write(&path, all).expect("the configuration can be written");
        for path in [&path, &selvage_config::file::secrets_path(&path)] {
            chown(path, Some(PROXY), Some(PROXY)).expect("this suite needs root");
        }
        let health = format!("{ip}:15315");
        let config = path.to_str().expect("a plain path");
        let arguments = ["run", "--config", config, "--health", &health, "--access-log", "off"];
        let mut command = self.command(namespace, PROXY, "mesh-agent", &arguments);
        let child = command.env("SELVAGE_PROBES", probes).env("SELVAGE_LOG", "warn").stdout(Stdio::null()).spawn().expect("nsenter starts");
        let mut part = Part { child, _stdin: None };
        let begun = Instant::now();
        loop {
            let (status, said) = self.call(namespace, &health, "x", "/readyz");
            if status == 200 {
                return part;
            }
            assert!(begun.elapsed() < PATIENCE, "mesh-agent is not ready: {said}");
            assert!(part.child.try_wait().expect("the child can be asked").is_none(), "mesh-agent ended");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn said(&self, namespace: &str, arguments: &[&str]) -> (String, Output) {
        let output = self.command(namespace, APPLICATION, "standalone", arguments).output().expect("nsenter runs");
        (String::from_utf8_lossy(&output.stdout).trim().to_string(), output)
    }

    /// A request: status and body.
    pub fn call(&self, namespace: &str, to: &str, host: &str, target: &str) -> (u16, String) {
        let (text, output) = self.said(namespace, &["call", to, host, target]);
        let (status, body) = text.split_once(' ').unwrap_or((&text, ""));
        (
            status.parse().unwrap_or_else(|_| panic!("{to} {host} {target}: {text:?} {}", String::from_utf8_lossy(&output.stderr))),
            body.into(),
        )
    }

    /// A TCP connection that says `words` and listens: what it heard, and how that ended.
    pub fn talk(&self, namespace: &str, to: &str, words: &str) -> String {
        self.timed(namespace, to, words).1
    }

    /// The same, and how long it was until it heard something or the end.
    fn timed(&self, namespace: &str, to: &str, words: &str) -> (Duration, String) {
        let (text, output) = self.said(namespace, &["talk", to, words]);
        let (after, heard) = text.split_once(' ').unwrap_or_else(|| panic!("{to}: {text:?} {output:?}"));
        (Duration::from_millis(after.parse().expect("milliseconds")), heard.trim_start().into())
    }

    /// Who waits for the other side to speak hears this, and at once: where the machine is not busy, long before detection gives up on the
    /// client.
    pub fn speaks_first(&self, namespace: &str, to: &str, expected: &str) {
        let mut all = Vec::new();
        for _ in 0..TRIES {
            let (after, heard) = self.timed(namespace, to, "");
            assert_eq!(heard, expected, "{to}");
            if after < SOON {
                return;
            }
            all.push(after);
        }
        panic!("{to}: was silent for {all:?}");
    }

    /// A UDP datagram and its answer.
    pub fn datagram(&self, namespace: &str, to: &str) -> String {
        self.said(namespace, &["datagram", to]).0
    }

    /// It is answered by the application.
    pub fn through(&self, namespace: &str, to: &str, host: &str, target: &str) {
        let (status, body) = self.call(namespace, to, host, target);
        assert_eq!((status, body.as_str()), (200, format!("GET {target} {host}").as_str()), "{namespace} {to} {host} {target}");
    }

    /// It is refused by this policy.
    pub fn refused(&self, namespace: &str, to: &str, host: &str, target: &str, policy: &str) {
        let (status, body) = self.call(namespace, to, host, target);
        assert_eq!(status, 403, "{namespace} {to} {host} {target}: {body}");
        assert!(body.contains(&format!("AuthorizationPolicy/shop/{policy}")), "{to} {host} {target}: {body}");
    }

    /// It is refused for this reason.
    pub fn denied(&self, namespace: &str, to: &str, target: &str, reason: &str) {
        let (status, body) = self.call(namespace, to, "orders.shop", target);
        assert!(status >= 400 && body.contains(&format!("\"{reason}\"")), "{namespace} {to} {target}: {status} {body}");
    }

    /// There is no answer, and soon.
    pub fn closed(&self, namespace: &str, to: &str) {
        let (status, problem) = self.call(namespace, to, "orders.shop", "/");
        assert_eq!(status, 0, "{to}: {problem}");
        assert_ne!(problem, "no answer", "{to}: a loop, or a connection that hangs");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.peer, &self.outside] {
            // What is not there need not go.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// A running process.
pub struct Part {
    child: Child,
    _stdin: Option<std::process::ChildStdin>,
}

impl Drop for Part {
    fn drop(&mut self) {
        // One that has ended already is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
