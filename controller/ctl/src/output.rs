//! Standard output: forms for programs, and text for people.

use crate::cli::Form;
use anyhow::Context;
use serde::Serialize;
use std::io::Write;

/// Writes a value in a form for programs.
pub fn print(form: Form, value: &impl Serialize) -> anyhow::Result<()> {
    write(&text(form, value)?)
}

/// A value in a form for programs, with a final line break.
pub fn text(form: Form, value: &impl Serialize) -> anyhow::Result<String> {
    let text = match form {
        Form::Json => serde_json::to_string_pretty(value).context("cannot be written as JSON")?,
        Form::Yaml => serde_saphyr::to_string(value).context("cannot be written as YAML")?,
    };
    Ok(format!("{}\n", text.trim_end()))
}

/// Writes text. That nobody reads any more (`| head`) is no error.
pub fn write(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write to standard output"),
        _ => Ok(()),
    }
}
