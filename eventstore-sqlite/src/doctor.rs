//! Examines the file and where it is, and reports what is unsafe or slow about them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use eventstore_core::{StoreError, doctor::Report, testing::Clock};
use sqlx::SqliteConnection;

use crate::{error, file::File, migrate::SOURCES, read};

/// Clocks that differ by no more count as equal.
const CLOCK: Duration = Duration::from_secs(1);

/// Network file systems, whose locks are not reliable.
const NETWORK_FILE_SYSTEMS: &[&str] =
    &["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "ceph"];

/// The largest size of a write-ahead log that is no warning, in bytes. SQLite empties it at about 4 MB, unless a reader
/// prevents it.
const WAL_BYTES: u64 = 64 << 20;

/// Reports the settings of the connection that writes.
pub(crate) async fn writer(connection: &mut SqliteConnection, report: &mut Report) -> Result<(), StoreError> {
    let write = sqlx::query(include_str!("../sql/doctor_write.sql")).execute(&mut *connection).await;
    match write.map_err(error::store) {
        Ok(_) => report.ok("access", "the file can be written"),
        Err(StoreError::Denied(_)) => report.danger(
            "access",
            "the file is read-only: nothing can be appended",
            "Open it without `mode=ro` and `immutable`, as a user that may write to the file and its folder.",
        ),
        Err(error) => return Err(error),
    }
    let synchronous: i64 = setting(connection, include_str!("../sql/synchronous.sql")).await?;
    match synchronous {
        2.. => report.ok("synchronous", "FULL: an acknowledged append is on the disk"),
        other => report.danger(
            "synchronous",
            format!("{other}: a crash of the machine may lose acknowledged appends"),
            "This library sets it to FULL; report how it became something else as a bug.",
        ),
    }
    let journal: String = setting(connection, include_str!("../sql/journal_mode.sql")).await?;
    match &*journal {
        "wal" => report.ok("journal_mode", "wal"),
        other => report.warning(
            "journal_mode",
            format!("{other}: readers and the writer wait for each other"),
            "Another program changed it, or the file system cannot share memory: open the store again.",
        ),
    }
    Ok(())
}

/// Reports how much of the log is in the write-ahead log instead of the file.
pub(crate) fn wal(file: &File, report: &mut Report) {
    let bytes = file.wal_bytes();
    let found = format!("{} kB beside the file in its `-wal`: a copy of the one file lacks them", bytes.div_ceil(1024));
    match bytes {
        0 => report.ok("wal", "everything is in the file"),
        1..=WAL_BYTES => report.ok("wal", found),
        _ => report.warning(
            "wal",
            found,
            "A reader has been open for long, in this process or another: find it, or restart the programs.",
        ),
    }
}

/// Reports the content of the file, and the file system. Reads the whole file.
pub(crate) async fn file(
    reader: &mut SqliteConnection,
    path: &Path,
    clock: &Clock,
    report: &mut Report,
) -> Result<(), StoreError> {
    let version: String = setting(reader, include_str!("../sql/sqlite_version.sql")).await?;
    report.ok("sqlite", format!("SQLite {version}"));
    let checked = sqlx::query_scalar(include_str!("../sql/quick_check.sql")).fetch_all(&mut *reader).await;
    let problems: Vec<String> = match checked.map_err(error::store) {
        Err(StoreError::Damaged(error)) => vec![error.to_string()],
        checked => checked?,
    };
    if problems != ["ok"] {
        report.danger("integrity", problems.join("; "), "The file is damaged: restore it from a backup.");
        return Ok(());
    }
    report.ok("integrity", "quick_check finds nothing");
    let stored = sqlx::query_as(include_str!("../sql/triggers.sql")).fetch_all(&mut *reader).await;
    check_guard(report, stored.map_err(error::store)?);
    let log = sqlx::query_as(include_str!("../sql/doctor.sql")).fetch_one(&mut *reader).await;
    let (events, head): (i64, i64) = log.map_err(error::store)?;
    match events == head {
        true => report.ok("positions", format!("the head is {head}, and no position is missing")),
        false => report.danger(
            "positions",
            format!("{events} events up to position {head}: some are missing"),
            "Events were deleted: compare with a backup, restore.",
        ),
    }
    // Read after the head, so that no event appended meanwhile counts as stamped ahead of the clock.
    let over = read::prefix_at(reader, clock.now() + CLOCK).await?.position;
    report.stamps(over, read::position(head)?);
    match file_system(path) {
        Some(kind) if NETWORK_FILE_SYSTEMS.contains(&&*kind) => report.danger(
            "file_system",
            format!("{kind}: a network file system, where locks and shared memory are not reliable"),
            "Move the file to a disk of this machine.",
        ),
        Some(kind) => report.ok("file_system", kind),
        None => {}
    }
    Ok(())
}

/// Compares the triggers of the log with those the migrations made.
fn check_guard(report: &mut Report, stored: Vec<(String, String)>) {
    let expected = triggers();
    let mut stored: BTreeMap<_, _> = stored.into_iter().collect();
    let mut wrong: Vec<_> = expected
        .iter()
        .filter_map(|(name, sql)| match stored.remove(*name) {
            Some(found_sql) if found_sql == *sql => None,
            Some(_) => Some(format!("trigger {name} was replaced")),
            None => Some(format!("trigger {name} is gone")),
        })
        .collect();
    wrong.extend(stored.into_keys().map(|name| format!("trigger {name} is not of this library")));
    match wrong.is_empty() {
        true => report.ok("guard", "UPDATE, DELETE and REPLACE of events, their types and their tags are refused"),
        false => report.danger(
            "guard",
            wrong.join("; "),
            "Find out who changed it, and what was changed in the log: compare with a backup.",
        ),
    }
}

/// Returns the triggers that the migrations leave, by name, each as `sqlite_schema` has it.
fn triggers() -> BTreeMap<&'static str, &'static str> {
    let mut triggers = BTreeMap::new();
    for step in SOURCES {
        let mut rest = step.sql;
        while let Some((_, after)) = rest.split_once("TRIGGER ") {
            let is_created = rest[..rest.len() - after.len()].ends_with("CREATE TRIGGER ");
            let name = after.split([' ', ';']).next().unwrap_or_default();
            let start = rest.len() - after.len() - "CREATE TRIGGER ".len();
            let length = if is_created { rest[start..].find("END;").map(|end| end + "END".len()) } else { None };
            match length {
                Some(length) => triggers.insert(name, &rest[start..][..length]),
                None => triggers.remove(name),
            };
            rest = after;
        }
    }
    triggers
}

/// Reads one value.
async fn setting<T>(connection: &mut SqliteConnection, sql: &'static str) -> Result<T, StoreError>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(error::store)
}

/// Returns the kind of file system that a file is on; `None` on systems other than Linux.
fn file_system(path: &Path) -> Option<String> {
    let path: PathBuf = path.canonicalize().ok()?;
    kind_of(&path, &std::fs::read_to_string("/proc/self/mounts").ok()?)
}

/// Looks up the kind of file system in a list of mounts, `device folder kind …`: the longest folder that contains the
/// path decides, and of equal ones the last.
fn kind_of(path: &Path, mounts: &str) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // The list writes a space as \040.
        Some((words.next()?.replace("\\040", " "), words.next()?))
    });
    let over = mounts.filter(|(folder, _)| path.starts_with(folder));
    over.max_by_key(|(folder, _)| folder.len()).map(|(_, kind)| kind.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_triggers_are_those_of_the_migrations() {
        let triggers = triggers();
        assert_eq!(triggers.len(), 9, "{triggers:?}");
        for (name, sql) in triggers {
            assert!(sql.starts_with(&format!("CREATE TRIGGER {name} BEFORE ")) && sql.ends_with("END"), "{sql}");
        }
    }

    #[test]
    fn a_file_is_on_the_file_system_with_the_longest_folder() {
        let mounts = "overlay / overlay rw 0 0\nhost:/x /mnt/my\\040data nfs4 rw 0 0\n/dev/sda1 /mnt ext4 rw 0 0\n";
        let kind = |path| kind_of(Path::new(path), mounts);
        assert_eq!(kind("/srv/bank.db").as_deref(), Some("overlay"));
        assert_eq!(kind("/mnt/my data/bank.db").as_deref(), Some("nfs4"));
        assert_eq!(kind("/mnt/my/bank.db").as_deref(), Some("ext4"));
    }
}
