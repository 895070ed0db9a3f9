//! The sidecar: composition of a proxy that stands beside one workload.
//!
//! It is the proxy of `selvage-proxy` and nothing else: that it accepts for its workload and calls on its
//! behalf stands in its Resources. Capture of a pod's traffic joins it with Kubernetes.

use clap::Parser;
use selvage_proxy::admin::Address;
pub use selvage_proxy::program::access_log;
use selvage_proxy::program::{Command, EXIT_CODES};
use selvage_proxy::proxy::ProxyOptions;
pub use selvage_proxy::running::{Feed, RunError, Running, Windows};
use std::net::IpAddr;
use std::process::ExitCode;

/// Where `/healthz` and `/readyz` are answered.
pub const HEALTH_PORT: u16 = 15315;
/// Where `/metrics` is answered.
pub const METRICS_PORT: u16 = 15320;
/// Where `/config` and `/status` are answered, on loopback.
pub const ADMIN_PORT: u16 = 15390;

/// Selvage's sidecar proxy: stands beside a workload, from a resource file, without a controller.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The program.
pub fn main() -> ExitCode {
    selvage_proxy::program::main("mesh-agent", &Cli::parse().command)
}

/// A sidecar in this process, for `selvage up`: its ports to look into it are on its mesh address.
pub async fn start(name: &str, address: IpAddr, threads: u16, access_log: &str, feed: Feed) -> Result<Running, RunError> {
    let at = |port| Some(Address::Tcp((address, port).into()));
    let windows = Windows { health: at(HEALTH_PORT), metrics: at(METRICS_PORT), admin: at(ADMIN_PORT) };
    let access = self::access_log(access_log);
    Running::start(&ProxyOptions { name: name.into(), threads: threads.into(), access, ..ProxyOptions::default() }, &windows, feed).await
}
