//! Gives events other tags: the only change of what is stored of an event.

use eventstore_core::{NewTags, StoreError, Tag};
use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::error;

/// What of the guard forbids it.
const IN_THE_WAY: [&str; 3] = ["eventstore_events_update", "eventstore_tags_delete", "eventstore_tags_late"];

/// In a transaction of the caller's: the guard is taken off and put back in it, so that no other connection sees the log
/// without.
pub(crate) async fn retag(connection: &mut SqliteConnection, events: &[NewTags]) -> Result<u64, StoreError> {
    let mut changed = 0;
    if !events.is_empty() {
        let guard = sqlx::query_as(include_str!("../sql/triggers.sql")).fetch_all(&mut *connection).await;
        let mut guard: Vec<(String, String)> = guard.map_err(error::store)?;
        guard.retain(|(name, _)| IN_THE_WAY.contains(&&**name));
        for (name, _) in &guard {
            run(connection, include_str!("../sql/drop_trigger.sql").replace("{trigger}", name)).await?;
        }
        for event in events {
            changed += u64::from(one(connection, event).await?);
        }
        for (_, trigger) in guard {
            run(connection, trigger).await?;
        }
    }
    let forget = sqlx::query(include_str!("../sql/remove_tag_snapshots.sql"));
    forget.execute(connection).await.map_err(error::store)?;
    Ok(changed)
}

async fn one(connection: &mut SqliteConnection, event: &NewTags) -> Result<bool, StoreError> {
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

/// The guard as the migrations wrote it, and what takes it off: constants of this library.
async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), StoreError> {
    sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map(drop).map_err(error::store)
}
