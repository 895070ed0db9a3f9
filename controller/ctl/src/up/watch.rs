//! Tells when manifests changed: many events of one edit become one.

use notify::{EventKind, RecursiveMode, Watcher};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that come within this time of one another are one edit: writing a file is several, checking out a branch is many.
const DEBOUNCE: Duration = Duration::from_millis(60);

/// A watched directory; it is watched until this is dropped.
pub struct Watch {
    changes: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Watch {
    /// Watches everything below `dir` but the state folder.
    pub fn start(dir: &Path, state: &Path) -> notify::Result<Self> {
        // One is enough: it says that there is something to read, not what.
        let (changed, changes) = mpsc::channel(1);
        let state: PathBuf = state.to_path_buf();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let concerns_us = event
                .is_ok_and(|event| !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| !path.starts_with(&state)));
            if concerns_us {
                // Full: the change will be read with the one before it.
                let _ = changed.try_send(());
            }
        })?;
        watcher.watch(dir, RecursiveMode::Recursive)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for the next edit to be complete.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            // The watcher is gone with its thread; there is nothing more to come.
            std::future::pending::<()>().await;
        }
        while tokio::time::timeout(DEBOUNCE, self.changes.recv()).await.is_ok_and(|event| event.is_some()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_edit_is_told_once_and_state_is_not_an_edit() {
        let folder = tempfile::tempdir().expect("a folder");
        let (app, state) = (folder.path().join("app"), folder.path().join(".selvage"));
        std::fs::create_dir_all(&app).expect("app");
        std::fs::create_dir_all(&state).expect("state");
        let mut watch = Watch::start(folder.path(), &state).expect("a watch");
        for text in ["one", "two", "three"] {
            std::fs::write(app.join("a.yaml"), text).expect("a file");
        }
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("an edit is told");
        std::fs::write(state.join("up.json"), "{}").expect("a file");
        assert!(tokio::time::timeout(Duration::from_millis(300), watch.changed()).await.is_err(), "state counted as an edit");
    }
}
