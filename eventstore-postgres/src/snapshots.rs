//! Reads and writes snapshots.

use eventstore_core::{StoreError, StoredSnapshot, Version};
use sqlx::{PgConnection, Row};

use crate::{
    error,
    read::{position, signed},
    sql::Sql,
    types::Instant,
};

/// Returns the snapshot of a kind kept for a boundary.
pub(crate) async fn snapshot(
    connection: &mut PgConnection,
    sql: &Sql,
    boundary: &str,
    kind: &str,
) -> Result<Option<StoredSnapshot>, StoreError> {
    let found = sqlx::query(sql.snapshot()).bind(boundary).bind(kind).fetch_optional(connection).await;
    let Some(row) = found.map_err(error::store)? else { return Ok(None) };
    let number = |column| row.try_get::<i64, _>(column).map_err(error::store);
    Ok(Some(StoredSnapshot {
        boundary: boundary.into(),
        kind: kind.into(),
        shape: number(0)?.cast_unsigned(),
        version: Version(number(1)?.unsigned_abs()),
        position: position(number(2)?)?,
        recorded_at: row.try_get::<Instant, _>(3).map_err(error::store)?.0,
        event: row.try_get(4).map_err(error::store)?,
        checksum: number(5)?.cast_unsigned(),
        state: row.try_get(6).map_err(error::store)?,
    }))
}

/// Keeps a snapshot, and returns whether it did: `sql/keep.sql` says which stored one it replaces.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    sql: &Sql,
    snapshot: StoredSnapshot,
    instead_of: Option<u64>,
) -> Result<bool, StoreError> {
    let StoredSnapshot { boundary, kind, shape, version, position, event, recorded_at, state, checksum } = snapshot;
    let kept = sqlx::query(sql.keep())
        .bind(boundary)
        .bind(kind)
        .bind(shape.cast_signed())
        .bind(signed(version.0))
        .bind(signed(position.0))
        .bind(Instant(recorded_at))
        .bind(event)
        .bind(checksum.cast_signed())
        .bind(state)
        .bind(instead_of.map(u64::cast_signed));
    kept.execute(connection).await.map(|kept| kept.rows_affected() > 0).map_err(error::store)
}

/// Returns the boundaries that have a snapshot of a kind, the latest position first, at most `limit`.
pub(crate) async fn snapshots(
    connection: &mut PgConnection,
    sql: &Sql,
    kind: &str,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let found = sqlx::query_scalar(sql.snapshots()).bind(kind).bind(signed(limit as u64));
    found.fetch_all(connection).await.map_err(error::store)
}
