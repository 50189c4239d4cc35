//! Notices that the file of a store was moved, removed or replaced.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use eventstore_core::StoreError;

/// The file of a store, and its write-ahead log.
pub(crate) struct File {
    path: PathBuf,
    wal: PathBuf,
    opened: Mutex<OpenedIds>,
}

/// The identities of the two files when a connection had opened them. While a connection is open, SQLite removes
/// neither.
#[derive(Default)]
struct OpenedIds {
    file: Option<FileId>,
    /// `None` while no connection has it open, and for a read-only store without one.
    wal: Option<FileId>,
}

/// Device and inode, which identify a file under any name.
type FileId = (u64, u64);

impl File {
    /// Keeps the absolute path, since the working directory of the process may change.
    pub(crate) fn new(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wal = wal_path(&path);
        Self { path, wal, opened: Mutex::default() }
    }

    /// Returns the absolute path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the size of the write-ahead log in bytes; 0 if there is none.
    pub(crate) fn wal_bytes(&self) -> u64 {
        std::fs::metadata(&self.wal).map_or(0, |wal| wal.len())
    }

    fn opened(&self) -> MutexGuard<'_, OpenedIds> {
        // Nothing that can panic happens while it is held.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the identities of the files, unless they are known. Called once a transaction has begun, which has opened
    /// both.
    pub(crate) fn note_ids(&self) {
        let mut opened = self.opened();
        opened.file = opened.file.or_else(|| file_id(&self.path));
        opened.wal = opened.wal.or_else(|| file_id(&self.wal));
    }

    /// Forgets the write-ahead log after the connection that writes was closed: another process may remove it then and
    /// create another.
    pub(crate) fn forget_wal(&self) {
        self.opened().wal = None;
    }

    /// Fails with [`StoreError::Denied`] if a file was moved, removed or replaced. SQLite would go on with a file
    /// without a name, whose content is lost when the store is closed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let opened = self.opened();
        let is = |path: &Path, opened: Option<FileId>| opened.is_none() || file_id(path) == opened;
        let moved = match () {
            () if !is(&self.path, opened.file) => &self.path,
            () if !is(&self.wal, opened.wal) => &self.wal,
            () => return Ok(()),
        };
        let why = format!("`{}` was moved, removed or replaced: open the store again", moved.display());
        Err(StoreError::Denied(why.into()))
    }
}

/// Returns the path that SQLite gives to the write-ahead log of a file.
fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Other systems do not let an open file be moved or removed.
#[cfg(not(unix))]
fn file_id(_: &Path) -> Option<FileId> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    /// A folder for one test, which is removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("eventstore-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("the temporary folder can be written");
            Self(folder)
        }

        fn write(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, name).expect("the folder can be written");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn is_moved(file: &File) -> bool {
        matches!(file.check(), Err(StoreError::Denied(_)))
    }

    #[test]
    fn the_write_ahead_log_keeps_the_whole_name_of_the_file() {
        assert_eq!(wal_path(Path::new("/var/bank.v1.db")), Path::new("/var/bank.v1.db-wal"));
        assert_eq!(wal_path(Path::new("bank")), Path::new("bank-wal"));
    }

    #[test]
    fn a_file_that_has_taken_the_place_of_another_is_not_the_same() {
        let folder = Folder::new("replaced");
        let path = folder.write("bank.db");
        let file = File::new(&path);
        file.note_ids();
        assert!(file.check().is_ok());
        let other = folder.write("other.db");
        fs::rename(&other, &path).expect("it replaces the first");
        assert!(path.is_file() && is_moved(&file), "a file of that name exists, and is another one");
        file.note_ids();
        assert!(is_moved(&file), "what was noted first stays");
    }

    #[test]
    fn a_write_ahead_log_is_watched_from_when_it_is_noted_until_it_is_forgotten() {
        let folder = Folder::new("wal");
        let file = File::new(&folder.write("bank.db"));
        file.note_ids();
        let wal = folder.write("bank.db-wal");
        assert!(file.check().is_ok(), "there was none when the file was opened");
        file.note_ids();
        fs::remove_file(&wal).expect("it exists");
        assert!(is_moved(&file));
        file.forget_wal();
        assert!(file.check().is_ok(), "the last connection may have removed it");
        assert_eq!(file.wal_bytes(), 0);
    }
}
