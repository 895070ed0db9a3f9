//! The test cluster, from inside: a real Kubernetes (`tests/cluster/with` brings it up) with Selvage and the bookshop, installed by
//! Helm from the chart.
//!
//! ```text
//! tests/cluster/with cargo test --test cluster -- --ignored
//!   └─ network namespace of the cluster: this process, kubectl, helm, the node, its pods
//! ```

mod kubectl;
mod load;
mod memory;
mod pods;

pub use kubectl::{Applied, apply, delete, eventually, json, kubectl, put_back, try_apply, try_kubectl};
pub use load::{Load, Tally};
pub use memory::working_sets;
pub use pods::{Pod, crash, pod, pods, remove};

use crate::Client;
use crate::client::{crypto, trusting};
use crate::program::{program, root};
use crate::standalone::Authority;
use rustls::ClientConfig;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long something may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The namespace of the platform.
pub const SYSTEM: &str = "selvage-system";

/// Who is no part of the bookshop: `guest` calls from behind a sidecar, `stranger` without one; `bell` is a TCP application with a sidecar,
/// `library` a bookshop's catalogue without.
/// `guest` also mounts a token of its own for the controller, as anybody may who can write a pod.
const CALLERS: &str = include_str!("callers.yaml");

/// The cluster with everything in it.
#[derive(Debug)]
pub struct Cluster {
    /// TLS that trusts the certificate of the Gateway's HTTPS listener.
    pub tls: ClientConfig,
    gateway: IpAddr,
}

impl Cluster {
    /// The one cluster of this process; what is missing in it is installed at the first call.
    pub fn ready() -> &'static Self {
        static ONE: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let install = || std::panic::catch_unwind(Self::install).map_err(|_| "see the first test that failed".to_string());
        ONE.get_or_init(install).as_ref().unwrap_or_else(|why| panic!("Selvage could not be installed in the cluster: {why}"))
    }

    fn install() -> Self {
        crypto();
        let begun = Instant::now();
        let crds = std::env::var("SELVAGE_GATEWAY_API").expect("these tests run inside a cluster: `make e2e`, or tests/cluster/with …");
        kubectl(&["apply", "--server-side", "-f", &format!("{crds}/standard")]);
        kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);

        install_chart();
        eprintln!("measured: helm install: {:.1?} after the start", begun.elapsed());

        // The certificate of the HTTPS listener is the user's own: here one of a test authority.
        let authority = Authority::new();
        let site = authority.site(&["localhost", "bookshop.example"]);
        let indent = |pem: &str| pem.replace('\n', "\n    ");
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{ name: public-tls, namespace: bookshop }}\ntype: kubernetes.io/tls\nstringData:\n  \
             tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
            indent(&site.chain),
            indent(site.private_key.expose())
        );
        let bookshop = root().join("examples/bookshop");
        kubectl(&["apply", "-f", &bookshop.join("app").to_string_lossy()]);
        apply(&secret);
        kubectl(&["apply", "-f", &bookshop.join("cluster").to_string_lossy()]);
        apply(CALLERS);
        kubectl(&["wait", "-n", "bookshop", "--for=condition=Programmed", "--timeout=120s", "gateway/public"]);
        for namespace in ["bookshop", "outside"] {
            kubectl(&["wait", "-n", namespace, "--for=condition=Ready", "--timeout=120s", "pod", "--all"]);
        }
        let gateway = json("gateway", "bookshop", "public");
        let gateway = gateway["status"]["addresses"][0]["value"].as_str().expect("the Gateway has an address");
        let cluster = Self { tls: trusting(&authority.root()), gateway: gateway.parse().expect("it is an IP address") };
        eprintln!("measured: Selvage and the bookshop are ready: {:.1?} after the start", begun.elapsed());
        // Before any test has asked anything.
        for (role, bytes) in working_sets() {
            eprintln!("measured: idle memory of the largest {role}: {:.1} MiB working set", bytes as f64 / f64::from(1 << 20));
        }
        cluster
    }

    /// The Gateway's address at a port.
    pub fn gateway(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.gateway, port)
    }

    /// A client of the Gateway that has its own share of its limit.
    pub fn edge(&self) -> Client {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Client::new(self.gateway(8080)).with("x-client", &format!("cluster-{count}"))
    }

    /// What `caller` in this pod says to these arguments.
    pub fn caller(&self, pod: &str, arguments: &[&str]) -> Value {
        let (namespace, name) = pod.split_once('/').expect("namespace/name");
        let fixed = ["exec", "-n", namespace, name, "-c", "caller", "--", "caller"];
        let said = kubectl(&[&fixed[..], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?} in {pod}: {error}: {said}"))
    }

    /// A GET from this pod.
    pub fn call(&self, pod: &str, to: &str, target: &str) -> Value {
        self.caller(pod, &["call", to, target])
    }
}

/// Installs the chart, or brings what is installed up to it.
pub fn install_chart() {
    let chart = root().join("charts/selvage");
    let chart = chart.to_str().expect("the path is UTF-8");
    let image = format!("image.tag={}", env!("CARGO_PKG_VERSION"));
    let fixed = ["upgrade", "--install", "selvage", chart, "-n", SYSTEM, "--create-namespace"];
    helm(&[&fixed[..], &["--set", &image, "--wait", "--timeout", "180s"]].concat());
}

/// Waits until every proxy is connected and has what it should have, as after an outage of the controller.
pub fn synced() {
    eventually("every proxy is synced", || {
        let output = Command::new(program("selvage")).arg("status").output().expect("selvage runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let proxies: Vec<&str> = said.lines().skip(1).collect();
        (output.status.success() && proxies.len() > 1 && proxies.iter().all(|line| line.contains(" synced "))).then_some(())
    });
}

/// Runs helm, which must succeed.
pub fn helm(arguments: &[&str]) -> String {
    let output = Command::new("helm").args(arguments).output().expect("helm is there: tests/cluster/with");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let more = try_kubectl(&["get", "pods,events", "-A"]).unwrap_or_else(|error| error);
        let logs = try_kubectl(&["logs", "-n", SYSTEM, "--all-containers", "--tail=50", "-l", "app.kubernetes.io/name=selvage"]);
        panic!("helm {arguments:?}: {}\n{said}\n{more}\n{}", String::from_utf8_lossy(&output.stderr), logs.unwrap_or_else(|error| error));
    }
    said
}
