//! Whether the file a store has opened is still the one that has its name.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use eventstore_core::StoreError;

/// The file of a store, and the one beside it that has what was written last.
pub(crate) struct File {
    path: PathBuf,
    wal: PathBuf,
    /// What they were when the store was opened; the second is missing where it was opened read-only.
    opened: OnceLock<(Id, Option<Id>)>,
}

/// Device and inode: the same as long as it is the same file.
type Id = (u64, u64);

impl File {
    /// The path in full: the working directory of a process may change, and the file does not move with it.
    pub(crate) fn new(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wal = wal(&path);
        Self { path, wal, opened: OnceLock::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the write-ahead log, in bytes.
    pub(crate) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |wal| wal.len())
    }

    /// Notes what the files are: when the store has opened them. While a connection is open, SQLite removes neither.
    pub(crate) fn opened(&self) {
        if let Some(file) = id(&self.path) {
            self.opened.get_or_init(|| (file, id(&self.wal)));
        }
    }

    /// Fails if a file was moved, removed or replaced. SQLite would go on, with a file that has no name any more: what is
    /// written to it is gone when the store is closed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let Some((file, wal)) = self.opened.get() else { return Ok(()) };
        let same = |path: &Path, opened: Id| id(path) == Some(opened);
        let moved = match wal {
            _ if !same(&self.path, *file) => &self.path,
            Some(wal) if !same(&self.wal, *wal) => &self.wal,
            _ => return Ok(()),
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
