//! Migrates the tables of the log to this release, in one transaction under the write lock.

use eventstore_core::{StoreError, Timestamp, engine::is_at_least};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::{error, names};

/// A migration as it is in `migrations/`.
pub(crate) struct MigrationSource {
    name: &'static str,
    pub(crate) sql: &'static str,
    /// The oldest release that works with a file that has this migration.
    works_from: &'static str,
}

macro_rules! step {
    ($name:literal, $works_from:literal) => {
        MigrationSource {
            name: $name,
            sql: include_str!(concat!("../migrations/", $name, ".sql")),
            works_from: $works_from,
        }
    };
}

/// The migration that also renames tables that only some files have.
const RENAMING: i64 = 3;

/// All migrations ever released, in order. Migrations are added, never edited.
pub(crate) const SOURCES: &[MigrationSource] = &[
    step!("001_log", "0.1.0"),
    step!("002_snapshots", "0.1.0"),
    step!("003_names", "0.2.0"),
    step!("004_log", "0.2.0"),
];

impl MigrationSource {
    fn checksum(&self) -> String {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, self.sql.as_bytes()).to_string()
    }
}

/// Applies all missing migrations in the caller's transaction, which the caller rolls back if one fails. Migrations of
/// later releases are accepted if they say that this release works with them; otherwise, and if the file has tables of
/// another program, the error is [`StoreError::Schema`]. A read-only file that lacks migrations is
/// [`StoreError::Unmigrated`].
pub(crate) async fn migrate(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
    let foreign = sqlx::query_scalar(include_str!("../sql/foreign.sql")).fetch_optional(&mut *connection).await;
    if let Some(table) = foreign.map_err(error::store)? {
        let table: String = table;
        let why = format!("`{table}` exists already and is not of this library: it may belong to another program");
        return Err(StoreError::Schema(why));
    }
    sqlx::query(include_str!("../sql/migrations.sql")).execute(&mut *connection).await.map_err(error::store)?;
    let rows =
        sqlx::query(include_str!("../sql/applied.sql")).fetch_all(&mut *connection).await.map_err(error::store)?;
    let applied = rows.iter().map(Applied::of).collect::<Result<Vec<_>, _>>().map_err(error::store)?;
    for (Applied { version, checksum, works_from }, expected) in applied.iter().zip(1..) {
        let known = SOURCES.get(usize::try_from(expected - 1).unwrap_or(usize::MAX));
        match known {
            Some(step) if *version == expected && *checksum == step.checksum() => {}
            Some(_) => {
                return Err(StoreError::Schema(format!(
                    "migration {version} has another checksum than in this release"
                )));
            }
            None if works_from.as_deref().is_some_and(is_at_least) => {}
            None => {
                let from = works_from.as_deref().unwrap_or("a later release");
                let why = format!("it has migration {version}, which this release does not know: it needs {from}");
                return Err(StoreError::Schema(why));
            }
        }
    }
    let missing = SOURCES.get(applied.len()..).unwrap_or_default();
    apply(connection, &applied, missing, now).await.map_err(|error| match error {
        // The file is read-only.
        StoreError::Denied(_) => {
            StoreError::Unmigrated { missing: missing.iter().map(|step| format!("migration {}", step.name)).collect() }
        }
        error => error,
    })
}

/// A migration that was applied.
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

/// Applies the missing migrations, and notes each.
async fn apply(
    connection: &mut SqliteConnection,
    applied: &[Applied],
    missing: &[MigrationSource],
    now: Timestamp,
) -> Result<(), StoreError> {
    if !missing.is_empty() && applied.iter().all(|step| step.works_from.is_none()) {
        sqlx::query(include_str!("../sql/add_works_from.sql")).execute(&mut *connection).await.map_err(error::store)?;
    }
    for (step, version) in missing.iter().zip(applied.len() as i64 + 1..) {
        sqlx::raw_sql(step.sql).execute(&mut *connection).await.map_err(error::store)?;
        if version == RENAMING {
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
        let checksums: Vec<_> = SOURCES.iter().take(3).map(MigrationSource::checksum).collect();
        let released = [
            "57486fda-ec21-5848-b1fa-aa784669fdea",
            "03edff66-ef9a-52b9-b58b-6fca8019f250",
            "d206c1c4-81bb-5024-a69a-beeaf627f8e9",
        ];
        assert_eq!(checksums, released);
    }
}
