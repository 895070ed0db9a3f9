//! The edge: composition of a proxy that serves Gateways.
//!
//! It is the proxy of `selvage-proxy` and nothing else: which listeners it has, and whom it believes, stands in its Resources.

use clap::{Parser, Subcommand};
use selvage_proxy::probe::Probes;
use selvage_proxy::program::{self, Check, EXIT_CODES, Program, Run};
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
