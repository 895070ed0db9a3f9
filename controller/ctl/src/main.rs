//! The program `selvage`: see the library.

use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    selvage_proxy::tls::install_default();
    let logs = tracing_subscriber::EnvFilter::try_from_env("SELVAGE_LOG").unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(logs).with_writer(std::io::stderr).init();
    selvage_ctl::run(&selvage_ctl::cli::Cli::parse())
}
