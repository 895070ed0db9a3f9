//! The file form: a proxy's Resources as YAML or JSON, those that hold secrets in a second file beside it.
//!
//! ```yaml
//! apiVersion: selvage.dev/v1alpha1
//! kind: ProxyConfig
//! resources:
//! - key: Mesh/default
//!   class: core
//!   spec: { trustDomain: cluster.local, roots: [] }
//! ```
//!
//! Beside `proxy.yaml` lies `proxy.secrets.yaml`, of the same form, of mode 0600. A `version` may be left out, and is ignored: what is read
//! gets a version of its own, so that an edit by hand always shows.

use crate::resource::kind::holds_secrets;
use crate::resource::{Resource, VersionKey, without_values};
use selvage_policy::Key;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// What stands in `apiVersion`.
pub const API_VERSION: &str = "selvage.dev/v1alpha1";
/// What stands in `kind`.
pub const KIND: &str = "ProxyConfig";
/// Bytes of the largest file: far above any real configuration.
pub const MAX_FILE: u64 = 64 << 20;
/// Parser events of the largest YAML document, and so its nodes: about eight bytes of text make one.
const MAX_EVENTS: usize = 8 << 20;

/// The Resources of one proxy, by key.
pub type Resources = BTreeMap<Key, Resource>;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFile {
    /// It cannot be opened or read.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than its owner may read or change secrets.
    #[error("{path}: mode {mode:04o} lets others than the owner at private keys: run `chmod 600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is too large.
    #[error("{0}: more than {MAX_FILE} bytes")]
    TooLarge(PathBuf),
    /// It is not YAML or JSON, or not of this form.
    #[error("{path}: {problem}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        problem: String,
    },
    /// One Resource is not of its form.
    #[error("{path}: resources[{index}]{}: {problem}", name.as_deref().map(|key| format!(" ({key})")).unwrap_or_default())]
    Resource {
        /// The file.
        path: PathBuf,
        /// Its place.
        index: usize,
        /// Its key, if that much could be read.
        name: Option<String>,
        /// What is wrong and where.
        problem: String,
    },
    /// Two Resources of one key.
    #[error("{path}: {key} is there twice; remove one")]
    Twice {
        /// The file.
        path: PathBuf,
        /// Which.
        key: Key,
    },
    /// A private key where everybody may read it.
    #[error("{path}: {key} holds a private key; it belongs into {secrets}")]
    Misplaced {
        /// The file.
        path: PathBuf,
        /// Which.
        key: Key,
        /// Where it belongs.
        secrets: PathBuf,
    },
    /// Something else than secrets in the secrets file.
    #[error("{path}: {key} holds no secret; it belongs into the file beside it")]
    NoSecret {
        /// The file.
        path: PathBuf,
        /// Which.
        key: Key,
    },
}

/// A file that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: cannot be written: {error}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    resources: Vec<serde_json::Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    api_version: &'static str,
    kind: &'static str,
    resources: Vec<&'a Resource>,
}

/// Where the secrets of `path` are: `proxy.secrets.yaml` beside `proxy.yaml`, `proxy.secrets` beside `proxy`.
pub fn secrets_path(path: &Path) -> PathBuf {
    let mut name: OsString = path.file_stem().unwrap_or_default().to_os_string();
    name.push(".secrets");
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// Reads a configuration and, if there is one, the secrets file beside it. Every spec is parsed, so that what is returned is well formed.
pub fn read(path: &Path, key: &VersionKey) -> Result<Resources, InvalidFile> {
    let mut resources = Resources::new();
    let secrets = secrets_path(path);
    let text = read_bounded(open(path)?, path)?;
    add(&mut resources, path, parse(path, &text, key, Quoting::Allowed)?, |key| match holds_secrets(&key.kind) {
        true => Err(InvalidFile::Misplaced { path: path.into(), key: key.clone(), secrets: secrets.clone() }),
        false => Ok(()),
    })?;
    if let Some(file) = open_secrets(&secrets)? {
        let text = read_bounded(file, &secrets)?;
        add(&mut resources, &secrets, parse(&secrets, &text, key, Quoting::Forbidden)?, |key| match holds_secrets(&key.kind) {
            true => Ok(()),
            false => Err(InvalidFile::NoSecret { path: secrets.clone(), key: key.clone() }),
        })?;
    }
    Ok(resources)
}

/// `resources` in the file form, as YAML, with their secrets redacted.
pub fn to_yaml<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> String {
    let shown: Vec<Resource> = resources.into_iter().map(Resource::redacted).collect();
    yaml(&shown.iter().collect::<Vec<_>>())
}

/// Writes `resources` to `path` and, of mode 0600, what holds secrets to the file beside it; each is replaced as a whole, the secrets first.
/// A name that ends in `.json` gets JSON, any other YAML. Without secrets an old secrets file is removed.
pub fn write<'a>(path: &Path, resources: impl IntoIterator<Item = &'a Resource>) -> Result<(), WriteError> {
    let (secret, plain): (Vec<_>, Vec<_>) = resources.into_iter().partition(|resource| holds_secrets(&resource.key.kind));
    let text = |resources: &[&Resource]| match path.extension().is_some_and(|extension| extension == "json") {
        true => json(resources),
        false => yaml(resources),
    };
    let secrets = secrets_path(path);
    if secret.is_empty() {
        match std::fs::remove_file(&secrets) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(WriteError { path: secrets, error }),
            Ok(()) | Err(_) => {}
        }
    } else {
        replace(&secrets, text(&secret).as_bytes(), 0o600)?;
    }
    replace(path, text(&plain).as_bytes(), 0o644)
}

/// Replaces the file at `path` by `bytes`, as a whole or not at all; it is created with `mode` from the start.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), WriteError> {
    let failed = |error| WriteError { path: path.into(), error };
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", rand::random::<u64>()));
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    written.map_err(|error| {
        // What is left of it may hold secrets; that it may not exist is no second failure.
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

fn open(path: &Path) -> Result<File, InvalidFile> {
    File::open(path).map_err(|error| InvalidFile::Io { path: path.into(), error })
}

/// The open secrets file, if there is one and nobody but its owner may open it. The mode is that of what was opened.
fn open_secrets(path: &Path) -> Result<Option<File>, InvalidFile> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(InvalidFile::Io { path: path.into(), error }),
    };
    let mode = file.metadata().map_err(|error| InvalidFile::Io { path: path.into(), error })?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 { Err(InvalidFile::Mode { path: path.into(), mode }) } else { Ok(Some(file)) }
}

fn read_bounded(file: File, path: &Path) -> Result<String, InvalidFile> {
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text);
    let bytes = read.map_err(|error| InvalidFile::Io { path: path.into(), error })?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= MAX_FILE) { Ok(text) } else { Err(InvalidFile::TooLarge(path.into())) }
}

/// Whether messages may quote what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Allowed,
    /// It may be a private key.
    Forbidden,
}

fn parse(path: &Path, text: &str, key: &VersionKey, quoting: Quoting) -> Result<Vec<Resource>, InvalidFile> {
    let form = |problem: String| InvalidFile::Form { path: path.into(), problem };
    // Without excerpts of the text: they may be private keys.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: MAX_EVENTS, max_nodes: MAX_EVENTS },
        with_snippet: false,
    };
    let document: Document = if path.extension().is_some_and(|extension| extension == "json") {
        serde_json::from_str(text).map_err(|error| {
            form(match quoting {
                Quoting::Allowed => error.to_string(),
                Quoting::Forbidden => format!("not JSON of this form at line {} column {}", error.line(), error.column()),
            })
        })?
    } else {
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            form(match quoting {
                Quoting::Allowed => error.to_string(),
                Quoting::Forbidden => match error.location() {
                    Some(at) => format!("not YAML of this form at line {} column {}", at.line(), at.column()),
                    None => "not YAML of this form".into(),
                },
            })
        })?
    };
    if document.api_version != API_VERSION || document.kind != KIND {
        return Err(form(format!("is {} {}, expected {API_VERSION} {KIND}", document.api_version, document.kind)));
    }
    let read = |(index, value)| {
        resource(value, key, quoting).map_err(|(name, problem)| InvalidFile::Resource { path: path.into(), index, name, problem })
    };
    document.resources.into_iter().enumerate().map(read).collect()
}

fn resource(mut value: serde_json::Value, key: &VersionKey, quoting: Quoting) -> Result<Resource, (Option<String>, String)> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("version".into(), "".into());
    }
    let name = value.get("key").and_then(serde_json::Value::as_str).map(str::to_string);
    let resource: Resource = serde_path_to_error::deserialize(value).map_err(|error| {
        let problem = match quoting {
            Quoting::Allowed => error.inner().to_string(),
            Quoting::Forbidden => without_values(error.inner()),
        };
        (name.clone(), format!("{}: {problem}", error.path()))
    })?;
    let resource = resource.versioned(key);
    // The message names the key already.
    let prefix = format!("{}: ", resource.key);
    resource.spec().map_err(|invalid| {
        let text = invalid.to_string();
        (name, text.strip_prefix(&prefix).unwrap_or(&text).to_string())
    })?;
    Ok(resource)
}

fn add(
    resources: &mut Resources,
    path: &Path,
    read: Vec<Resource>,
    belongs: impl Fn(&Key) -> Result<(), InvalidFile>,
) -> Result<(), InvalidFile> {
    for resource in read {
        belongs(&resource.key)?;
        if let Some(twice) = resources.insert(resource.key.clone(), resource) {
            return Err(InvalidFile::Twice { path: path.into(), key: twice.key });
        }
    }
    Ok(())
}

fn yaml(resources: &[&Resource]) -> String {
    let written = Written { api_version: API_VERSION, kind: KIND, resources: resources.to_vec() };
    serde_saphyr::to_string(&written).expect("Resources have text keys only, so they have a YAML form")
}

fn json(resources: &[&Resource]) -> String {
    let written = Written { api_version: API_VERSION, kind: KIND, resources: resources.to_vec() };
    serde_json::to_string_pretty(&written).expect("Resources have text keys only, so they have a JSON form")
}
