//! `selvage check`: what admission says of a directory; without one, whether a cluster has what Selvage needs.

use crate::cli;
use crate::output;
use crate::read::{MissingSecrets, Place};
use anyhow::Result;
use selvage_controller::cluster::gateway_api;
use selvage_controller::status::{self, Foreseen};
use selvage_controller::translate::GATEWAY_GROUP;
use selvage_controller::world::Fault;
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// The outcome, for programs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    /// What is refused.
    errors: Vec<Fault>,
    /// What is accepted and will not do what somebody may expect.
    warnings: Vec<String>,
}

/// Checks a directory.
pub fn run(options: &cli::Check, dir: &Path) -> Result<ExitCode> {
    let place = Place::open(dir)?;
    let read = place.read(place.addresses()?, &[], MissingSecrets::Imagine)?;
    let foreseen = status::complete(&read.translation, &Foreseen);
    let warnings: Vec<String> = read.translation.warnings().into_iter().chain(status::complaints(&foreseen)).collect();
    let (resources, proxies) = (read.translation.resources.len(), read.translation.views.len());
    let order = format!("{} is in order: {resources} resources for {proxies} proxies", dir.display());
    tell(options, Outcome { errors: read.faults, warnings }, &order)
}

/// Checks the cluster that kubectl would speak to.
pub async fn cluster(options: &cli::Check) -> Result<ExitCode> {
    let missing = gateway_api::missing_here().await?;
    let errors = missing.into_iter().map(|kind| Fault {
        file: None,
        object: format!("{kind}.{GATEWAY_GROUP}"),
        field: String::new(),
        problem: format!("the cluster does not serve v1 of this kind: {}", gateway_api::INSTALL),
    });
    tell(
        options,
        Outcome { errors: errors.collect(), warnings: Vec::new() },
        "the cluster has every kind of Gateway API that Selvage reads",
    )
}

fn tell(options: &cli::Check, outcome: Outcome, order: &str) -> Result<ExitCode> {
    let code = if outcome.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match options.output {
        Some(form) => output::print(form, &outcome)?,
        None => {
            let mut text = String::new();
            if !outcome.errors.is_empty() {
                text.push_str(&format!("{}\n", listed(&outcome.errors)));
            }
            outcome.warnings.iter().for_each(|warning| text.push_str(&format!("warning: {warning}\n")));
            if outcome.errors.is_empty() {
                text.push_str(&format!("{order}\n"));
            }
            output::write(&text)?;
        }
    }
    Ok(code)
}

/// Faults, one a line.
pub fn listed(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("refused: {fault}")).collect::<Vec<_>>().join("\n")
}
