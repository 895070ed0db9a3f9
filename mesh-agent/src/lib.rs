//! The sidecar: composition of a proxy that stands beside one workload, and what captures that workload's traffic for it.
//!
//! The proxy is that of `selvage-proxy` and nothing else: that it accepts for its workload and calls on its behalf stands in its Resources.

pub mod init;

use clap::{Args, Parser, Subcommand};
use init::Init;
use selvage_proxy::probe::Probes;
use selvage_proxy::program::{self, Check, EXIT_CODES, Program};
use std::process::ExitCode;
use std::time::Duration;

/// Longer than that of an edge: a sidecar is told to end when its application has ended, so what is still under way (another container's last words)
/// has nobody else, and who sends to it has heard of the end from the application.
const SIDECAR: Program = Program { name: "mesh-agent", lame_duck: Duration::ZERO, drain: Duration::from_secs(60) };

/// Selvage's sidecar: captures a pod's traffic, and stands beside its workload as a proxy.
#[derive(Debug, Parser)]
#[command(name = "mesh-agent", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What it can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture the pod's TCP traffic: as an init container, with the capability NET_ADMIN
    ///
    /// Installs the rules in the network namespace it runs in, reads them back and proves by a connection that they work. Fails otherwise, so
    /// that no pod runs uncaptured by accident. Running it again replaces its own rules and touches no others.
    #[command(after_help = "Examples:\n  mesh-agent init\n  mesh-agent init --exclude-inbound-ports 9000,9001")]
    Init(Init),
    /// Run a sidecar from a resource file (what `selvage render` writes) or from its controller, following changes
    ///
    /// A change that cannot be used is refused with its error and what was in force stays. SIGTERM and Ctrl-C drain: no new connections,
    /// and requests under way finish.
    #[command(
        after_help = "Examples:\n  mesh-agent run --config orders.yaml\n  mesh-agent run --controller selvage-controller.selvage-system.svc:15410 --controller-name controller.selvage-system.sa.cluster.local"
    )]
    Run(Box<Run>),
    /// Say whether a resource file could be put in force
    #[command(after_help = "Example:\n  mesh-agent check --config orders.yaml")]
    Check(Check),
}

/// `run`
#[derive(Clone, Debug, Args)]
// Its group would have the name of that of the options below, which clap refuses in debug builds.
#[group(skip)]
pub struct Run {
    /// The application's own probes, which the kubelet asks for on the health port: a JSON object of paths and probes.
    #[arg(long, value_name = "JSON", env = "SELVAGE_PROBES", default_value = "")]
    pub probes: Probes,
    /// As of every proxy.
    #[command(flatten)]
    pub proxy: program::Run,
}

/// The program.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    program::begin();
    program::end(match command {
        Command::Init(options) => options.run().map_err(|error| error.to_string()),
        Command::Run(options) => program::run(SIDECAR, &options.proxy, options.probes),
        Command::Check(options) => program::check(&options),
    })
}
