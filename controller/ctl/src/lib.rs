//! The user's command line: up, render, check, explain, status.
//!
//! Every command reads a directory in the same way ([`read`]); none of them decides anything about requests itself.

pub mod check;
pub mod cli;
pub mod expand;
pub mod explain;
pub mod output;
pub mod read;
pub mod render;
pub mod status;
pub mod up;

use anyhow::Result;
use clap::CommandFactory;
use cli::{Cli, Command};
use read::{MissingSecrets, Place};
use std::process::ExitCode;

/// Does what was asked. The exit code: 0 done or allowed, 1 refused, denied or failed. (2, wrong usage, is clap's.)
pub fn run(cli: &Cli) -> ExitCode {
    match dispatch(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("selvage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(up::run(options))
        }
        Command::Render(options) => {
            if let Some(message) = render::run(options)? {
                output::write(&format!("{message}\n"))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(options) => match &options.dir {
            Some(dir) => check::run(options, dir),
            None => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(check::cluster(options))
            }
        },
        Command::Explain(options) => explained(options),
        Command::Status(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(status::run(options)).map(|()| ExitCode::SUCCESS)
        }
        Command::Launch(options) => match up::launch::run(options.parent, &options.command)? {},
        Command::Version(options) => {
            match options.output {
                Some(form) => output::print(form, &serde_json::json!({"version": env!("CARGO_PKG_VERSION")}))?,
                None => output::write(&format!("selvage {}\n", env!("CARGO_PKG_VERSION")))?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "selvage", &mut script);
            output::write(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn explained(options: &cli::Explain) -> Result<ExitCode> {
    let place = Place::open(&options.dir)?;
    let read = place.read(place.addresses()?, &[], MissingSecrets::Imagine)?;
    if !read.faults.is_empty() {
        anyhow::bail!(check::listed(&read.faults));
    }
    let explained = explain::run(&read, options)?;
    match options.output {
        Some(form) => output::print(form, &explained)?,
        None => output::write(&explain::write(&explained))?,
    }
    Ok(if explained.verdict == "Allowed" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
