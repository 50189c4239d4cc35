//! Detects a pooler between the store and the server, and says how transactions begin through it.

use eventstore_core::StoreError;
use sqlx::{Connection, Row, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{connect::connect, error};

/// What is between the store and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooler {
    /// Nothing: a connection is a session.
    None,
    /// A pooler that keeps the prepared statements of each client across sessions: PgBouncer 1.21 and later.
    Keeping,
    /// A pooler that does not, such as an older PgBouncer.
    Forgetful,
}

/// The LIKE pattern of the names that the driver gives to prepared statements.
const STATEMENT_NAMES: &str = "sqlx%";

impl Pooler {
    /// Finds out what the options lead to, and returns the options for connections through it. Two facts decide:
    /// whether a start parameter reaches the session, and which name a prepared statement has at the server.
    ///
    /// The error of the first connection names the server: [`StoreError::Denied`] or [`StoreError::Unavailable`].
    pub(crate) async fn find(options: PgConnectOptions) -> Result<(Self, PgConnectOptions), StoreError> {
        let mark = Uuid::now_v7().to_string();
        // Without the pool, which would retry a server that is down until its time-out.
        match connect(&options.clone().options([("eventstore.session", &mark)])).await {
            Ok(mut connection) => {
                let found = sqlx::raw_sql(include_str!("../sql/session_mark.sql")).fetch_one(&mut connection).await;
                let found: Option<String> = found.and_then(|row| row.try_get(0)).map_err(error::store)?;
                // Closed and waited for: the role may have a limit of one connection.
                let _ = connection.close().await;
                if found.as_ref() == Some(&mark) {
                    return Ok((Self::None, options));
                }
            }
            // Protocol violation, or feature not supported: a pooler that does not know the parameter.
            Err(error) if error::has_code(&error, &["08P01", "0A000"]) => {}
            Err(error) => return Err(error::unreachable(&options, error)),
        }
        // The driver sets another parameter that poolers do not know. `begin_pooled` sets it in each transaction
        // instead.
        let options = options.extra_float_digits(None);
        let mut connection = connect(&options).await.map_err(|error| error::unreachable(&options, error))?;
        sqlx::raw_sql(include_str!("../sql/probe_begin.sql")).execute(&mut connection).await.map_err(error::store)?;
        let own_statement = sqlx::query_scalar(include_str!("../sql/session_statements.sql")).bind(STATEMENT_NAMES);
        let pooler = match own_statement.fetch_optional(&mut connection).await {
            Ok(Some(false)) => Self::Keeping,
            Ok(_) => Self::Forgetful,
            // The session has a statement of another client under this name.
            Err(error) if error::has_code(&error, &["42P05"]) => Self::Forgetful,
            Err(error) => return Err(error::store(error)),
        };
        // Closed, not dropped: the pooler would log the drop and close its session to the server.
        let _ = sqlx::raw_sql(include_str!("../sql/probe_end.sql")).execute(&mut connection).await;
        let _ = connection.close().await;
        // Without the cache no statement is used again, so none is mistaken for another client's of the same name.
        Ok((pooler, if pooler == Self::Forgetful { options.statement_cache_capacity(0) } else { options }))
    }

    /// Returns the statements that begin a transaction. `marked` transactions can tell whether they are still the same
    /// one after their connection was lent.
    pub(crate) fn begin(self, marked: bool) -> &'static str {
        const BEGIN: &str = include_str!("../sql/begin.sql");
        const POOLED: &str = include_str!("../sql/begin_pooled.sql");
        match (self, marked) {
            (Self::None | Self::Keeping, false) => BEGIN,
            (Self::None | Self::Keeping, true) => {
                concat!(include_str!("../sql/begin.sql"), ";\n", include_str!("../sql/mark.sql"))
            }
            (Self::Forgetful, false) => POOLED,
            (Self::Forgetful, true) => {
                concat!(include_str!("../sql/begin_pooled.sql"), ";\n", include_str!("../sql/mark.sql"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Pooler; 3] = [Pooler::None, Pooler::Keeping, Pooler::Forgetful];

    /// The statements, without comments.
    fn statements(sql: &str) -> Vec<String> {
        let lines = sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join(" ");
        lines
            .split(';')
            .map(|statement| statement.trim().to_owned())
            .filter(|statement| !statement.is_empty())
            .collect()
    }

    #[test]
    fn every_transaction_names_its_isolation_and_access() {
        for (pooler, marked) in ALL.into_iter().flat_map(|pooler| [(pooler, false), (pooler, true)]) {
            let statements = statements(pooler.begin(marked));
            assert_eq!(statements[0], "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", "{pooler:?}, {marked}");
        }
    }

    #[test]
    fn only_a_transaction_whose_connection_may_be_lent_is_marked() {
        for pooler in ALL {
            let (plain, marked) = (statements(pooler.begin(false)), statements(pooler.begin(true)));
            assert!(!plain.iter().any(|statement| statement.contains("eventstore.transaction")), "{plain:?}");
            // The mark is a statement of its own: without a semicolon in between, it would be lost in the one before.
            assert_eq!(marked[..plain.len()], plain);
            assert_eq!(marked.len(), plain.len() + 1, "{marked:?}");
            assert!(marked[plain.len()].starts_with("SELECT set_config('eventstore.transaction', 'open', true)"));
        }
    }

    #[test]
    fn only_behind_a_pooler_that_forgets_are_the_statements_of_others_removed() {
        let deallocates = |pooler: Pooler| statements(pooler.begin(false)).contains(&"DEALLOCATE ALL".into());
        assert_eq!(ALL.map(deallocates), [false, false, true]);
    }
}
