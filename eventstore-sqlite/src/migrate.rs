//! Brings the tables of the log to this version: one step after the other, under the write lock.

use eventstore_core::{StoreError, Timestamp};
use sqlx::SqliteConnection;
use uuid::Uuid;

use crate::{error, names};

/// All steps ever released, in order. Steps are added, never edited.
const STEPS: &[&str] = &[
    include_str!("../migrations/001_log.sql"),
    include_str!("../migrations/002_snapshots.sql"),
    include_str!("../migrations/003_names.sql"),
];
/// The step that also renames what only some files have.
const NAMES: i64 = 3;

/// Runs in a transaction of the caller's; a step that fails leaves nothing behind.
pub(crate) async fn migrate(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
    let foreign = sqlx::query_scalar(include_str!("../sql/foreign.sql")).fetch_optional(&mut *connection).await;
    if let Some(table) = foreign.map_err(error::store)? {
        let table: String = table;
        let why = format!("`{table}` is there already, and not of this library: it may be somebody else's");
        return Err(StoreError::Schema(why));
    }
    sqlx::query(include_str!("../sql/migrations.sql")).execute(&mut *connection).await.map_err(error::store)?;
    let applied: Vec<(i64, String)> =
        sqlx::query_as(include_str!("../sql/applied.sql")).fetch_all(&mut *connection).await.map_err(error::store)?;
    for ((version, checksum), expected) in applied.iter().zip(1..) {
        let known = STEPS.get(usize::try_from(expected - 1).unwrap_or(usize::MAX));
        match known {
            Some(step) if *version == expected && *checksum == checksum_of(step) => {}
            Some(_) => return Err(StoreError::Schema(format!("migration {version} is not the one it was"))),
            None => return Err(StoreError::Schema(format!("it has migration {version}, made by a newer program"))),
        }
    }
    for (step, version) in STEPS.iter().zip(1_i64..).skip(applied.len()) {
        sqlx::raw_sql(*step).execute(&mut *connection).await.map_err(error::store)?;
        if version == NAMES {
            names::rename(connection).await?;
        }
        sqlx::query(include_str!("../sql/apply.sql"))
            .bind(version)
            .bind(checksum_of(step))
            .bind(now.as_micros())
            .execute(&mut *connection)
            .await
            .map_err(error::store)?;
    }
    Ok(())
}

fn checksum_of(step: &str) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, step.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_steps_are_never_edited() {
        let checksums: Vec<_> = STEPS.iter().map(|step| checksum_of(step)).collect();
        let released = [
            "57486fda-ec21-5848-b1fa-aa784669fdea",
            "03edff66-ef9a-52b9-b58b-6fca8019f250",
            "d206c1c4-81bb-5024-a69a-beeaf627f8e9",
        ];
        assert_eq!(checksums, released);
    }
}
