//! The edge: composition of a proxy that serves Gateways.
//!
//! It is the proxy of `selvage-proxy` and nothing else: which listeners it has, and whom it believes, stands in its Resources.

use clap::{Parser, Subcommand};
use selvage_config::ports::{ADMIN, HEALTH, METRICS};
use selvage_proxy::admin::Address;
use selvage_proxy::probe::Probes;
pub use selvage_proxy::program::access_log;
use selvage_proxy::program::{self, Check, EXIT_CODES, Program, Run};
use selvage_proxy::proxy::ProxyOptions;
pub use selvage_proxy::running::{Feed, RunError, Running, Windows};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Together less than the 30 seconds after which a pod is killed: those who send to an edge hear late that it goes.
const EDGE: Program = Program { name: "gateway", lame_duck: Duration::from_secs(5), drain: Duration::from_secs(20) };

/// Selvage's edge proxy: serves a Gateway, as its controller or a resource file says.
#[derive(Debug, Parser)]
#[command(name = "gateway", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What it can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an edge from a resource file (what `selvage render` writes) or from its controller, following changes
    ///
    /// A change that cannot be used is refused with its error and what was in force stays. SIGTERM and Ctrl-C drain: no new connections,
    /// and requests under way finish.
    #[command(
        after_help = "Examples:\n  gateway run --config edge.yaml\n  gateway run --controller selvage-controller.selvage-system.svc:15410 --controller-name controller.selvage-system.sa.cluster.local"
    )]
    Run(Box<Run>),
    /// Say whether a resource file could be put in force
    #[command(after_help = "Example:\n  gateway check --config edge.yaml")]
    Check(Check),
}

/// The program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    program::begin();
    program::end(match &command {
        Command::Run(options) => program::run(EDGE, options, Probes::default()),
        Command::Check(options) => program::check(options),
    })
}

/// An edge in this process, for `selvage up`: its ports to look into it are on its own address.
pub async fn start(name: &str, address: IpAddr, threads: u16, access_log: &str, feed: Feed) -> Result<Running, RunError> {
    let at = |port| Some(Address::Tcp((address, port).into()));
    let windows = Windows { health: at(HEALTH), metrics: at(METRICS), admin: at(ADMIN), ..Windows::default() };
    let access = self::access_log(access_log);
    Running::start(&ProxyOptions { name: name.into(), threads: threads.into(), access, ..ProxyOptions::default() }, &windows, feed).await
}
