//! Changes the tags of events, the only change of a stored event.

use eventstore_core::{NewTags, StoreError, Tag};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::error;

/// The triggers of the guard that forbid it.
const FORBIDDING: [&str; 3] = ["eventstore_events_update", "eventstore_tags_delete", "eventstore_tags_late"];

/// Changes the tags of events in the caller's transaction, and returns how many events were changed. The triggers are
/// dropped and created again within the transaction, so that no other connection sees the log without them.
pub(crate) async fn retag(connection: &mut SqliteConnection, events: &[NewTags]) -> Result<u64, StoreError> {
    let mut changed = 0;
    if !events.is_empty() {
        let guard = sqlx::query_as(include_str!("../sql/triggers.sql")).fetch_all(&mut *connection).await;
        let mut guard: Vec<(String, String)> = guard.map_err(error::store)?;
        guard.retain(|(name, _)| FORBIDDING.contains(&&**name));
        for (name, _) in &guard {
            execute(connection, include_str!("../sql/drop_trigger.sql").replace("{trigger}", name)).await?;
        }
        for event in events {
            changed += u64::from(retag_event(connection, event).await?);
        }
        for (_, trigger) in guard {
            execute(connection, trigger).await?;
        }
    }
    let forget = sqlx::query(include_str!("../sql/remove_tag_snapshots.sql"));
    forget.execute(connection).await.map_err(error::store)?;
    Ok(changed)
}

/// Changes the tags of one event. Returns `false` if no event with this id is at this position, or its tags are not
/// `was`.
async fn retag_event(connection: &mut SqliteConnection, event: &NewTags) -> Result<bool, StoreError> {
    let position = event.position.0.cast_signed();
    let json = |tags: &[Tag]| serde_json::json!(tags.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string();
    let (tags, was) = (json(&event.tags), json(&event.was));
    let update = sqlx::query(include_str!("../sql/retag.sql")).bind(position).bind(event.id).bind(&*tags).bind(was);
    if update.execute(&mut *connection).await.map_err(error::store)?.rows_affected() == 0 {
        return Ok(false);
    }
    let remove = sqlx::query(include_str!("../sql/remove_tags.sql")).bind(position);
    remove.execute(&mut *connection).await.map_err(error::store)?;
    let add = sqlx::query(include_str!("../sql/add_tags.sql")).bind(position).bind(tags);
    add.execute(connection).await.map_err(error::store)?;
    Ok(true)
}

/// Runs a statement that drops or creates a trigger. Its text is a constant of this library or was stored by a
/// migration.
async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map(drop).map_err(error::store)
}
