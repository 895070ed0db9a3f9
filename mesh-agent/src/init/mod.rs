//! `mesh-agent init`: captures the pod's TCP traffic, in the pod's own network namespace, before anything else in the pod runs.
//!
//! ```text
//! options ── rules (one nft table) ── load, atomically ── list back ── prove: a connection of ours arrives at the capture port
//!                                        └─ any doubt: an error, a non-zero exit, and the pod does not start uncaptured
//! ```
//!
//! Capture is not a boundary against the application: whoever takes the proxy's user, or has NET_ADMIN, gets around it. What a workload may
//! be asked is enforced at its own proxy, where it comes in.

mod nft;
mod proof;
mod rules;
#[cfg(test)]
mod tests;

pub use nft::NftError;
pub use proof::ProofError;
pub use rules::{Cidrs, Exclusions, InvalidExclusion, Ports};

use clap::Args;
use selvage_config::ports::PROXY_USER;
use std::path::PathBuf;

/// `init`
#[derive(Clone, Debug, Args)]
pub struct Init {
    /// What is left alone.
    #[command(flatten)]
    pub exclusions: Exclusions,
    /// The program that talks to the kernel.
    #[arg(long, value_name = "PROGRAM", env = "SELVAGE_NFT", default_value = "nft")]
    pub nft: PathBuf,
}

/// Why a pod's traffic is not captured.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Its own connections are not captured, so nothing could be proved.
    #[error("runs as the proxy's own user or group {PROXY_USER}: run `mesh-agent init` as root (runAsUser: 0, runAsGroup: 0)")]
    RunsAsProxy,
    /// The rules.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// They are there, but do not do what they say.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl Init {
    /// Installs the rules and proves that they work. Running it again replaces the table as a whole, but not while the proxy runs: the
    /// proof needs its port.
    pub fn run(&self) -> Result<(), InitError> {
        if rustix::process::getuid().as_raw() == PROXY_USER || rustix::process::getgid().as_raw() == PROXY_USER {
            return Err(InitError::RunsAsProxy);
        }
        let rules = rules::rules(&self.exclusions);
        nft::load(&self.nft, &rules)?;
        nft::verify(&self.nft, &rules)?;
        let proved = proof::prove(&self.exclusions)?;
        tracing::info!(families = ?proved, "the pod's traffic is captured");
        Ok(())
    }
}
