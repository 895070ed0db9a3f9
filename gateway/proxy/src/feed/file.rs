//! Resources from a file, and again whenever it or the secrets beside it change. A bad change is refused with its error.

use super::store::{Change, Refused, Store};
use notify::{EventKind, RecursiveMode, Watcher};
use selvage_config::file::{InvalidFile, read, secrets_path};
use selvage_config::{Resource, VersionKey};
use selvage_policy::Key;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Changes that come within this time of one another are one: writing a file is several events.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often the file is looked at whatever the kernel says: events can be lost, and some file systems have none.
const POLL: Duration = Duration::from_secs(1);

/// A file that cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Invalid(#[from] InvalidFile),
    /// It can be read, but not compiled.
    #[error("{0}: {1}")]
    Refused(PathBuf, Refused),
}

/// A watched file. It is watched until this is dropped.
#[derive(Debug)]
pub struct FileFeed {
    problem: watch::Receiver<Option<String>>,
    _task: JoinHandle<()>,
    _stop: DropGuard,
}

impl FileFeed {
    /// Puts the file in force and watches it. At the start a bad file is an error.
    pub async fn start(store: Arc<Store>, path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let path = path.into();
        let key = VersionKey::random();
        let (seen, resources) = loop {
            let (seen, resources) = standing(&path, parse(&path, &key)).await;
            match seen {
                Some(seen) => break (seen, resources?),
                None => tokio::time::sleep(DEBOUNCE).await,
            }
        };
        apply(&store, &path, resources).await?;
        let (told, problem) = watch::channel(None);
        let stop = CancellationToken::new();
        let follower = Follower { store, path, key, seen, told };
        let task = tokio::spawn(follower.run(stop.clone()));
        Ok(Self { problem, _task: task, _stop: stop.drop_guard() })
    }

    /// Why the file as it is now is not in force; nothing: it is.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.problem.clone()
    }
}

/// What `reading` the files came to, and the state they were in from its beginning to its end; nothing: they were written meanwhile, so it
/// may be half of one state and half of another.
async fn standing<T>(path: &Path, reading: impl Future<Output = T>) -> (Option<Seen>, T) {
    let seen = Seen::of(path);
    let read = reading.await;
    ((Seen::of(path) == seen).then_some(seen), read)
}

async fn parse(path: &Path, key: &VersionKey) -> Result<BTreeMap<Key, Resource>, FileError> {
    let (file, key) = (path.to_path_buf(), key.clone());
    let fault = |error: tokio::task::JoinError| FileError::Refused(path.into(), Refused::Fault(error.to_string()));
    Ok(tokio::task::spawn_blocking(move || read(&file, &key)).await.map_err(fault)??)
}

async fn apply(store: &Arc<Store>, path: &Path, resources: BTreeMap<Key, Resource>) -> Result<(), FileError> {
    store.apply(Change::Admit(resources)).await.map_err(|refused| FileError::Refused(path.into(), refused))?;
    store.confirm();
    Ok(())
}

struct Follower {
    store: Arc<Store>,
    path: PathBuf,
    key: VersionKey,
    seen: Seen,
    told: watch::Sender<Option<String>>,
}

impl Follower {
    async fn run(mut self, stop: CancellationToken) {
        let (changed, mut changes) = mpsc::channel(1);
        let _watcher = self.watch(changed);
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    // What came meanwhile is read now.
                    let _ = changes.try_recv();
                    self.look().await;
                }
                () = tokio::time::sleep(POLL) => self.look().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reads the files if they are others than last time.
    async fn look(&mut self) {
        if Seen::of(&self.path) == self.seen {
            if self.told.borrow().is_none() {
                self.store.confirm();
            }
            return;
        }
        let (seen, resources) = standing(&self.path, parse(&self.path, &self.key)).await;
        // Whoever writes is not done: it is looked at again, with the next event or without.
        let Some(seen) = seen else { return };
        self.seen = seen;
        let applied = match resources {
            Ok(resources) => apply(&self.store, &self.path, resources).await,
            Err(error) => Err(error),
        };
        let problem = applied.err().map(|error| error.to_string());
        if let Some(error) = &problem {
            tracing::error!(error, "the changed configuration file is refused: what was in force stays");
        } else if self.told.borrow().is_some() {
            tracing::info!(path = %self.path.display(), "the configuration file is in force again");
        }
        self.told.send_replace(problem);
    }

    /// Watches the directory: files are replaced, not changed in place. Without events there is polling.
    fn watch(&self, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        // The last: how Kubernetes swaps all files of a mounted volume at once.
        let ours =
            [self.path.file_name().map(Into::into), secrets_path(&self.path).file_name().map(Into::into), Some(OsString::from("..data"))];
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns_us = event.is_ok_and(|event| {
                // Reading is an event too, and must not lead to reading.
                let read_only = matches!(event.kind, EventKind::Access(access) if !matches!(access, notify::event::AccessKind::Close(notify::event::AccessMode::Write)));
                !read_only && event.paths.iter().any(|path| ours.contains(&path.file_name().map(Into::into)))
            });
            if concerns_us {
                // Full: the change will be seen with the one before it.
                let _ = changed.try_send(());
            }
        });
        let watching = watcher.and_then(|mut watcher| watcher.watch(&directory, RecursiveMode::NonRecursive).map(|()| watcher));
        watching.inspect_err(|error| tracing::warn!(%error, "the configuration file is polled: its directory cannot be watched")).ok()
    }
}

/// What tells two states of the two files apart without reading them.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    file: Option<Stamp>,
    secrets: Option<Stamp>,
}

/// Of one file, while it exists.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Of content, mode or owner.
    changed: (i64, i64),
}

impl Seen {
    fn of(path: &Path) -> Self {
        Self { file: Stamp::of(path), secrets: Stamp::of(&secrets_path(path)) }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        Some(Self { inode: file.ino(), bytes: file.size(), modified, changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_while_it_was_read_is_no_state_of_the_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("proxy.yaml");
        std::fs::write(&path, "one").expect("written");
        let undisturbed = standing(&path, async { std::fs::read_to_string(&path).expect("there") }).await;
        assert_eq!(undisturbed, (Some(Seen::of(&path)), "one".to_string()));
        for written in [path.clone(), secrets_path(&path)] {
            let disturbed = standing(&path, async { std::fs::write(&written, "longer").expect("written") }).await;
            assert_eq!(disturbed.0, None, "{}", written.display());
        }
    }
}
