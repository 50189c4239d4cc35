//! Records an append, inside a transaction that holds the write lock.

use std::collections::{BTreeSet, HashMap};

use eventstore_core::{
    Append, Condition, Conflict, Expected, Invalid, NewEvent, Position, Read, StoreError, StreamId, Timestamp, Version,
    Written, limits,
};
use sqlx::{Row, SqliteConnection};
use uuid::Uuid;

use crate::{error, read};

/// An append that is within the limits, with its metadata encoded. From here on only the content of the log can refuse
/// it.
pub(crate) struct Checked {
    append: Append,
    metadata: Vec<Vec<u8>>,
}

impl Checked {
    /// Checks an append against the limits, and encodes its metadata.
    pub(crate) fn new(append: Append) -> Result<Self, StoreError> {
        let metadata = append.check()?;
        Ok(Self { append, metadata })
    }

    /// Records the append at the time `now`, or at that of the last event if the clock is behind it.
    pub(crate) async fn record(self, connection: &mut SqliteConnection, now: Timestamp) -> Result<Written, StoreError> {
        let Self { append, metadata } = self;
        if let Some(replay) = first_result(connection, &append).await? {
            return Ok(replay);
        }
        let (head, recorded_at) = last_event(connection).await?;
        let recorded_at = recorded_at.map_or(now, |last| last.max(now));
        let mut streams = check_expected(connection, &append, head).await?;
        let index_of: HashMap<_, _> = append.streams().into_iter().map(|(stream, ..)| stream).zip(0..).collect();
        let types = type_keys(connection, &append).await?;
        let mut position = head;
        for (write, metadata) in append.writes.iter().zip(metadata_by_stream(&append, metadata)) {
            let (_, version) = &mut streams[index_of[&write.stream]];
            for (event, metadata) in write.events.iter().zip(metadata) {
                (version.0, position.0) = (version.0 + 1, position.0 + 1);
                let type_key = types[&(write.stream.category(), &*event.data.name)];
                let at = EventPosition { stream: &write.stream, version: *version, position, type_key, recorded_at };
                insert(connection, event, at, metadata).await?;
            }
        }
        Ok(Written { streams, first: Position(head.0 + 1), last: position, recorded_at, replayed: false })
    }
}

/// Returns the metadata of all events, stream by stream.
fn metadata_by_stream(append: &Append, metadata: Vec<Vec<u8>>) -> impl Iterator<Item = Vec<Vec<u8>>> {
    let mut metadata = metadata.into_iter();
    append.writes.iter().map(move |write| metadata.by_ref().take(write.events.len()).collect())
}

/// Returns the first result if all events were recorded before. If only some were, or otherwise, the error is
/// [`StoreError::Duplicate`].
async fn first_result(connection: &mut SqliteConnection, append: &Append) -> Result<Option<Written>, StoreError> {
    let ids = read::ids_json(append.events().map(|(_, event)| event.id));
    let taken = sqlx::query(include_str!("../sql/recorded.sql")).bind(ids).fetch_optional(&mut *connection).await;
    let Some(taken) = taken.map_err(error::store)? else { return Ok(None) };
    let taken: Uuid = taken.try_get(0).map_err(error::store)?;
    let count = append.events().count() as u64;
    let first = match append.events().next() {
        Some((_, first)) => read::position_of(connection, first.id).await?,
        None => None,
    };
    let Some(first) = first else { return Err(append.duplicate(taken)) };
    let recorded = read::events(connection, Position(first.0 - 1), Position(first.0 + count - 1), count).await?;
    append.replay(&recorded).map(Some).ok_or_else(|| append.duplicate(taken))
}

/// Returns the last position of the log and when it was recorded.
async fn last_event(connection: &mut SqliteConnection) -> Result<(Position, Option<Timestamp>), StoreError> {
    let head: Option<(i64, i64)> =
        sqlx::query_as(include_str!("../sql/head.sql")).fetch_optional(connection).await.map_err(error::store)?;
    Ok(match head {
        Some((position, recorded_at)) => (read::position(position)?, Some(Timestamp::from_micros(recorded_at))),
        None => (Position(0), None),
    })
}

/// Checks all preconditions of an append. Returns the present versions of the streams that it writes to.
async fn check_expected(
    connection: &mut SqliteConnection,
    append: &Append,
    head: Position,
) -> Result<Vec<(StreamId, Version)>, StoreError> {
    if let Some(&Condition { after: position, .. }) = append.condition.as_ref()
        && position > head
    {
        return Err(StoreError::Forked { position, event: None });
    }
    let mut streams = Vec::with_capacity(append.writes.len());
    for (stream, expected, _) in append.streams() {
        let actual = version(connection, stream).await?;
        if !expected.holds(actual) {
            return Err(Conflict::new(stream.clone(), expected, actual).into());
        }
        streams.push((stream.clone(), actual));
    }
    for (stream, expected) in &append.unchanged {
        let (expected, actual) = (Expected::Version(*expected), version(connection, stream).await?);
        if !expected.holds(actual) {
            return Err(Conflict::new(stream.clone(), expected, actual).into());
        }
    }
    if let Some(condition) = &append.condition {
        let (plan, _) = read::Plan::new(connection, &condition.query).await?;
        let newer = Read { after: condition.after, until: Some(head), limit: Some(1), ..Read::default() };
        let newer = plan.page(connection, &newer).await?;
        if let Some(event) = newer.into_iter().next() {
            return Err(Conflict::in_the_way(event.stream, event.version).into());
        }
    }
    Ok(streams)
}

/// Returns the version of a stream; 0 if it has no event.
async fn version(connection: &mut SqliteConnection, stream: &StreamId) -> Result<Version, StoreError> {
    let version: i64 = sqlx::query_scalar(include_str!("../sql/version.sql"))
        .bind(stream.as_str())
        .fetch_one(connection)
        .await
        .map_err(error::store)?;
    Ok(Version(version.unsigned_abs()))
}

/// Returns the keys of the event types of an append, by category and name. Adds the new types: all, or none if the log
/// would have more than [`limits::TYPES`].
async fn type_keys<'a>(
    connection: &mut SqliteConnection,
    append: &'a Append,
) -> Result<HashMap<(&'a str, &'a str), i64>, StoreError> {
    let (mut keys, mut new) = (HashMap::new(), BTreeSet::new());
    for (stream, event) in append.events() {
        let (category, name) = (stream.category(), &*event.data.name);
        if keys.contains_key(&(category, name)) || new.contains(&(category, name)) {
            continue;
        }
        let known = sqlx::query_scalar(include_str!("../sql/type_key.sql")).bind(category).bind(name);
        match known.fetch_optional(&mut *connection).await.map_err(error::store)? {
            Some(key) => drop(keys.insert((category, name), key)),
            None => drop(new.insert((category, name))),
        }
    }
    if !new.is_empty() {
        let count = sqlx::query_scalar(include_str!("../sql/count_types.sql")).fetch_one(&mut *connection).await;
        let count: i64 = count.map_err(error::store)?;
        let all = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(new.len());
        if all > limits::TYPES {
            return Err(Invalid::types(all).into());
        }
    }
    for (category, name) in new {
        let add = sqlx::query_scalar(include_str!("../sql/add_type.sql")).bind(category).bind(name);
        keys.insert((category, name), add.fetch_one(&mut *connection).await.map_err(error::store)?);
    }
    Ok(keys)
}

/// Where an event is recorded, and when.
struct EventPosition<'a> {
    stream: &'a StreamId,
    version: Version,
    position: Position,
    type_key: i64,
    recorded_at: Timestamp,
}

async fn insert(
    connection: &mut SqliteConnection,
    event: &NewEvent,
    at: EventPosition<'_>,
    metadata: Vec<u8>,
) -> Result<(), StoreError> {
    let EventPosition { stream, version, position, type_key, recorded_at } = at;
    let (version, position) = (version.0.cast_signed(), position.0.cast_signed());
    let tags: Vec<_> = event.data.tags.iter().map(ToString::to_string).collect();
    let tags = serde_json::json!(tags).to_string();
    sqlx::query(include_str!("../sql/add_event.sql"))
        .bind(position)
        .bind(version)
        .bind(recorded_at.as_micros())
        .bind(event.occurred_at.unwrap_or(recorded_at).as_micros())
        .bind(type_key)
        .bind(i64::from(event.schema))
        .bind(event.id)
        .bind(stream.as_str())
        .bind(&*tags)
        .bind(metadata)
        .bind(&*event.data.body)
        .execute(&mut *connection)
        .await
        .map_err(error::store)?;
    if !event.data.tags.is_empty() {
        let add = sqlx::query(include_str!("../sql/add_tags.sql")).bind(position).bind(tags);
        add.execute(connection).await.map_err(error::store)?;
    }
    Ok(())
}
