//! Maps errors of PostgreSQL to what the caller can do about them, by SQLSTATE, never by message.

use std::{error::Error, io};

use eventstore_core::{Blame, BoxError, StoreError, engine::below};
use sqlx::postgres::PgConnectOptions;

use crate::sqlstate::{ErrorClass, classify};

/// Returns the SQLSTATE of an error of the server. <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn code_of(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether the server failed with one of these SQLSTATEs.
pub(crate) fn has_code(error: &sqlx::Error, states: &[&str]) -> bool {
    code_of(error).is_some_and(|code_of| states.contains(&&*code_of))
}

/// Whether the role lacks a right, or the session is read-only.
pub(crate) fn is_permission(error: &StoreError) -> bool {
    let below = error.reason().and_then(|reason| reason.downcast_ref());
    below.is_some_and(|below| has_code(below, &["42501", "25006"]))
}

/// Whether the connection broke after the statement was sent, so that its outcome is unknown.
pub(crate) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        // The server had closed the connection before the statement was sent.
        sqlx::Error::Io(error) => error.kind() != io::ErrorKind::BrokenPipe,
        sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => code_of(error).is_some_and(|code_of| classify(&code_of).1 == ErrorClass::Lost),
    }
}

/// Whether the connection cannot be used any more.
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    is_lost(error) || matches!(error, sqlx::Error::Io(_)) || has_code(error, &["25P03", "57P05"])
}

/// Whether the session has defaults that appends cannot use: another isolation level than READ COMMITTED, or read-only.
pub(crate) fn is_unsuitable_session(error: &sqlx::Error) -> bool {
    has_code(error, &["ES001", "25006"])
}

/// Whether no connection could be opened, because the server cannot be reached.
pub(crate) fn is_unreachable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
}

/// Maps an error of a statement to the error of the store. The caller handles errors after which the outcome is
/// unknown.
pub(crate) fn store(error: sqlx::Error) -> StoreError {
    let Some(code_of) = code_of(&error) else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::PoolTimedOut => StoreError::Unavailable(error.into()),
            sqlx::Error::PoolClosed => StoreError::Denied("it was closed".into()),
            // A value of a wrong type can only come from a damaged table, since a test prepares every statement.
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => StoreError::Damaged(error.into()),
            _ => StoreError::Database(error.into()),
        };
    };
    match classify(&code_of).1 {
        ErrorClass::Busy => StoreError::Busy(error.into()),
        ErrorClass::Unavailable | ErrorClass::Lost => StoreError::Unavailable(error.into()),
        ErrorClass::Denied => StoreError::Denied(error.into()),
        ErrorClass::Damaged => StoreError::Damaged(error.into()),
        ErrorClass::Rejected => StoreError::Database(error.into()),
    }
}

/// The error for a transaction that cannot begin as READ WRITE. Only a standby refuses that.
pub(crate) fn standby() -> StoreError {
    StoreError::Unavailable("the server is a standby, which takes no writes until it is promoted".into())
}

/// Returns who caused an error that user code returned, if an error of the driver is among its sources.
pub(crate) fn blame(error: &(dyn Error + 'static)) -> Option<Blame> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return match (code_of(error), error) {
                (Some(code_of), _) => Some(classify(&code_of).0),
                (None, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)) => Some(Blame::Server),
                (None, sqlx::Error::WorkerCrashed | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) => {
                    Some(Blame::Server)
                }
                // The row or column that user code asked for is missing or has another type.
                (None, _) => None,
            };
        }
        next = below(error);
    }
    None
}

/// The error for the first connection of a store. It names the server, the database and the user, without the password.
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
        // There is no such role, or the server demands TLS.
        false if has_code(&error, &["28000"]) && options.get_socket().is_none() => {
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

/// Maps an error of a statement that reads or writes the rows of a read model.
pub(crate) fn row(table: &str, error: sqlx::Error) -> StoreError {
    match code_of(&error) {
        Some(code_of) if code_of == "42P01" => StoreError::NotBuilt { table: table.into() },
        // A column or a comparison is missing, or a column is there that was missing: the columns of the table are not
        // those that the statement was made for.
        Some(code_of) if matches!(&*code_of, "42702" | "42703" | "42883") => {
            StoreError::Columns { table: table.into() }
        }
        // A value does not fit its column.
        Some(code_of) if classify(&code_of).0 == Blame::Row => {
            StoreError::Row { table: table.into(), reason: error.into() }
        }
        _ => store(error),
    }
}

/// The error for stored data that cannot be read.
pub(crate) fn damaged(source: impl Into<BoxError>) -> StoreError {
    StoreError::Damaged(source.into())
}

#[cfg(test)]
mod tests {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut};

    use super::*;

    fn io(kind: io::ErrorKind) -> sqlx::Error {
        io::Error::from(kind).into()
    }

    #[test]
    fn a_statement_that_was_not_sent_has_no_unknown_outcome() {
        assert!(is_lost(&io(ConnectionReset)) && is_lost(&io(TimedOut)), "it may have been done");
        assert!(is_lost(&sqlx::Error::Protocol("nonsense".into())) && is_lost(&sqlx::Error::WorkerCrashed));
        assert!(!is_lost(&io(BrokenPipe)), "the connection was closed before");
        assert!(!is_lost(&sqlx::Error::PoolTimedOut) && !is_lost(&sqlx::Error::RowNotFound));
        assert!(is_broken(&io(BrokenPipe)), "the connection is of no use all the same");
        assert!(!is_broken(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn an_error_without_a_code_is_mapped_by_what_the_caller_can_do() {
        assert!(matches!(store(io(ConnectionRefused)), StoreError::Unavailable(_)));
        assert!(matches!(store(sqlx::Error::PoolTimedOut), StoreError::Unavailable(_)));
        assert!(
            matches!(store(sqlx::Error::PoolClosed), StoreError::Denied(_)),
            "no retry opens a store that was closed"
        );
        assert!(matches!(store(sqlx::Error::Decode("not a uuid".into())), StoreError::Damaged(_)));
        assert!(matches!(store(sqlx::Error::RowNotFound), StoreError::Database(_)));
    }

    #[test]
    fn the_driver_is_blamed_for_an_error_of_user_code_only_if_it_is_among_the_sources() {
        #[derive(Debug)]
        struct Wrapped(Box<dyn Error + Send + Sync>);

        impl std::fmt::Display for Wrapped {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a row could not be written")
            }
        }

        impl Error for Wrapped {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&*self.0)
            }
        }

        assert_eq!(blame(&Wrapped(Box::new(io(ConnectionReset)))), Some(Blame::Server));
        assert_eq!(blame(&Wrapped("no money".into())), None);
        assert_eq!(blame(&sqlx::Error::RowNotFound), None, "user code asked for a row that is missing");
    }
}
