//! The program `controller`: see the library.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use selvage_controller::{crds, run};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the client library says of each failed request, we say once, and where it matters; unless somebody asks for it by name.
const QUIET: [&str; 2] = ["kube_client=off", "kube_runtime=off"];
/// To connect to the API server.
const CONNECT: Duration = Duration::from_secs(5);

const EXIT_CODES: &str = "Exit codes: 0 ended in order; 1 failed; 2 wrong usage.";

/// Selvage's controller: from Kubernetes objects to what proxies are told.
#[derive(Debug, Parser)]
#[command(name = "controller", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run in a cluster: watch, translate, serve proxies, write statuses
    ///
    /// The API server is found as kubectl finds it (KUBECONFIG, or ~/.kube/config), else by the service account of the pod. Of several
    /// replicas the one that holds the Lease `selvage-controller` serves the proxies and writes; all answer webhooks. With the API server
    /// away proxies are served from memory. Logs are JSON on standard error; SELVAGE_LOG says how much (`info`, `debug`, `selvage_controller=debug`).
    #[command(after_help = "Examples:\n  controller run\n  SELVAGE_LOG=selvage_controller=debug controller run")]
    Run(Box<run::Options>),
    /// Print the CustomResourceDefinitions of selvage.dev
    #[command(after_help = "Examples:\n  controller crds | kubectl apply --server-side -f -\n  controller crds -o json")]
    Crds(Crds),
}

#[derive(Debug, Args)]
struct Crds {
    /// The form.
    #[arg(short, long, value_enum, default_value_t = Form::Yaml)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A List.
    Json,
    /// A stream of documents.
    Yaml,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Crds(options) => print(options.output),
        Command::Run(options) => serve(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print(form: Form) -> Result<()> {
    let text = match form {
        Form::Yaml => crds::yaml().context("the definitions cannot be written as YAML")?,
        Form::Json => {
            let items: Vec<_> = crds::KINDS.iter().map(crds::OwnKind::definition).collect();
            format!("{:#}\n", serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // That nobody reads any more (`| head`) is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

fn serve(options: &run::Options) -> Result<()> {
    let asked = std::env::var("SELVAGE_LOG").unwrap_or_else(|_| "info".into());
    let quiet = QUIET.into_iter().filter(|_| !asked.contains("kube")).map(String::from);
    let directives: Vec<String> = std::iter::once(asked.clone()).chain(quiet).collect();
    let logs =
        tracing_subscriber::EnvFilter::try_new(directives.join(",")).with_context(|| format!("SELVAGE_LOG={asked} is no log filter"))?;
    tracing_subscriber::fmt().json().with_env_filter(logs).with_writer(std::io::stderr).init();
    // Before anything touches TLS.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime can be started")?;
    runtime.block_on(async {
        let mut config = kube::Config::infer().await.context("the API server cannot be found: set KUBECONFIG, or run in a pod")?;
        config.connect_timeout = Some(CONNECT);
        let client = kube::Client::try_from(config).context("the API server cannot be spoken to")?;
        let listeners = run::Listeners::bind(options).await?;
        let stop = CancellationToken::new();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = stop.clone();
        // Ends with the runtime.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("the controller ends");
            told.cancel();
        });
        run::run(options, listeners, client, stop).await
    })
}
