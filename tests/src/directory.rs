//! A directory of manifests of its own for each test.

use crate::program::root;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A directory that is removed with the test.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("selvage-test-").tempdir().expect("a temporary directory"))
    }

    /// A copy of a directory of the repository, without its state.
    pub fn copy_of(path: &str) -> Self {
        let new = Self::new();
        copy(&root().join(path), new.path());
        new
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, as editors do: a new file is moved over the old.
    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder can be made");
        let new = path.with_extension("new~");
        std::fs::write(&new, text).expect("the file can be written");
        std::fs::rename(&new, &path).expect("the file can be moved");
        path
    }

    /// Reads a file.
    pub fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Replaces a text that must be in a file.
    pub fn replace(&self, file: &str, old: &str, new: &str) {
        let text = self.read(file);
        assert!(text.contains(old), "{file} does not contain `{old}`");
        self.write(file, &text.replace(old, new));
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("a folder can be listed");
        let (path, name) = (entry.path(), entry.file_name());
        if name == ".selvage" || name == "src" {
            continue;
        }
        if path.is_dir() {
            std::fs::create_dir_all(to.join(&name)).expect("the folder can be made");
            copy(&path, &to.join(&name));
        } else {
            std::fs::copy(&path, to.join(&name)).expect("the file can be copied");
        }
    }
}
