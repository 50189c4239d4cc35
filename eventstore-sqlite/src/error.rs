//! What SQLite says, by what the caller can do about it.

use std::{error::Error, fmt, path::Path};

use eventstore_core::{Blame, BoxError, StoreError};

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

/// The primary result code.
fn code(error: &sqlx::Error) -> Option<i32> {
    let extended: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

pub(crate) fn busy(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(BUSY | LOCKED))
}

pub(crate) fn store(error: sqlx::Error) -> StoreError {
    match (code(&error), &error) {
        (Some(BUSY | LOCKED), _) => StoreError::Busy(error.into()),
        (Some(CORRUPT | NOTADB), _) => StoreError::Damaged(error.into()),
        (Some(CANTOPEN), _) => StoreError::Unavailable(error.into()),
        (Some(READONLY), _) => StoreError::Denied(error.into()),
        (_, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed) => {
            StoreError::Unavailable(error.into())
        }
        // Only what is in the file can be of a wrong type: every statement is prepared by a test.
        (_, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => StoreError::Damaged(error.into()),
        _ => StoreError::Database(error.into()),
    }
}

/// Who has caused an error that user code gives, if the driver's is somewhere below it. `docs/errors.md` has the table.
pub(crate) fn blame(error: &(dyn Error + 'static)) -> Option<Blame> {
    let mut below = Some(error);
    while let Some(error) = below {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return match (code(error), error) {
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
        below = error.source();
    }
    None
}

/// An error while a file is opened: names it, and says what is missing where SQLite does not.
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

/// An error while a row of a read model is written: a value that does not fit its column is the row's fault.
pub(crate) fn row(table: &str, error: sqlx::Error) -> StoreError {
    match code(&error) {
        Some(CONSTRAINT | MISMATCH) => StoreError::Row { table: table.into(), reason: error.into() },
        _ => store(error),
    }
}

pub(crate) fn damaged(source: impl Into<BoxError>) -> StoreError {
    StoreError::Damaged(source.into())
}
