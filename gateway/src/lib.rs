//! The edge: composition of a proxy that serves Gateways.
//!
//! It is the proxy of `selvage-proxy` and nothing else: which listeners it has, and whom it believes, stands in its Resources.

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

/// Selvage's edge proxy: serves a Gateway from a resource file, without a controller.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The program.
pub fn main() -> ExitCode {
    selvage_proxy::program::main("gateway", &Cli::parse().command)
}

/// An edge in this process, for `selvage up`: its ports to look into it are on its own address.
pub async fn start(name: &str, address: IpAddr, threads: u16, access_log: &str, feed: Feed) -> Result<Running, RunError> {
    let at = |port| Some(Address::Tcp((address, port).into()));
    let windows = Windows { health: at(HEALTH_PORT), metrics: at(METRICS_PORT), admin: at(ADMIN_PORT) };
    let access = self::access_log(access_log);
    Running::start(&ProxyOptions { name: name.into(), threads: threads.into(), access, ..ProxyOptions::default() }, &windows, feed).await
}
