//! The command line that the programs of both roles share: run a proxy from a resource file alone, or check such a file.

use crate::admin::Address;
use crate::observe::access::Sink;
use crate::proxy::ProxyOptions;
use crate::running::{Feed, Running, Windows};
use crate::snapshot::{Live, Snapshot};
use clap::{Args, Subcommand};
use selvage_config::VersionKey;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What both programs can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a proxy from a resource file (what `selvage render` writes), following its changes
    ///
    /// A change that cannot be used is refused with its error and what was in force stays. SIGTERM and Ctrl-C drain: no new connections,
    /// and requests under way finish.
    Run(Run),
    /// Say whether a resource file could be put in force
    Check(Check),
}

/// `run`
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The resource file; private keys are read from the file beside it (proxy.yaml, proxy.secrets.yaml).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where /config, /status, /metrics and health are answered: loopback, or unix:PATH.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<Address>,
    /// Where /healthz and /readyz are answered.
    #[arg(long, value_name = "ADDRESS")]
    pub health: Option<Address>,
    /// Where /metrics is answered.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Address>,
    /// Worker threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Where the access log goes: `off`, `-` for standard output, or a file.
    #[arg(long, value_name = "WHERE", default_value = "-")]
    pub access_log: String,
    /// How long requests under way may take once it is told to end, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
}

/// `check`
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// The resource file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

impl Run {
    /// How the proxy runs.
    fn proxy(&self, name: &str) -> ProxyOptions {
        ProxyOptions { name: name.into(), threads: self.threads.into(), access: access_log(&self.access_log), ..ProxyOptions::default() }
    }
}

/// Where an access log goes, as options say it: `off`, `-`, or a file.
pub fn access_log(text: &str) -> Sink {
    match text {
        "off" => Sink::Off,
        "-" => Sink::Stdout,
        file => Sink::File(file.into()),
    }
}

/// The help at the end of both programs.
pub const EXIT_CODES: &str = "Exit codes: 0 ended in order, or the file can be used; 1 failed, or it cannot; 2 wrong usage.";

/// Does what was asked, on a runtime of its own.
pub fn main(name: &str, command: &Command) -> ExitCode {
    crate::tls::install_default();
    let logs = tracing_subscriber::EnvFilter::try_from_env("SELVAGE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(logs).with_writer(std::io::stderr).init();
    let outcome = match command {
        Command::Check(options) => check(options),
        Command::Run(options) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(run(name, options)),
            Err(error) => Err(format!("no runtime can be started: {error}")),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the proxy does not run");
            ExitCode::FAILURE
        }
    }
}

async fn run(name: &str, options: &Run) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()).map_err(text)?, signal(SignalKind::interrupt()).map_err(text)?);
    let windows = Windows { health: options.health.clone(), metrics: options.metrics.clone(), admin: options.admin.clone() };
    let running =
        Running::start(&options.proxy(name), &windows, Feed::File(options.config.clone())).await.map_err(|error| error.to_string())?;
    tracing::info!(config = %options.config.display(), "the proxy runs");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let cut = running.end(Duration::from_secs(options.drain)).await;
    tracing::info!(cut, "the proxy has ended");
    Ok(())
}

fn check(options: &Check) -> Result<(), String> {
    let resources = selvage_config::file::read(&options.config, &VersionKey::random()).map_err(|error| error.to_string())?;
    let resources: BTreeMap<_, _> = resources.into_iter().map(|(key, resource)| (key, Arc::new(resource))).collect();
    let (_, rejected) = Snapshot::compile(&Snapshot::empty(), &resources, &Live::default());
    for rejection in &rejected {
        tracing::error!(resource = %rejection.key, reason = rejection.reason, "a resource cannot be used");
    }
    match rejected.len() {
        0 => Ok(()),
        count => Err(format!("{}: {count} of {} resources cannot be used", options.config.display(), resources.len())),
    }
}
