//! The program `nft`, spoken to in its own language: rules in by standard input, rules back by `list`.

use super::rules::TABLE;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// It does not run.
    #[error("`{program}` cannot be run: {error}; the image of mesh-agent has it, another one needs the package nftables")]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kernel, or nft itself, does not take them.
    #[error(
        "the kernel does not take the capture rules: {0}; give the container the capability NET_ADMIN (securityContext.capabilities.add), \
         and the node nf_tables with NAT in inet tables (Linux 5.2 or newer: modules nf_tables, nft_nat, nft_redir, nft_chain_nat)"
    )]
    Refused(String),
    /// It took them and shows others.
    #[error(
        "the capture rules are not as they were sent: `{missing}` is not among what the kernel lists; is something else changing table inet {TABLE}?"
    )]
    Differs {
        /// What is not there.
        missing: String,
    },
}

/// Puts the rules in force, all of them or none.
pub(super) fn load(program: &Path, rules: &str) -> Result<(), NftError> {
    run(program, &["-f", "-"], rules).map(drop)
}

/// Reads them back and compares.
pub(super) fn verify(program: &Path, rules: &str) -> Result<(), NftError> {
    let listed = run(program, &["-n", "list", "table", "inet", TABLE], "")?;
    compare(rules, &listed)
}

/// nft writes numbers for names and braces as it likes; what captures must be there word for word, and as many rules as were sent.
pub(super) fn compare(sent: &str, listed: &str) -> Result<(), NftError> {
    let differs = |missing: &str| Err(NftError::Differs { missing: missing.to_string() });
    let captures = |line: &&str| line.contains("redirect to") || line.starts_with("type nat");
    let wanted = |line: &str| match line.split_once("redirect to") {
        Some((_, port)) => format!("redirect to{port}"),
        None => line.trim_end_matches(" policy accept;").to_string(),
    };
    for line in sent.lines().filter(captures) {
        let wanted = wanted(line);
        let count = |text: &str| text.lines().filter(|line| line.trim().contains(&wanted)).count();
        if count(listed) != count(sent) {
            return differs(&wanted);
        }
    }
    let verdicts = |text: &str| text.lines().filter(|line| line.contains(" return") || line.contains("redirect to")).count();
    if verdicts(listed) != verdicts(sent) {
        return differs(&format!("{} rules", verdicts(sent)));
    }
    Ok(())
}

fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, NftError> {
    let output = output(program, arguments, input).map_err(|error| NftError::Program { program: program.into(), error })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
        return Err(NftError::Refused(if said.is_empty() { output.status.to_string() } else { said }));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn output(program: &Path, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Rules are a few KiB; one that ends before it has read them says why on its standard error.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    match written {
        Err(error) if output.status.success() => Err(error),
        _ => Ok(output),
    }
}
