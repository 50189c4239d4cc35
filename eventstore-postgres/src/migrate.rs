//! Brings the schema to this version: one step after the other, each in the one transaction of the node that came first.

use eventstore_core::StoreError;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::{error, sql::Sql};

/// All steps ever released, in order. Steps are added, never edited.
const STEPS: &[&str] = &[include_str!("../migrations/001_log.sql")];

/// Whether nothing is left to do: asked without a lock, so that a role that may not make tables can start.
pub(crate) async fn up_to_date(connection: &mut PgConnection, sql: &Sql) -> Result<bool, StoreError> {
    let migrated: bool = sqlx::query_scalar(sql.migrated()).fetch_one(&mut *connection).await.map_err(error::store)?;
    Ok(migrated && applied(connection, sql).await? == STEPS.len())
}

/// Runs in a transaction of the caller's; a step that fails leaves nothing behind.
pub(crate) async fn migrate(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let lock = sqlx::query(sql.lock_migrations()).bind(sql.schema());
    lock.execute(&mut *connection).await.map_err(error::store)?;
    sqlx::query(sql.create_schema()).execute(&mut *connection).await.map_err(error::store)?;
    sqlx::query(sql.migrations()).execute(&mut *connection).await.map_err(error::store)?;
    let applied = applied(connection, sql).await?;
    for (step, version) in STEPS.iter().zip(1_i32..).skip(applied) {
        let text = step.replace("{schema}", sql.schema());
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *connection).await.map_err(error::store)?;
        let apply = sqlx::query(sql.apply()).bind(version).bind(checksum_of(step));
        apply.execute(&mut *connection).await.map_err(error::store)?;
    }
    Ok(())
}

/// How many steps have been applied, if they are those of this program.
async fn applied(connection: &mut PgConnection, sql: &Sql) -> Result<usize, StoreError> {
    let applied: Vec<(i32, Uuid)> = sqlx::query_as(sql.applied()).fetch_all(connection).await.map_err(error::store)?;
    for ((version, checksum), expected) in applied.iter().zip(1..) {
        match STEPS.get(expected - 1) {
            Some(step) if usize::try_from(*version) == Ok(expected) && *checksum == checksum_of(step) => {}
            Some(_) => return Err(StoreError::Schema(format!("migration {version} is not the one it was"))),
            None => return Err(StoreError::Schema(format!("it has migration {version}, made by a newer program"))),
        }
    }
    Ok(applied.len())
}

fn checksum_of(step: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, step.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_steps_are_never_edited() {
        let checksums: Vec<_> = STEPS.iter().map(|step| checksum_of(step).to_string()).collect();
        assert_eq!(checksums, ["f543d74b-0dfc-541e-b0f9-9202b1a432fe"]);
    }
}
