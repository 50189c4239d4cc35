//! What PostgreSQL says, by what the caller can do about it. By SQLSTATE, never by message.

use std::{error::Error, io};

use eventstore_core::{__private::below, Blame, BoxError, StoreError};
use sqlx::postgres::PgConnectOptions;

use crate::sqlstate::{Told, meaning};

/// The SQLSTATE, if the server said anything. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn state(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

pub(crate) fn is(error: &sqlx::Error, states: &[&str]) -> bool {
    state(error).is_some_and(|state| states.contains(&&*state))
}

/// Whether the role may not do it, or the session only reads.
pub(crate) fn may_not(error: &StoreError) -> bool {
    let below = error.reason().and_then(|reason| reason.downcast_ref());
    below.is_some_and(|below| is(below, &["42501", "25006"]))
}

/// Whether the connection is gone, perhaps after what was sent was done.
pub(crate) fn lost(error: &sqlx::Error) -> bool {
    match error {
        // Its end of the connection was closed before this was sent.
        sqlx::Error::Io(error) => error.kind() != io::ErrorKind::BrokenPipe,
        sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => state(error).is_some_and(|state| meaning(&state).1 == Told::Lost),
    }
}

/// Whether the connection is of no more use.
pub(crate) fn broken(error: &sqlx::Error) -> bool {
    lost(error) || matches!(error, sqlx::Error::Io(_)) || is(error, &["25P03", "57P05"])
}

/// Whether the session is one that appends cannot use: at another isolation level than READ COMMITTED, or read-only.
pub(crate) fn odd(error: &sqlx::Error) -> bool {
    is(error, &["ES001", "25006"])
}

/// Whether no connection could be opened, because the server is not there.
pub(crate) fn refused(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
}

pub(crate) fn store(error: sqlx::Error) -> StoreError {
    let Some(state) = state(&error) else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::PoolTimedOut => StoreError::Unavailable(error.into()),
            sqlx::Error::PoolClosed => StoreError::Denied("it was closed".into()),
            // Only what is in the tables can be of a wrong type: every statement is prepared by a test.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreError::Damaged(error.into()),
            _ => StoreError::Database(error.into()),
        };
    };
    match meaning(&state).1 {
        Told::Busy => StoreError::Busy(error.into()),
        Told::Unavailable | Told::Lost => StoreError::Unavailable(error.into()),
        Told::Denied => StoreError::Denied(error.into()),
        Told::Damaged => StoreError::Damaged(error.into()),
        Told::Rejected => StoreError::Database(error.into()),
    }
}

/// A transaction that may write cannot be begun: the only server that says so is a standby.
pub(crate) fn standby() -> StoreError {
    StoreError::Unavailable("the server is a standby, which takes no writes until it is promoted".into())
}

/// Who has caused an error that user code gives, if the driver's is somewhere below it.
pub(crate) fn blame(error: &(dyn Error + 'static)) -> Option<Blame> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return match (state(error), error) {
                (Some(state), _) => Some(meaning(&state).0),
                (None, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)) => Some(Blame::Server),
                (None, sqlx::Error::WorkerCrashed | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => {
                    Some(Blame::Server)
                }
                // What was asked for is not there, or is of another type.
                (None, _) => None,
            };
        }
        next = below(error);
    }
    None
}

/// Whatever stops the first connection is about the server or the way to it: says which, without the password.
pub(crate) fn unreachable(options: &PgConnectOptions, error: sqlx::Error) -> StoreError {
    let user = options.get_username();
    let database = options.get_database().unwrap_or(user);
    let server = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let tls = matches!(error, sqlx::Error::Tls(_));
    let hint = match cfg!(feature = "tls") {
        false if tls => "; build with the feature `tls` of eventstore",
        // No such role; or not without TLS.
        false if is(&error, &["28000"]) && options.get_socket().is_none() => {
            "; if it wants TLS, build with the feature `tls` of eventstore"
        }
        _ => "",
    };
    let said = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let why = format!("database `{database}` at {server} as `{user}`: {said}{hint}").into();
    match store(error) {
        StoreError::Denied(_) => StoreError::Denied(why),
        _ if tls => StoreError::Denied(why),
        StoreError::Busy(_) => StoreError::Busy(why),
        _ => StoreError::Unavailable(why),
    }
}

/// An error while the rows of a read model are read or written.
pub(crate) fn row(table: &str, error: sqlx::Error) -> StoreError {
    match state(&error) {
        Some(state) if state == "42P01" => StoreError::NotBuilt { table: table.into() },
        // No such column, or no such comparison: the statement is right where the columns are those of the read model.
        Some(state) if state == "42703" || state == "42883" => StoreError::Columns { table: table.into() },
        // A value that does not fit its column.
        Some(state) if meaning(&state).0 == Blame::Row => StoreError::Row { table: table.into(), reason: error.into() },
        _ => store(error),
    }
}

pub(crate) fn damaged(source: impl Into<BoxError>) -> StoreError {
    StoreError::Damaged(source.into())
}
