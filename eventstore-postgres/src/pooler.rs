//! What stands between the store and its server, and how transactions begin there.

use eventstore_core::StoreError;
use sqlx::{Connection, Row, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::{connect::connect, error};

/// What stands between the store and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooler {
    /// Nothing.
    None,
    /// A pooler that keeps each client's prepared statements, whichever session it gives it: PgBouncer from 1.21 on.
    Keeping,
    /// A pooler that does not, or that gives each client a session: an older PgBouncer.
    Forgetful,
}

/// How the driver begins the names of prepared statements, as a pattern.
const NAMES: &str = "sqlx%";

impl Pooler {
    /// Looks what a URL leads to, by facts: a parameter that poolers do not hand on, and the name that a prepared
    /// statement has at the server. Gives the options for connections through it.
    pub(crate) async fn find(options: PgConnectOptions) -> Result<(Self, PgConnectOptions), StoreError> {
        let mark = Uuid::now_v7().to_string();
        // Without the pool: it would ask a server that is down again and again until its patience ends.
        match connect(&options.clone().options([("eventstore.session", &mark)])).await {
            Ok(mut connection) => {
                let found = sqlx::raw_sql(include_str!("../sql/session_mark.sql")).fetch_one(&mut connection).await;
                let found: Option<String> = found.and_then(|row| row.try_get(0)).map_err(error::store)?;
                // Not just dropped: there may be a limit of one connection.
                let _ = connection.close().await;
                if found.as_ref() == Some(&mark) {
                    return Ok((Self::None, options));
                }
            }
            // A protocol violation, or not supported: the parameter is not one it knows.
            Err(error) if error::is(&error, &["08P01", "0A000"]) => {}
            Err(error) => return Err(error::unreachable(&options, error)),
        }
        // The driver's own parameter that poolers do not know either. `begin_pooled` makes up for it.
        let options = options.extra_float_digits(None);
        let mut connection = connect(&options).await.map_err(|error| error::unreachable(&options, error))?;
        sqlx::raw_sql("BEGIN").execute(&mut connection).await.map_err(error::store)?;
        let look = sqlx::query_scalar(include_str!("../sql/session_statements.sql")).bind(NAMES);
        let pooler = match look.fetch_optional(&mut connection).await {
            Ok(Some(false)) => Self::Keeping,
            Ok(_) => Self::Forgetful,
            // There is a statement of that name, and it is not ours.
            Err(error) if error::is(&error, &["42P05"]) => Self::Forgetful,
            Err(error) => return Err(error::store(error)),
        };
        // Not dropped: the pooler would log it, and throw its session away.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut connection).await;
        let _ = connection.close().await;
        // No statement is used again, so none is taken for another's of the same name.
        Ok((pooler, if pooler == Self::Forgetful { options.statement_cache_capacity(0) } else { options }))
    }

    /// How a transaction begins; marked, if its connection may be lent.
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
