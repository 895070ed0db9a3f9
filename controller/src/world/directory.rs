//! A World from a directory: `DIR/app` and `DIR/local`; `DIR/cluster` is for clusters only and is not read.
//!
//! ```text
//! app/      what also goes to a cluster: Namespaces, Services, Secrets, Gateway API, policies
//! local/    what stands for the cluster: Pods that are run as processes, EndpointSlices with loopback addresses, Secrets
//! ```
//!
//! Files end in `.yaml`, `.yml` or `.json`, may hold several documents, and are read in the order of their names. An object that is there twice is a fault.

use super::{Addresses, Fault, Parsed, Unknown, World, parse};
use selvage_policy::Key;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of the largest manifest file: far above what people write, below what hurts.
const MOST_BYTES: u64 = 4 << 20;
/// Files in one directory, for the same reason.
const MOST_FILES: usize = 4096;
/// Depth of nested directories.
const MOST_DEPTH: usize = 8;

/// What a directory holds.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The World, settled: with addresses and endpoints.
    pub world: World,
    /// Everything that is wrong with the files; objects with faults of their own are in `world.malformed` as well.
    pub faults: Vec<Fault>,
    /// The file in which each object stands, relative to the directory.
    pub files: BTreeMap<Key, String>,
}

/// Reads `DIR`. Nothing is an error of its own: what cannot be read is a fault that names the file.
pub fn read(dir: &Path, addresses: Addresses) -> Reading {
    let mut reading = Reading { world: World { addresses: Some(addresses), ..World::default() }, ..Reading::default() };
    for part in [Part::App, Part::Local] {
        let root = dir.join(part.as_str());
        let mut files = Vec::new();
        if root.is_dir() {
            collect(&root, 0, &mut files, &mut |fault| reading.faults.push(fault));
        } else if part == Part::App {
            reading.faults.push(of_file(&root, "does not exist: manifests go into its `app` directory".into()));
        }
        files.sort();
        for file in files {
            reading.file(dir, &file, part);
        }
    }
    if let Err(exhausted) = reading.world.settle() {
        reading.faults.push(of_file(dir, exhausted.to_string()));
    }
    reading
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    App,
    Local,
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Local => "local",
        }
    }
}

fn of_file(path: &Path, problem: String) -> Fault {
    Fault { file: None, object: path.display().to_string(), field: String::new(), problem: format!(": {problem}") }
}

fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>, fault: &mut dyn FnMut(Fault)) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return fault(of_file(dir, error.to_string())),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let manifest =
            path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"));
        if path.is_dir() && !hidden {
            if depth < MOST_DEPTH {
                collect(&path, depth + 1, files, fault);
            } else {
                fault(of_file(&path, format!("is nested deeper than {MOST_DEPTH}: move it up")));
            }
        } else if manifest && !hidden {
            if files.len() < MOST_FILES {
                files.push(path);
            } else {
                return fault(of_file(dir, format!("has more than {MOST_FILES} files: put objects together")));
            }
        }
    }
}

impl Reading {
    fn file(&mut self, dir: &Path, path: &Path, part: Part) {
        let shown = path.strip_prefix(dir).unwrap_or(path).display().to_string();
        match documents(path) {
            Ok(documents) => {
                for document in documents.into_iter().flat_map(expand) {
                    self.document(document, &shown, part);
                }
            }
            Err(problem) => self.faults.push(Fault {
                file: Some(shown),
                object: "not readable".into(),
                field: String::new(),
                problem: format!(": {problem}"),
            }),
        }
    }

    fn document(&mut self, document: Value, file: &str, part: Part) {
        let (key, parsed) = match parse(document, Unknown::Refuse) {
            Ok(read) => read,
            Err(malformed) => {
                self.faults.extend(malformed.faults.iter().cloned().map(|fault| fault.within(file)));
                self.files.insert(malformed.key.clone(), file.into());
                self.world.malformed.insert(malformed.key.clone(), malformed);
                return;
            }
        };
        if let Parsed::Policy(policy) = &parsed
            && let Err(faults) = &policy.spec.spec
        {
            self.faults.extend(faults.iter().cloned().map(|fault| fault.within(file)));
        }
        let misplaced = misplaced(&key, &parsed, part);
        self.faults.extend(misplaced.into_iter().map(|fault| fault.within(file)));
        if matches!(parsed, Parsed::Other) {
            return;
        }
        if let Some(earlier) = self.files.insert(key.clone(), file.into()) {
            self.faults.push(Fault::of(&key, "metadata.name", format!("is there twice, in {earlier} too: remove one")).within(file));
        }
        self.world.insert(parsed);
    }
}

/// Documents of a file. JSON is YAML.
fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MOST_BYTES {
        return Err(format!("has {length} bytes; at most {MOST_BYTES} are read: split it"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| error.to_string())?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// `kind: List` is its items.
fn expand(document: Value) -> Vec<Value> {
    match (document.get("kind").and_then(Value::as_str), document.get("items")) {
        (Some("List"), Some(Value::Array(items))) => items.clone(),
        _ => vec![document],
    }
}

/// What stands in the wrong directory, or may not stand in files at all.
fn misplaced(key: &Key, parsed: &Parsed, part: Part) -> Vec<Fault> {
    match (parsed, part) {
        (Parsed::Pod(_), Part::App) => {
            vec![Fault::of(key, "", ": Pods belong into `local/`; what starts them in a cluster into `cluster/`")]
        }
        (Parsed::EndpointSlice(_), Part::App) => {
            vec![Fault::of(key, "", ": EndpointSlices belong into `local/`: in a cluster Kubernetes makes them")]
        }
        (Parsed::EndpointSlice(slice), Part::Local) => {
            let addresses =
                slice.spec.endpoints.iter().enumerate().flat_map(|(index, endpoint)| endpoint.addresses.iter().map(move |a| (index, a)));
            let outside = addresses.filter(|(_, address)| !address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()));
            let fault = |(index, address): (usize, &String)| {
                Fault::of(
                    key,
                    format!("endpoints[{index}].addresses"),
                    format!("`{address}` is not a loopback address: files may name no other"),
                )
            };
            outside.map(fault).collect()
        }
        (Parsed::Gateway(_) | Parsed::Route(_) | Parsed::Policy(_) | Parsed::Service(_) | Parsed::MeshConfig(_), Part::Local) => {
            vec![Fault::of(key, "", ": belongs into `app/`: `local/` holds only what stands for the cluster")]
        }
        _ => Vec::new(),
    }
}
