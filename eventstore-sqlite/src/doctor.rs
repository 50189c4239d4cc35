//! Looks at the file and where it is: is this a safe place for events?

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use eventstore_core::{StoreError, doctor::Report, testing::Clock};
use sqlx::SqliteConnection;

use crate::{error, file::File, migrate::STEPS, read};

/// Clocks that differ by less are as good as the same.
const CLOCK: Duration = Duration::from_secs(1);

/// File systems of other machines, whose locks cannot be relied on.
const ELSEWHERE: &[&str] = &["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "ceph"];

/// A write-ahead log above this size is not emptied as it should be: SQLite does so at about 4 MB.
const WAL_BYTES: u64 = 64 << 20;

/// What only the connection that writes knows of itself.
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
    let synchronous: i64 = pragma(connection, "PRAGMA synchronous").await?;
    match synchronous {
        2.. => report.ok("synchronous", "FULL: an acknowledged append is on the disk"),
        other => report.danger(
            "synchronous",
            format!("{other}: a crash of the machine may lose acknowledged appends"),
            "This library sets it to FULL; tell us how it became something else.",
        ),
    }
    let journal: String = pragma(connection, "PRAGMA journal_mode").await?;
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

/// How much of what was recorded is not in the file itself.
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

/// What is in the file; reads all of it.
pub(crate) async fn file(
    reader: &mut SqliteConnection,
    path: &Path,
    clock: &Clock,
    report: &mut Report,
) -> Result<(), StoreError> {
    let version: String = pragma(reader, "SELECT sqlite_version()").await?;
    report.ok("sqlite", format!("SQLite {version}"));
    let checked = sqlx::query_scalar("PRAGMA quick_check(5)").fetch_all(&mut *reader).await;
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
    guard(report, stored.map_err(error::store)?);
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
    // Asked after the head: what is appended meanwhile is stamped ahead of nothing.
    let over = read::prefix_at(reader, clock.now() + CLOCK).await?.position;
    report.stamps(over, read::position(head)?);
    match file_system(path) {
        Some(kind) if ELSEWHERE.contains(&&*kind) => report.danger(
            "file_system",
            format!("{kind}: another machine's, where locks and shared memory cannot be relied on"),
            "Move the file to a disk of this machine.",
        ),
        Some(kind) => report.ok("file_system", kind),
        None => {}
    }
    Ok(())
}

/// Compares the triggers of the log with those the migrations made.
fn guard(report: &mut Report, stored: Vec<(String, String)>) {
    let expected = triggers();
    let mut stored: BTreeMap<_, _> = stored.into_iter().collect();
    let mut wrong: Vec<_> = expected
        .iter()
        .filter_map(|(name, sql)| match stored.remove(*name) {
            Some(there) if there == *sql => None,
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

/// The triggers that the migrations leave, by name, each as SQLite keeps it.
fn triggers() -> BTreeMap<&'static str, &'static str> {
    let mut triggers = BTreeMap::new();
    for step in STEPS {
        let mut rest = step.sql;
        while let Some((_, after)) = rest.split_once("TRIGGER ") {
            let made = rest[..rest.len() - after.len()].ends_with("CREATE TRIGGER ");
            let name = after.split([' ', ';']).next().unwrap_or_default();
            let start = rest.len() - after.len() - "CREATE TRIGGER ".len();
            let length = if made { rest[start..].find("END;").map(|end| end + "END".len()) } else { None };
            match length {
                Some(length) => triggers.insert(name, &rest[start..][..length]),
                None => triggers.remove(name),
            };
            rest = after;
        }
    }
    triggers
}

async fn pragma<T>(connection: &mut SqliteConnection, sql: &'static str) -> Result<T, StoreError>
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    sqlx::query_scalar(sql).fetch_one(connection).await.map_err(error::store)
}

/// The kind of file system a file is on, where the system says so (Linux).
fn file_system(path: &Path) -> Option<String> {
    let path: PathBuf = path.canonicalize().ok()?;
    kind_of(&path, &std::fs::read_to_string("/proc/self/mounts").ok()?)
}

/// By the list of mounts: `device folder kind …`, the last one that holds the path with the longest folder.
fn kind_of(path: &Path, mounts: &str) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        // Spaces are written as \040.
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
