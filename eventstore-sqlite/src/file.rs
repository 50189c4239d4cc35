//! Whether the file a store has opened is still the one that has its name.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use eventstore_core::StoreError;

/// The file of a store, and the one beside it that has what was written last.
pub(crate) struct File {
    path: PathBuf,
    wal: PathBuf,
    opened: Mutex<Opened>,
}

/// What the two files were when a connection had opened them. While one is open, SQLite removes neither.
#[derive(Default)]
struct Opened {
    file: Option<Id>,
    /// None while no connection has it open, and where the store is read-only and there is none.
    wal: Option<Id>,
}

/// Device and inode: the same as long as it is the same file.
type Id = (u64, u64);

impl File {
    /// The path in full: the working directory of a process may change, and the file does not move with it.
    pub(crate) fn new(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wal = wal(&path);
        Self { path, wal, opened: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the write-ahead log, in bytes.
    pub(crate) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |wal| wal.len())
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        // Nothing that can panic happens while it is held.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the files are, unless that is known: once a transaction has begun.
    pub(crate) fn note(&self) {
        let mut opened = self.opened();
        opened.file = opened.file.or_else(|| id(&self.path));
        opened.wal = opened.wal.or_else(|| id(&self.wal));
    }

    /// The connection that writes was closed: another process may remove the write-ahead log, and make another.
    pub(crate) fn forget_wal(&self) {
        self.opened().wal = None;
    }

    /// Fails if a file was moved, removed or replaced. SQLite would go on, with a file that has no name any more: what is
    /// written to it is gone when the store is closed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let opened = self.opened();
        let is = |path: &Path, opened: Option<Id>| opened.is_none() || id(path) == opened;
        let moved = match () {
            () if !is(&self.path, opened.file) => &self.path,
            () if !is(&self.wal, opened.wal) => &self.wal,
            () => return Ok(()),
        };
        let why = format!("`{}` was moved, removed or replaced: open the store again", moved.display());
        Err(StoreError::Denied(why.into()))
    }
}

/// The name SQLite gives to the write-ahead log of a file.
fn wal(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(unix)]
fn id(path: &Path) -> Option<Id> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Elsewhere the system keeps a file that is open from being moved or removed.
#[cfg(not(unix))]
fn id(_: &Path) -> Option<Id> {
    None
}
