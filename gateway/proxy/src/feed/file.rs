//! Resources from a file, and again whenever it or the secrets beside it change. A bad change is refused with its error.

use super::store::{Change, Refused, Store};
use notify::{EventKind, RecursiveMode, Watcher};
use selvage_config::VersionKey;
use selvage_config::file::{InvalidFile, read, secrets_path};
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
        let seen = Seen::of(&path);
        load(&store, &path, &key).await?;
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

async fn load(store: &Arc<Store>, path: &Path, key: &VersionKey) -> Result<(), FileError> {
    let (file, key) = (path.to_path_buf(), key.clone());
    let fault = |error: tokio::task::JoinError| FileError::Refused(path.into(), Refused::Fault(error.to_string()));
    let resources = tokio::task::spawn_blocking(move || read(&file, &key)).await.map_err(fault)??;
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
        let seen = Seen::of(&self.path);
        if seen == self.seen {
            if self.told.borrow().is_none() {
                self.store.confirm();
            }
            return;
        }
        // As it was before it was read: a change during the reading is seen next time.
        self.seen = seen;
        let problem = match load(&self.store, &self.path, &self.key).await {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
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
