//! Where the programs under test are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of a program of the workspace (`selvage`, `bookshop`, `gateway`, …), built with this test's own profile.
///
/// `SELVAGE_PROGRAMS` names the folder where they lie already (CI builds them before); otherwise cargo is asked to build them, which is
/// quick when they are fresh.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| match std::env::var_os("SELVAGE_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

/// The root of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

fn build() -> PathBuf {
    // target/<profile>/deps/<this test>
    let own = std::env::current_exe().expect("a test knows its own path");
    let folder = own.ancestors().nth(2).expect("a test lies in target/<profile>/deps").to_path_buf();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--target-dir"])
        .arg(folder.parent().expect("a profile lies in target"))
        .current_dir(root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the programs do not build");
    folder
}
