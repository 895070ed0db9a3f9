//! `selvage up` as a process, as a user starts it.

use crate::client::Client;
use crate::directory::Directory;
use crate::program::program;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// How long everything may take to come up, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `up` writes into `.selvage/up.json` once everything runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    /// Process id of `selvage up`.
    pub pid: u32,
    /// Addresses of Gateways by `namespace/name`.
    pub gateways: BTreeMap<String, IpAddr>,
    /// Workloads by `namespace/name`.
    pub workloads: BTreeMap<String, Workload>,
}

/// The addresses of a workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Where its sidecar listens for others.
    pub mesh: IpAddr,
    /// Where its process listens.
    pub local: IpAddr,
    /// Services as it sees them: `namespace/name` to address.
    pub services: BTreeMap<String, IpAddr>,
}

/// A running `selvage up`. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    /// The addresses of everything.
    pub addresses: Addresses,
}

impl Running {
    /// Starts `selvage up` on a directory and waits until everything runs.
    pub async fn start(directory: &Directory) -> Self {
        crate::client::crypto();
        let mut child = Command::new(program("selvage"))
            .arg("up")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("selvage starts");
        let said = Arc::new(Mutex::new(String::new()));
        // Both end with their pipes.
        tokio::spawn(listen(child.stdout.take().expect("a pipe"), said.clone()));
        tokio::spawn(listen(child.stderr.take().expect("a pipe"), said.clone()));
        let file = directory.path().join(".selvage/up.json");
        let begun = Instant::now();
        let addresses = loop {
            if let Some(status) = child.try_wait().expect("the child can be asked") {
                tokio::time::sleep(Duration::from_millis(200)).await;
                panic!("selvage up ended ({status}):\n{}", said.lock().expect("nobody panicked"));
            }
            let addresses = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Addresses>(&bytes).ok());
            match addresses.filter(|addresses| Some(addresses.pid) == child.id()) {
                Some(addresses) => break addresses,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            assert!(begun.elapsed() < PATIENCE, "selvage up is not ready after {PATIENCE:?}:\n{}", said.lock().expect("nobody panicked"));
        };
        Self { child, said, addresses }
    }

    /// Everything it wrote so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panicked").clone()
    }

    /// Waits until it has said something.
    pub async fn until_said(&self, text: &str) {
        let begun = Instant::now();
        while !self.said().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "it did not say `{text}`:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// A Gateway's address at a port.
    pub fn gateway(&self, name: &str, port: u16) -> SocketAddr {
        SocketAddr::new(*self.addresses.gateways.get(name).unwrap_or_else(|| panic!("no Gateway {name}: {:?}", self.addresses)), port)
    }

    /// A client of a Gateway's port.
    pub fn client(&self, name: &str, port: u16) -> Client {
        Client::new(self.gateway(name, port))
    }

    /// A workload's addresses.
    pub fn workload(&self, name: &str) -> &Workload {
        self.addresses.workloads.get(name).unwrap_or_else(|| panic!("no workload {name}: {:?}", self.addresses))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.addresses.pid
    }

    /// Sends a signal (`INT`, `TERM`) and waits until it has ended; its exit code and everything it said.
    pub async fn end(mut self, signal: &str) -> (Option<i32>, String) {
        let sent = std::process::Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "the signal was not sent");
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it can be waited for");
        tokio::time::sleep(Duration::from_millis(50)).await;
        (status.code(), self.said())
    }
}

async fn listen(pipe: impl AsyncRead + Unpin, said: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().expect("nobody panicked");
        said.push_str(&line);
        said.push('\n');
    }
}
