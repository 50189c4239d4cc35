//! Refuses a schema that belongs to another log: functions of another schema, rows of another log.

use eventstore_core::{Identity, StoreError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error, functions::functions, read, shared::Shared, sql::Sql};

/// Refuses a schema whose functions name another schema, as after a rename or a copy. The error is
/// [`StoreError::Schema`].
pub(crate) async fn check_functions(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let naming: Vec<_> = functions().into_iter().filter(|(_, one)| one.body.contains("{schema}.")).collect();
    let names: Vec<_> = naming.into_iter().map(|(name, _)| name).collect();
    let foreign = sqlx::query_scalar(sql.foreign_functions()).bind(names).fetch_optional(connection).await;
    let foreign: Option<String> = foreign.map_err(error::store)?;
    match foreign {
        None => Ok(()),
        Some(name) => Err(StoreError::Schema(format!(
            "function `{name}` of schema `{0}` works on another schema, so `{0}` was renamed or copied: give it its name \
             back, or create its functions again with the script of `PgOptions::functions_sql`",
            sql.schema()
        ))),
    }
}

/// Refuses to create a log in a schema that has rows of another log. Runs before anything is created. The error is
/// [`StoreError::Schema`].
pub(crate) async fn check_vacant(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let (has_note, is_log, _): (bool, bool, bool) =
        sqlx::query_as(sql.tables_of()).fetch_one(connection).await.map_err(error::store)?;
    match sql.tables() == sql.schema() && has_note && !is_log {
        true => Err(schema_error(sql, "it has the rows of another log")),
        false => Ok(()),
    }
}

/// Notes in the schema of rows that they belong to this log. Refuses a schema with rows of another log as
/// [`StoreError::Schema`]. A role without the right to write the note succeeds, since it cannot write rows either.
pub(crate) async fn claim_tables(shared: &Shared) -> Result<(), StoreError> {
    let sql = shared.sql();
    let apart = sql.tables() != sql.schema();
    let (has_note, is_log, writes): (bool, bool, bool) =
        sqlx::query_as(sql.tables_of()).fetch_one(&mut *shared.connection().await?).await.map_err(error::store)?;
    if apart && is_log {
        return Err(schema_error(sql, "it is the schema of another log"));
    }
    if !apart && !has_note {
        return Ok(());
    }
    let identity = match read::identity(&mut *shared.connection().await?, &shared.db).await {
        Err(error) if error::is_permission(&error) => {
            let lacks = format!("the right to read {}.identity, which the script of `roles_sql` grants", sql.schema());
            return Err(StoreError::Unmigrated { missing: vec![lacks] });
        }
        identity => identity?,
    };
    if has_note && is_noted(&mut *shared.connection().await?, sql, &identity).await? {
        return Ok(());
    }
    if !apart {
        return Err(schema_error(sql, "it has the rows of another log"));
    }
    if !writes {
        return Ok(());
    }
    match write_note(shared, &identity).await {
        // The role lacks the right, or the session is read-only.
        Err(error) if error::is_permission(&error) => Ok(()),
        has_note => has_note,
    }
}

/// Whether the note names this log and its present schema. A note of another log is [`StoreError::Schema`].
async fn is_noted(connection: &mut PgConnection, sql: &Sql, identity: &Identity) -> Result<bool, StoreError> {
    let note = sqlx::query_as(sql.note()).fetch_optional(connection).await.map_err(error::store)?;
    let note: Option<(Uuid, String, bool)> = note;
    let Some((log, schema, is_log)) = note else { return Ok(false) };
    if log != identity.id {
        return Err(schema_error(sql, &format!("it has the rows of log {log}, in schema `{schema}`")));
    }
    if schema != sql.schema() && is_log {
        return Err(schema_error(
            sql,
            &format!("it has the rows of the log in schema `{schema}`, of which this is a copy"),
        ));
    }
    // If the schemas differ, the schema of this log was renamed, and the note is to be written again.
    Ok(schema == sql.schema())
}

async fn write_note(shared: &Shared, identity: &Identity) -> Result<(), StoreError> {
    let sql = shared.sql();
    let mut transaction = shared.transaction().await?;
    let connection = transaction.connection();
    sqlx::query(sql.lock_note()).execute(&mut *connection).await.map_err(error::store)?;
    sqlx::query(sql.create_note()).execute(&mut *connection).await.map_err(error::store)?;
    let put = sqlx::query(sql.put_note()).bind(identity.id).bind(sql.schema());
    put.execute(&mut *connection).await.map_err(error::store)?;
    is_noted(connection, sql, identity).await?;
    transaction.commit().await
}

fn schema_error(sql: &Sql, why: &str) -> StoreError {
    let (schema, tables) = (sql.schema(), sql.tables());
    StoreError::Schema(format!(
        "the log in schema `{schema}` cannot keep rows in schema `{tables}`: {why}. Give each log a `tables_schema` of its own"
    ))
}
