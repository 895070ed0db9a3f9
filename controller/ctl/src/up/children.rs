//! Local processes: started, watched, started again when they end, and ended together with whatever they started.
//!
//! Each process leads a process group of its own, so that a Ctrl-C in the terminal reaches `selvage` alone, which then
//! ends everything in order: proxies drain while the applications still answer.

use crate::up::say::Say;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a process may take after SIGTERM.
pub const GRACE: Duration = Duration::from_secs(10);

/// The wait before a process is started again: it doubles from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A process that lived this long is healthy: its next wait is the shortest again.
const HEALTHY: Duration = Duration::from_secs(30);

/// How long the rest of a process's output is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Longer lines of output are cut into pieces.
const LONGEST_LINE: u64 = 16 << 10;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Program and arguments, expanded.
    pub command: Vec<String>,
    /// Variables beside our own.
    pub environment: BTreeMap<String, String>,
    /// Variables by which it finds Services, where `environment` does not have them. As in Kubernetes they are those of its start: a Service
    /// more restarts nobody.
    pub services: BTreeMap<String, String>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Addresses that accept connections once it is ready.
    pub listens: Vec<SocketAddr>,
}

impl ProcessSpec {
    /// Whether a process of this spec may run on where `other` is wanted.
    fn serves_as(&self, other: &Self) -> bool {
        let Self { command, environment, services: _, directory, listens } = self;
        *command == other.command && *environment == other.environment && *directory == other.directory && *listens == other.listens
    }
}

/// A process that is kept running.
#[derive(Debug)]
struct Running {
    spec: ProcessSpec,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Every local process, by the name its output is marked with.
#[derive(Debug)]
pub struct Children {
    say: Say,
    launcher: Option<PathBuf>,
    running: BTreeMap<String, Running>,
}

impl Children {
    /// None yet.
    pub fn new(say: Say) -> Self {
        Self { say, launcher: None, running: BTreeMap::new() }
    }

    /// The same, where processes end with this one even if it is killed: through [`super::launch`] of this program.
    pub fn launched_by(self, program: PathBuf) -> Self {
        Self { launcher: Some(program), ..self }
    }

    /// Makes exactly `wanted` run: new ones are started, changed ones are started anew, others are ended.
    pub async fn run(&mut self, wanted: BTreeMap<String, ProcessSpec>) {
        let stays = |name: &String, old: &Running| wanted.get(name).is_some_and(|new| old.spec.serves_as(new));
        let stale: Vec<String> = self.running.iter().filter(|(name, old)| !stays(name, old)).map(|(name, _)| name.clone()).collect();
        self.end(stale).await;
        for (name, spec) in wanted {
            if !self.running.contains_key(&name) {
                let stop = CancellationToken::new();
                let task = tokio::spawn(keep_running(name.clone(), spec.clone(), self.launcher.clone(), self.say.clone(), stop.clone()));
                self.running.insert(name, Running { spec, stop, task });
            }
        }
    }

    /// Waits until every process accepts connections; the names of those that did not in time.
    pub async fn accepting(&self, patience: Duration) -> Vec<String> {
        let end = Instant::now() + patience;
        let mut late = Vec::new();
        for (name, running) in &self.running {
            for address in &running.spec.listens {
                let mut accepts = accepts(*address).await;
                while !accepts && Instant::now() < end {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    accepts = self::accepts(*address).await;
                }
                if !accepts {
                    late.push(format!("{name} ({address})"));
                }
            }
        }
        late
    }

    /// Ends every process: SIGTERM, then SIGKILL to those that do not end in [`GRACE`].
    pub async fn end_all(&mut self) {
        let names = self.running.keys().cloned().collect();
        self.end(names).await;
    }

    async fn end(&mut self, names: Vec<String>) {
        let ended: Vec<Running> = names.iter().filter_map(|name| self.running.remove(name)).collect();
        ended.iter().for_each(|running| running.stop.cancel());
        for running in ended {
            // A task that panicked has dropped its child, which is killed thereby.
            let _ = running.task.await;
        }
    }
}

async fn accepts(address: SocketAddr) -> bool {
    tokio::net::TcpStream::connect(address).await.is_ok()
}

async fn keep_running(name: String, spec: ProcessSpec, launcher: Option<PathBuf>, say: Say, stop: CancellationToken) {
    let mut wait = BACKOFF.0;
    loop {
        let begun = Instant::now();
        match start(&spec, launcher.as_deref()) {
            Err(error) => say.line(&name, &format!("cannot be started: {error} (command: {})", spec.command.join(" "))),
            Ok(mut child) => {
                let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
                let output = [
                    child.stdout.take().map(|pipe| tokio::spawn(repeat(name.clone(), pipe, say.clone()))),
                    child.stderr.take().map(|pipe| tokio::spawn(repeat(name.clone(), pipe, say.clone()))),
                ];
                let ended = tokio::select! {
                    status = child.wait() => Some(status),
                    () = stop.cancelled() => None,
                };
                if ended.is_none() {
                    signal(group, Signal::TERM);
                    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                        say.line(&name, "does not end; it is killed");
                    }
                }
                // Also what the process started and left behind.
                signal(group, Signal::KILL);
                for mut task in output.into_iter().flatten() {
                    // It ends with its pipe, unless something left the group and holds it open.
                    if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
                        task.abort();
                    }
                }
                if begun.elapsed() > HEALTHY {
                    wait = BACKOFF.0;
                }
                match ended {
                    None => return,
                    Some(Ok(status)) => say.line(&name, &format!("ended ({status}); it is started again in {} ms", wait.as_millis())),
                    Some(Err(error)) => say.line(&name, &format!("was lost: {error}")),
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(BACKOFF.1),
            () = stop.cancelled() => return,
        }
    }
}

fn start(spec: &ProcessSpec, launcher: Option<&Path>) -> io::Result<Child> {
    let [program, arguments @ ..] = spec.command.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
    };
    let mut command = match launcher {
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.arg(super::launch::COMMAND).arg(std::process::id().to_string()).arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    command
        .args(arguments)
        .envs(&spec.services)
        .envs(&spec.environment)
        .env("PATH", path())
        .current_dir(&spec.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Our `PATH` with the folder of this program in front: what was built together is found together.
fn path() -> OsString {
    let own = std::env::current_exe().ok().and_then(|program| program.parent().map(PathBuf::from));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&inherited))).unwrap_or(inherited)
}

/// Signals a whole group. That it is gone already is what one wants.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = kill_process_group(group, signal);
    }
}

/// Repeats a process's output line by line, marked with its name.
async fn repeat(name: String, pipe: impl AsyncRead + Unpin, say: Say) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => say.line(&name, String::from_utf8_lossy(&line).trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> ProcessSpec {
        ProcessSpec {
            command: vec!["sh".into(), "-c".into(), script.into()],
            environment: BTreeMap::from([("GREETING".to_string(), "hello".to_string())]),
            services: BTreeMap::new(),
            directory: std::env::temp_dir(),
            listens: Vec::new(),
        }
    }

    async fn until(say: &Say, text: &str) {
        for _ in 0..200 {
            if say.said().contains(text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nobody said `{text}` in {:?}", say.said());
    }

    #[tokio::test]
    async fn output_is_marked_with_the_name_and_a_process_that_ends_is_started_again() {
        let say = Say::remembering();
        let mut children = Children::new(say.clone());
        children.run(BTreeMap::from([("one".to_string(), shell("echo $GREETING; exit 3"))])).await;
        until(&say, "one | hello").await;
        until(&say, "started again in 200 ms").await;
        until(&say, "started again in 400 ms").await;
        children.end_all().await;
    }

    #[tokio::test]
    async fn ending_a_process_ends_what_it_started_too() {
        let say = Say::remembering();
        let mut children = Children::new(say.clone());
        children.run(BTreeMap::from([("parent".to_string(), shell("sleep 60 & echo child $!; wait"))])).await;
        until(&say, "child ").await;
        let said = say.said();
        let child: i32 =
            said.split("child ").nth(1).and_then(|rest| rest.split_whitespace().next()).and_then(|id| id.parse().ok()).expect("an id");
        children.end_all().await;
        // It was told to end before `end_all` came back; the kernel carries that out when it gets to it.
        let alive = || std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let end = Instant::now() + Duration::from_secs(5);
        while alive() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!alive(), "process {child} still runs");
    }

    #[tokio::test]
    async fn only_what_changed_is_started_anew() {
        let say = Say::remembering();
        let mut children = Children::new(say.clone());
        let (kept, changed) = (shell("echo kept $$; exec sleep 60"), shell("echo first; exec sleep 60"));
        children.run(BTreeMap::from([("kept".into(), kept.clone()), ("changed".into(), changed)])).await;
        until(&say, "kept ").await;
        until(&say, "first").await;
        // A Service more is nothing to it.
        let kept = ProcessSpec { services: BTreeMap::from([("LATER_SERVICE_HOST".into(), "127.64.16.9".into())]), ..kept };
        children.run(BTreeMap::from([("kept".into(), kept), ("changed".into(), shell("echo second; exec sleep 60"))])).await;
        until(&say, "second").await;
        assert_eq!(say.said().matches("kept | kept").count(), 1);
        children.end_all().await;
    }

    #[tokio::test]
    async fn a_command_that_does_not_exist_is_named() {
        let say = Say::remembering();
        let mut children = Children::new(say.clone());
        let spec = ProcessSpec { command: vec!["no-such-program-anywhere".into()], ..shell("") };
        children.run(BTreeMap::from([("odd".into(), spec)])).await;
        until(&say, "odd | cannot be started").await;
        assert!(say.said().contains("no-such-program-anywhere"));
        children.end_all().await;
    }
}
