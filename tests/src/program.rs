//! The programs under test: where they are, and running them.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Longer than a program takes to come up or to end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A running program of the workspace. Dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it with these arguments.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::start_with(name, arguments, &[])
    }

    /// The same with these in its environment.
    pub fn start_with(name: &str, arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let mut command = Command::new(program(name));
        command.args(arguments).envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
        let said = Arc::new(Mutex::new(String::new()));
        let (mut pipe, heard) = (child.stderr.take().expect("a pipe"), said.clone());
        // Ends with the pipe.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                heard.lock().expect("nobody panicked").push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { child, said }
    }

    /// What it has written to standard error so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panicked").clone()
    }

    /// Waits until it has written this to standard error.
    pub async fn until_said(&self, words: &str) {
        let begun = Instant::now();
        while !self.said().contains(words) {
            assert!(begun.elapsed() < PATIENCE, "it did not say `{words}`:\n{}", self.said());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sends it a signal: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "the signal was not sent");
    }

    /// Waits until it has ended by itself; its exit code.
    pub async fn ended(mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be asked") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.said());
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until somebody listens there.
pub async fn listening(address: SocketAddr) {
    let begun = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "nothing listens on {address}");
        tokio::time::sleep(LOOK).await;
    }
}

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
