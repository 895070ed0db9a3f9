//! The last configuration that was in force, on disk, for a proxy that starts while its controller is away.
//!
//! ```text
//! DIRECTORY/last-good       one line of JSON: format, schema, when, checksum; then the Resources as JSON
//! DIRECTORY/last-good.old   the generation before it
//! SECRETS/…                 the same for kinds that hold secrets, 0600; meant for memory-backed storage
//! ```
//!
//! A generation that is damaged, or of another schema, is refused and the one before it used. The two directories are read apart: secrets
//! that are gone (after a reboot) leave the rest usable, and the controller sends them again.

use crate::file::{WriteError, replace};
use crate::resource::Resource;
use crate::resource::kind::{SCHEMA_REVISION, holds_secrets};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[cfg(test)]
mod tests;

const NEWEST: &str = "last-good";
const OLDER: &str = "last-good.old";
/// The layout of these files.
const FORMAT: u32 = 1;
/// Bytes of the largest one: what a transaction may have, and some.
const MAX_FILE: u64 = 300 << 20;

/// Where the last good configuration is kept.
#[derive(Clone, Debug)]
pub struct LastGood {
    directory: PathBuf,
    secrets: PathBuf,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Kept {
    /// The Resources, of kinds that hold secrets as well if they could be read.
    pub resources: Vec<Resource>,
    /// How long ago those without secrets were saved; nothing was found without it.
    pub age: Option<Duration>,
    /// Generations that could not be used.
    pub refused: Vec<Damaged>,
}

/// A generation that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}: this generation of the last good configuration is not used")]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a generation.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as it should.
    #[error("has no header")]
    Header,
    /// Another release wrote it.
    #[error("is of format {format} and schema {schema}; this release reads {FORMAT} and {SCHEMA_REVISION}")]
    Schema {
        /// Its layout.
        format: u32,
        /// Its schema revision.
        schema: u32,
    },
    /// It is not what was written.
    #[error("is damaged: the checksum differs")]
    Checksum,
    /// It is intact, but not Resources.
    #[error("holds something else than Resources")]
    Content,
    /// Others may read private keys in it.
    #[error("has mode {0:04o}; expected 0600")]
    Mode(u32),
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    schema: u32,
    /// Seconds since 1970.
    saved: u64,
    sha256: String,
}

/// What was written, byte by byte.
struct Intact {
    text: Vec<u8>,
    /// Where the Resources begin in it.
    body: usize,
    saved: u64,
}

struct Generation {
    resources: Vec<Resource>,
    saved: u64,
}

impl LastGood {
    /// Kept in `directory`, and in `secrets` what holds secrets. The directories are made when something is saved.
    pub fn new(directory: impl Into<PathBuf>, secrets: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), secrets: secrets.into() }
    }

    /// Saves a generation; the one before it is kept.
    pub fn save<'a>(&self, resources: impl IntoIterator<Item = &'a Resource>, now: SystemTime) -> Result<(), WriteError> {
        let (secret, plain): (Vec<_>, Vec<_>) = resources.into_iter().partition(|resource| holds_secrets(&resource.key.kind));
        let saved = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        store(&self.secrets, &secret, saved)?;
        store(&self.directory, &plain, saved)
    }

    /// The newest generation that is intact.
    pub fn load(&self, now: SystemTime) -> Kept {
        let mut refused = Vec::new();
        let Some(plain) = newest(&self.directory, Access::Anybody, &mut refused) else { return Kept { refused, ..Kept::default() } };
        let mut resources = plain.resources;
        resources.retain(|resource| !holds_secrets(&resource.key.kind));
        if let Some(secret) = newest(&self.secrets, Access::Owner, &mut refused) {
            resources.extend(secret.resources.into_iter().filter(|resource| holds_secrets(&resource.key.kind)));
        }
        let saved = UNIX_EPOCH + Duration::from_secs(plain.saved);
        Kept { resources, age: Some(now.duration_since(saved).unwrap_or_default()), refused }
    }
}

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Anybody,
    Owner,
}

fn store(directory: &Path, resources: &[&Resource], saved: u64) -> Result<(), WriteError> {
    let failed = |error| WriteError { path: directory.into(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let body = serde_json::to_vec(resources).expect("Resources have text keys only, so they have a JSON form");
    let header = Header { format: FORMAT, schema: SCHEMA_REVISION, saved, sha256: checksum(saved, &body) };
    let mut text = serde_json::to_vec(&header).expect("a struct of plain fields has a JSON form");
    text.push(b'\n');
    text.extend_from_slice(&body);
    let newest = directory.join(NEWEST);
    // A damaged one does not push out the intact one before it. That it is intact needs no parsing.
    if read(&newest, Access::Anybody).is_ok_and(|found| found.is_some()) {
        fs::rename(&newest, directory.join(OLDER)).map_err(failed)?;
    }
    replace(&newest, &text, 0o600)
}

fn newest(directory: &Path, access: Access, refused: &mut Vec<Damaged>) -> Option<Generation> {
    for name in [NEWEST, OLDER] {
        let path = directory.join(name);
        match read(&path, access).and_then(|found| found.map(Intact::parse).transpose()) {
            Ok(Some(generation)) => return Some(generation),
            Ok(None) => {}
            Err(problem) => refused.push(Damaged { path, problem }),
        }
    }
    None
}

impl Intact {
    fn parse(self) -> Result<Generation, Problem> {
        let resources = serde_json::from_slice(&self.text[self.body..]).map_err(|_| Problem::Content)?;
        Ok(Generation { resources, saved: self.saved })
    }
}

/// Reads one generation as far as to know that it is what was written; none, if there is no such file.
fn read(path: &Path, access: Access) -> Result<Option<Intact>, Problem> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if access == Access::Owner && mode & 0o077 != 0 {
        return Err(Problem::Mode(mode));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text)?;
    let end = text.iter().position(|byte| *byte == b'\n').ok_or(Problem::Header)?;
    let (header, body) = (&text[..end], &text[end + 1..]);
    let header: Header = serde_json::from_slice(header).map_err(|_| Problem::Header)?;
    if (header.format, header.schema) != (FORMAT, SCHEMA_REVISION) {
        return Err(Problem::Schema { format: header.format, schema: header.schema });
    }
    if header.sha256 != checksum(header.saved, body) {
        return Err(Problem::Checksum);
    }
    Ok(Some(Intact { body: end + 1, saved: header.saved, text }))
}

fn checksum(saved: u64, body: &[u8]) -> String {
    let hash = Sha256::new().chain_update(saved.to_be_bytes()).chain_update(body).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
