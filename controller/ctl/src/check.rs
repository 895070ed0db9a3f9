//! `selvage check`: what admission says of a directory.

use crate::cli;
use crate::output;
use crate::read::{MissingSecrets, Place};
use anyhow::Result;
use selvage_controller::status::{self, Foreseen};
use selvage_controller::world::Fault;
use serde::Serialize;
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

/// Checks.
pub fn run(options: &cli::Check) -> Result<ExitCode> {
    let place = Place::open(&options.dir)?;
    let read = place.read(place.addresses()?, &[], MissingSecrets::Imagine)?;
    let foreseen = status::complete(&read.translation, &Foreseen);
    let warnings: Vec<String> = read.translation.warnings().into_iter().chain(status::complaints(&foreseen)).collect();
    let code = if read.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match options.output {
        Some(form) => output::print(form, &Outcome { errors: read.faults, warnings })?,
        None => {
            let mut text = String::new();
            if !read.faults.is_empty() {
                text.push_str(&format!("{}\n", listed(&read.faults)));
            }
            warnings.iter().for_each(|warning| text.push_str(&format!("warning: {warning}\n")));
            if read.faults.is_empty() {
                text.push_str(&format!(
                    "{} is in order: {} resources for {} proxies\n",
                    options.dir.display(),
                    read.translation.resources.len(),
                    read.translation.views.len()
                ));
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
