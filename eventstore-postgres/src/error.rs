//! What PostgreSQL says, by what the caller can do about it. By SQLSTATE, never by message.

use eventstore_core::{BoxError, StoreError};
use sqlx::postgres::PgConnectOptions;

/// The SQLSTATE, if the server said anything. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn state(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

pub(crate) fn is(error: &sqlx::Error, states: &[&str]) -> bool {
    state(error).is_some_and(|state| states.contains(&&*state))
}

/// Whether the connection is gone, so that nobody knows what became of the statement.
pub(crate) fn lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        // Connection exceptions, and the server shutting down.
        _ => state(error).is_some_and(|state| state.starts_with("08") || state.starts_with("57P0")),
    }
}

pub(crate) fn store(error: sqlx::Error) -> StoreError {
    if lost(&error) {
        return StoreError::Unavailable(error.into());
    }
    let Some(state) = state(&error) else {
        return match error {
            sqlx::Error::PoolTimedOut => StoreError::Unavailable(error.into()),
            sqlx::Error::PoolClosed => StoreError::Denied("it was closed".into()),
            // Only what is in the tables can be of a wrong type: every statement is prepared by a test.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreError::Damaged(error.into()),
            _ => StoreError::Database(error.into()),
        };
    };
    match &*state {
        // Serialization failure, deadlock, lock not available, query cancelled.
        "40001" | "40P01" | "55P03" | "57014" => StoreError::Busy(error.into()),
        // Too many connections.
        "53300" => StoreError::Unavailable(error.into()),
        // No such role or not from here, wrong password, no such database.
        "28000" | "28P01" | "3D000" => StoreError::Denied(error.into()),
        state if state.starts_with("XX") => StoreError::Damaged(error.into()),
        _ => StoreError::Database(error.into()),
    }
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
        Some(state) if state.starts_with("22") || state.starts_with("23") => {
            StoreError::Row { table: table.into(), source: error.into() }
        }
        _ => store(error),
    }
}

pub(crate) fn damaged(source: impl Into<BoxError>) -> StoreError {
    StoreError::Damaged(source.into())
}
