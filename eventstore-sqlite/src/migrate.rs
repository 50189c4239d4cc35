//! Brings the tables of the log to this version: one step after the other, under the write lock.

use eventstore_core::{__private::is_at_least, StoreError, Timestamp};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{error, names};

/// One step.
pub(crate) struct Step {
    name: &'static str,
    pub(crate) sql: &'static str,
    /// The oldest release that works with a file that has it.
    works_from: &'static str,
}

macro_rules! step {
    ($name:literal, $works_from:literal) => {
        Step { name: $name, sql: include_str!(concat!("../migrations/", $name, ".sql")), works_from: $works_from }
    };
}

/// The step that also renames what only some files have.
const NAMES: i64 = 3;

/// All steps ever released, in order. Steps are added, never edited.
pub(crate) const STEPS: &[Step] = &[
    step!("001_log", "0.1.0"),
    step!("002_snapshots", "0.1.0"),
    step!("003_names", "0.2.0"),
    step!("004_log", "0.2.0"),
];

impl Step {
    fn checksum(&self) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.sql.as_bytes()).to_string()
    }
}

/// Runs in a transaction of the caller's; a step that fails leaves nothing behind. Steps of later releases are left alone,
/// if they say that this one works with them.
pub(crate) async fn migrate(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
    let foreign = sqlx::query_scalar(include_str!("../sql/foreign.sql")).fetch_optional(&mut *connection).await;
    if let Some(table) = foreign.map_err(error::store)? {
        let table: String = table;
        let why = format!("`{table}` is there already, and not of this library: it may be somebody else's");
        return Err(StoreError::Schema(why));
    }
    sqlx::query(include_str!("../sql/migrations.sql")).execute(&mut *connection).await.map_err(error::store)?;
    let rows =
        sqlx::query(include_str!("../sql/applied.sql")).fetch_all(&mut *connection).await.map_err(error::store)?;
    let applied = rows.iter().map(Applied::of).collect::<Result<Vec<_>, _>>().map_err(error::store)?;
    for (Applied { version, checksum, works_from }, expected) in applied.iter().zip(1..) {
        let known = STEPS.get(usize::try_from(expected - 1).unwrap_or(usize::MAX));
        match known {
            Some(step) if *version == expected && *checksum == step.checksum() => {}
            Some(_) => return Err(StoreError::Schema(format!("migration {version} is not the one it was"))),
            None if works_from.as_deref().is_some_and(is_at_least) => {}
            None => {
                let from = works_from.as_deref().unwrap_or("a later release");
                let why = format!("it has migration {version}, which this release does not know: it needs {from}");
                return Err(StoreError::Schema(why));
            }
        }
    }
    let missing = STEPS.get(applied.len()..).unwrap_or_default();
    apply(connection, &applied, missing, now).await.map_err(|error| match error {
        // The file can only be read.
        StoreError::Denied(_) => {
            StoreError::Unmigrated { missing: missing.iter().map(|step| format!("migration {}", step.name)).collect() }
        }
        error => error,
    })
}

/// A step that was applied.
struct Applied {
    version: i64,
    checksum: String,
    works_from: Option<String>,
}

impl Applied {
    fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let works_from = match row.try_get("works_from") {
            Err(sqlx::Error::ColumnNotFound(_)) => None,
            stored => stored?,
        };
        Ok(Self { version: row.try_get("version")?, checksum: row.try_get("checksum")?, works_from })
    }
}

async fn apply(
    connection: &mut SqliteConnection,
    applied: &[Applied],
    missing: &[Step],
    now: Timestamp,
) -> Result<(), StoreError> {
    if !missing.is_empty() && applied.iter().all(|step| step.works_from.is_none()) {
        sqlx::query(include_str!("../sql/add_works_from.sql")).execute(&mut *connection).await.map_err(error::store)?;
    }
    for (step, version) in missing.iter().zip(applied.len() as i64 + 1..) {
        sqlx::raw_sql(step.sql).execute(&mut *connection).await.map_err(error::store)?;
        if version == NAMES {
            names::rename(connection).await?;
        }
        sqlx::query(include_str!("../sql/apply.sql"))
            .bind(version)
            .bind(step.checksum())
            .bind(now.as_micros())
            .bind(step.works_from)
            .execute(&mut *connection)
            .await
            .map_err(error::store)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_steps_are_never_edited() {
        let checksums: Vec<_> = STEPS.iter().take(3).map(Step::checksum).collect();
        let released = [
            "57486fda-ec21-5848-b1fa-aa784669fdea",
            "03edff66-ef9a-52b9-b58b-6fca8019f250",
            "d206c1c4-81bb-5024-a69a-beeaf627f8e9",
        ];
        assert_eq!(checksums, released);
    }
}
