//! An authority kept in a file, mode 0600: made at the first start, its issuer renewed at later ones.

use super::{Authority, CaError, Kept};
use selvage_policy::TrustDomain;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Why there is no authority of the trust domain.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Others may read it.
    #[error("{path} has mode {mode:o}; it holds private keys: chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is damaged.
    #[error("{path} is damaged ({problem}): restore it, or remove it to start with a new root")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It is of another trust domain.
    #[error(
        "MeshConfig/default: spec.trustDomain: `{wanted}` is not `{own}`, which every certificate under {path} has: it cannot be changed; set it back, or remove that file to start with a new root"
    )]
    TrustDomain {
        /// The file.
        path: PathBuf,
        /// What it was made for.
        own: TrustDomain,
        /// What is asked for.
        wanted: TrustDomain,
    },
    /// The authority itself fails.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Opens the authority of a trust domain that is kept at `path`, or makes one.
pub fn open(path: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Authority, KeepError> {
    let io = |error| KeepError::Io { path: path.into(), error };
    let damaged = |problem: String| KeepError::Damaged { path: path.into(), problem };
    let mut kept = match fs::read(path) {
        Ok(bytes) => {
            let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeepError::Mode { path: path.into(), mode });
            }
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
            Authority::new(kept.clone()).map_err(|error| damaged(error.to_string()))?;
            kept
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let kept = Kept::create(trust_domain, now)?;
            write(path, &kept).map_err(io)?;
            kept
        }
        Err(error) => return Err(io(error)),
    };
    if let Some(own) = kept.trust_domain().filter(|own| own != trust_domain) {
        return Err(KeepError::TrustDomain { path: path.into(), own, wanted: trust_domain.clone() });
    }
    if kept.renew(trust_domain, now)? {
        write(path, &kept).map_err(io)?;
    }
    Ok(Authority::new(kept)?)
}

/// Replaces the file whole: a reader sees the old one or the new one.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec_pretty(kept)?)?;
    file.sync_all()?;
    fs::rename(new, path)
}
