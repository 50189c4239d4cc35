//! Whose rows and whose functions: a log works on its own schema, and on rows of its own.

use eventstore_core::{Identity, StoreError};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{error, functions::functions, read, shared::Shared, sql::Sql};

/// Refuses a schema whose functions work on another one: it was renamed, or copied from another.
pub(crate) async fn own_functions(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let naming: Vec<_> = functions().into_iter().filter(|(_, one)| one.body.contains("{schema}.")).collect();
    let names: Vec<_> = naming.into_iter().map(|(name, _)| name).collect();
    let foreign = sqlx::query_scalar(sql.foreign_functions()).bind(names).fetch_optional(connection).await;
    let foreign: Option<String> = foreign.map_err(error::store)?;
    match foreign {
        None => Ok(()),
        Some(name) => Err(StoreError::Schema(format!(
            "function `{name}` of schema `{0}` works on another schema, so `{0}` was renamed or copied: give it its name \
             back, or make its functions anew with the script of `PgOptions::functions_sql`",
            sql.schema()
        ))),
    }
}

/// Refuses a schema to make a log in that has the rows of another one. Before anything is made.
pub(crate) async fn vacant(connection: &mut PgConnection, sql: &Sql) -> Result<(), StoreError> {
    let (noted, is_log, _): (bool, bool, bool) =
        sqlx::query_as(sql.tables_of()).fetch_one(connection).await.map_err(error::store)?;
    match sql.tables() == sql.schema() && noted && !is_log {
        true => Err(refused(sql, "it has the rows of another log")),
        false => Ok(()),
    }
}

/// Notes in the schema of rows that they are of this log, and refuses a schema with the rows of another one. A role that
/// may not write there writes no rows either.
pub(crate) async fn own_tables(shared: &Shared) -> Result<(), StoreError> {
    let sql = shared.sql();
    let apart = sql.tables() != sql.schema();
    let (noted, is_log, writes): (bool, bool, bool) =
        sqlx::query_as(sql.tables_of()).fetch_one(&mut *shared.connection().await?).await.map_err(error::store)?;
    if apart && is_log {
        return Err(refused(sql, "it is the schema of another log"));
    }
    if !apart && !noted {
        return Ok(());
    }
    let identity = match read::identity(&mut *shared.connection().await?, &shared.db).await {
        Err(error) if error::may_not(&error) => {
            let lacks = format!("the right to read {}.identity, which the script of `roles_sql` grants", sql.schema());
            return Err(StoreError::Unmigrated { missing: vec![lacks] });
        }
        identity => identity?,
    };
    if noted && is_noted(&mut *shared.connection().await?, sql, &identity).await? {
        return Ok(());
    }
    if !apart {
        return Err(refused(sql, "it has the rows of another log"));
    }
    if !writes {
        return Ok(());
    }
    match note(shared, &identity).await {
        // No right to write there, or a session that only reads.
        Err(error) if error::may_not(&error) => Ok(()),
        noted => noted,
    }
}

/// Whether it is noted that the rows are of this log, in the schema it has.
async fn is_noted(connection: &mut PgConnection, sql: &Sql, identity: &Identity) -> Result<bool, StoreError> {
    let note = sqlx::query_as(sql.note()).fetch_optional(connection).await.map_err(error::store)?;
    let note: Option<(Uuid, String, bool)> = note;
    let Some((log, schema, is_log)) = note else { return Ok(false) };
    if log != identity.id {
        return Err(refused(sql, &format!("it has the rows of log {log}, in schema `{schema}`")));
    }
    if schema != sql.schema() && is_log {
        return Err(refused(sql, &format!("it has the rows of the log in schema `{schema}`, of which this is a copy")));
    }
    // Else this log was renamed.
    Ok(schema == sql.schema())
}

async fn note(shared: &Shared, identity: &Identity) -> Result<(), StoreError> {
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

fn refused(sql: &Sql, why: &str) -> StoreError {
    let (schema, tables) = (sql.schema(), sql.tables());
    StoreError::Schema(format!(
        "the log in schema `{schema}` cannot keep rows in schema `{tables}`: {why}. Give each log a `tables_schema` of its own"
    ))
}
