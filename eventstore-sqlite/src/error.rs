//! Maps errors of SQLite to what the caller can do about them, by result code.

use std::{error::Error, fmt, path::Path};

use eventstore_core::{Blame, BoxError, StoreError, engine::below};

// https://www.sqlite.org/rescode.html
const PERM: i32 = 3;
const ABORT: i32 = 4;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const NOMEM: i32 = 7;
const READONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const SCHEMA: i32 = 17;
const CONSTRAINT: i32 = 19;
const MISMATCH: i32 = 20;
const MISUSE: i32 = 21;
const AUTH: i32 = 23;
const RANGE: i32 = 25;
const NOTADB: i32 = 26;
/// The commit hook refused.
const CONSTRAINT_COMMITHOOK: i32 = CONSTRAINT | 2 << 8;

/// Returns the extended result code.
fn extended(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// Returns the primary result code.
fn code(error: &sqlx::Error) -> Option<i32> {
    extended(error).map(|code| code & 0xff)
}

/// Whether another connection holds a lock.
pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

/// Maps an error of a statement to the error of the store.
pub(crate) fn store(error: sqlx::Error) -> StoreError {
    match (code(&error), &error) {
        (Some(BUSY | LOCKED | PROTOCOL), _) => StoreError::Busy(error.into()),
        (Some(CORRUPT | NOTADB), _) => StoreError::Damaged(error.into()),
        // The disk is full or fails, or memory is short. SQLite has rolled back the statement or the whole transaction,
        // and the same succeeds once there is room.
        (Some(CANTOPEN | FULL | IOERR | NOMEM), _) => StoreError::Unavailable(error.into()),
        (Some(READONLY | PERM), _) => StoreError::Denied(error.into()),
        (_, sqlx::Error::PoolClosed) => closed(),
        (_, sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed) => StoreError::Unavailable(error.into()),
        // A value of a wrong type can only come from a damaged file, since a test prepares every statement.
        (_, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => StoreError::Damaged(error.into()),
        _ => StoreError::Database(error.into()),
    }
}

/// Returns who caused an error that user code returned, if an error of the driver is among its sources.
/// `docs/errors.md` has the table.
pub(crate) fn blame(error: &(dyn Error + 'static)) -> Option<Blame> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return match (code(error), error) {
                _ if extended(error) == Some(CONSTRAINT_COMMITHOOK) => Some(Blame::Program),
                (Some(BUSY | LOCKED | PROTOCOL | FULL | IOERR | NOMEM | CANTOPEN), _) => Some(Blame::Server),
                (Some(READONLY | PERM | CORRUPT | NOTADB | INTERRUPT | ABORT), _) => Some(Blame::Server),
                (Some(SCHEMA | MISUSE | AUTH | RANGE), _) => Some(Blame::Program),
                (Some(_), _) => Some(Blame::Row),
                (None, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
                    Some(Blame::Server)
                }
                (None, _) => None,
            };
        }
        next = below(error);
    }
    None
}

/// Maps an error of a COMMIT.
pub(crate) fn commit(error: sqlx::Error) -> StoreError {
    match (extended(&error), code(&error)) {
        (Some(CONSTRAINT_COMMITHOOK), _) => StoreError::Ended,
        // The whole transaction may be in the write-ahead log, since a failed flush does not say what is on disk. After
        // a crash, the next program that opens the file may find it committed.
        (_, Some(IOERR)) => StoreError::Unknown(error.into()),
        _ if matches!(error, sqlx::Error::WorkerCrashed) => StoreError::Unknown(error.into()),
        _ => store(error),
    }
}

/// The error of every operation after the store was closed.
pub(crate) fn closed() -> StoreError {
    StoreError::Denied("it was closed".into())
}

/// Adds the file to an error of opening it, and the reason where SQLite does not say it.
pub(crate) fn opening(file: &Path, error: StoreError) -> StoreError {
    let named = |why: &dyn fmt::Display| BoxError::from(format!("`{}`: {why}", file.display()));
    match error {
        StoreError::Unavailable(error) => StoreError::Denied(match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => named(&"its folder is not there"),
            _ if file.is_dir() => named(&"it is a folder"),
            _ if !file.exists() => named(&"there is no such file"),
            _ => named(&error),
        }),
        StoreError::Denied(error) => StoreError::Denied(named(&error)),
        StoreError::Damaged(error) => StoreError::Damaged(named(&error)),
        error => error,
    }
}

/// Maps an error of writing a row of a read model. A value that does not fit its column is [`StoreError::Row`].
pub(crate) fn row(table: &str, error: sqlx::Error) -> StoreError {
    match code(&error) {
        Some(CONSTRAINT | MISMATCH) => StoreError::Row { table: table.into(), reason: error.into() },
        _ => store(error),
    }
}

/// The error for stored data that cannot be read.
pub(crate) fn damaged(source: impl Into<BoxError>) -> StoreError {
    StoreError::Damaged(source.into())
}
