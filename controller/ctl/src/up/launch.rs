//! What stands between `up` and a local process: it asks the kernel to end the process should `up` be killed, and becomes the process.
//!
//! Only a process itself can ask that (prctl, `PR_SET_PDEATHSIG`), and the request outlives exec. Hence `selvage launch`, hidden from help.

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::convert::Infallible;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The hidden command.
pub const COMMAND: &str = "launch";

/// Becomes the process. `parent` is the process id of `up`.
pub fn run(parent: i32, words: &[String]) -> Result<Infallible> {
    let [program, arguments @ ..] = words else { bail!("there is nothing to launch") };
    set_parent_process_death_signal(Some(Signal::TERM)).context("the kernel does not take the request to end with the parent")?;
    // It may have ended before the request.
    if getppid().is_none_or(|present| present.as_raw_nonzero().get() != parent) {
        bail!("`selvage up` has ended");
    }
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("{program} cannot be started"))
}
