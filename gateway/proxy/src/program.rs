//! The command line that the programs of both roles share: run a proxy from a resource file or from its controller, or check such a file.

mod wire;

use crate::admin::Address;
use crate::observe::access::Sink;
use crate::probe::Probes;
use crate::proxy::ProxyOptions;
use crate::running::{Feed, Running, Windows};
use crate::snapshot::{Live, Snapshot};
use clap::Args;
use selvage_config::{VersionKey, ports};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
pub use wire::Wire;

/// A program, with what its composition settles.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// For threads and logs.
    pub name: &'static str,
    /// From the word to end until no new connections are taken, under a controller: readiness must get round first.
    pub lame_duck: Duration,
    /// How long requests under way may take then.
    pub drain: Duration,
}

/// `run`
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Where the proxy's Resources come from.
    #[command(flatten)]
    pub source: Source,
    /// Where /config, /status, /metrics and health are answered: loopback, or unix:PATH; with --controller 127.0.0.1:15390.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<Address>,
    /// Where /healthz and /readyz are answered; with --controller port 15315 of every address.
    #[arg(long, value_name = "ADDRESS")]
    pub health: Option<Address>,
    /// Where /metrics is answered; with --controller port 15320 of every address.
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<Address>,
    /// Worker threads.
    #[arg(long, env = "SELVAGE_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Where the access log goes: `off`, `-` for standard output, or a file.
    #[arg(long, value_name = "WHERE", env = "SELVAGE_ACCESS_LOG", default_value = "-")]
    pub access_log: String,
    /// Once told to end: how long new connections are still taken, in seconds, so that everybody hears of it first.
    #[arg(long, value_name = "SECONDS")]
    pub lame_duck: Option<u64>,
    /// Then: how long requests under way may take, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub drain: Option<u64>,
    /// How the controller is reached. Last, because its heading holds for what follows.
    #[command(flatten)]
    pub wire: Wire,
}

/// Exactly one of them.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// A resource file; private keys are read from the file beside it (proxy.yaml, proxy.secrets.yaml).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The controller.
    #[arg(long, value_name = "HOST:PORT", env = "SELVAGE_CONTROLLER", value_parser = wire::host_and_port, requires = "controller_name")]
    pub controller: Option<String>,
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

    fn feed(&self) -> Result<Feed, String> {
        match (&self.source.controller, &self.source.config) {
            (Some(controller), None) => Ok(self.wire.feed(controller)),
            (None, Some(file)) => Ok(Feed::File(file.clone())),
            _ => Err("give exactly one of --config and --controller".into()),
        }
    }

    /// In a cluster everybody knows where to look; elsewhere only what is asked for is opened.
    fn windows(&self, probes: Probes) -> Windows {
        let usual = |ip: IpAddr, port| self.source.controller.as_ref().map(|_| Address::Tcp((ip, port).into()));
        Windows {
            health: self.health.clone().or_else(|| usual(everywhere(), ports::HEALTH)),
            metrics: self.metrics.clone().or_else(|| usual(everywhere(), ports::METRICS)),
            admin: self.admin.clone().or_else(|| usual(Ipv4Addr::LOCALHOST.into(), ports::ADMIN)),
            probes: Arc::new(probes),
        }
    }

    /// On a laptop nobody has to hear of the end first.
    fn lame_duck(&self, program: Program) -> Duration {
        let usual = if self.source.controller.is_some() { program.lame_duck } else { Duration::ZERO };
        self.lame_duck.map_or(usual, Duration::from_secs)
    }
}

/// Every address: of both families by one socket, but of IPv4 alone where the kernel has no IPv6.
fn everywhere() -> IpAddr {
    let six = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    if UdpSocket::bind((six, 0)).is_ok() { six } else { Ipv4Addr::UNSPECIFIED.into() }
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
pub const EXIT_CODES: &str = "Exit codes: 0 ended in order, or what was asked for is done; 1 failed; 2 wrong usage.";

/// Begins to log to standard error. To be called once, first.
pub fn begin() {
    crate::tls::install_default();
    let logs = tracing_subscriber::EnvFilter::try_from_env("SELVAGE_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(logs).with_writer(std::io::stderr).init();
}

/// Says how it ended.
pub fn end(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "failed");
            ExitCode::FAILURE
        }
    }
}

/// Runs a proxy on a runtime of its own until it is told to end.
pub fn run(program: Program, options: &Run, probes: Probes) -> Result<(), String> {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(program, options, probes)),
        Err(error) => Err(format!("no runtime can be started: {error}")),
    }
}

async fn serve(program: Program, options: &Run, probes: Probes) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()).map_err(text)?, signal(SignalKind::interrupt()).map_err(text)?);
    let mut told = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let (proxy, windows, feed) = (options.proxy(program.name), options.windows(probes), options.feed()?);
    let running = tokio::select! {
        running = Running::start(&proxy, &windows, feed) => running.map_err(|error| error.to_string())?,
        () = told() => return Ok(()),
    };
    tracing::info!(program = program.name, "the proxy runs");
    told().await;
    let (lame_duck, drain) = (options.lame_duck(program), options.drain.map_or(program.drain, Duration::from_secs));
    running.leave();
    tracing::info!(?lame_duck, ?drain, "the proxy was told to end");
    // Who asks a second time does not want to wait.
    let hurried = tokio::select! {
        () = sleep(lame_duck) => false,
        () = told() => true,
    };
    let cut = tokio::select! {
        cut = running.end(if hurried { Duration::ZERO } else { drain }) => cut,
        () = told() => return Err("told to end again: what was under way is cut off".into()),
    };
    tracing::info!(cut, "the proxy has ended");
    if cut > 0 && hurried { Err(format!("told to end again: {cut} connections were cut off")) } else { Ok(()) }
}

/// Says whether a resource file could be put in force.
pub fn check(options: &Check) -> Result<(), String> {
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
