//! Records an append by one call of the server's function `append`.

use std::collections::HashMap;

use eventstore_core::{
    Append, Conflict, Expected, Invalid, Item, NewEvent, Position, Query, Read, StoreError, StreamId, Version, Written,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    bind::{DistinctTypes, expected, tags},
    db::Db,
    error, read,
    types::{EventTypes, Instant, array, names},
};

/// An append that is within the limits, with its metadata encoded. From here on only the content of the log can refuse
/// it.
pub(crate) struct Checked {
    pub(crate) append: Append,
    /// The encoded metadata of each event, in order.
    pub(crate) metadata: Vec<Vec<u8>>,
    /// The keys of the event types, one for each event; `None` if this process lacks one of them.
    pub(crate) types: Option<Vec<i32>>,
    /// Whether the append can share a call with others: it names each stream once, and its condition names no stream.
    pub(crate) batchable: bool,
}

/// Why an append failed: the server refused it, or the statement failed and its outcome may be unknown.
pub(crate) enum AppendError {
    Refused(StoreError),
    Broken(sqlx::Error),
}

impl From<sqlx::Error> for AppendError {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl AppendError {
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Broken(error) => error::store(error),
        }
    }
}

/// The row that the function `append` returns.
struct AppendRow {
    status: i32,
    versions: Option<Vec<i64>>,
    stream: Option<String>,
    version: Option<i64>,
    first_position: Option<i64>,
    recorded_at: Option<Instant>,
    event_id: Option<Uuid>,
}

impl FromRow<'_, PgRow> for AppendRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            status: row.try_get(0)?,
            versions: row.try_get(1)?,
            stream: row.try_get(2)?,
            version: row.try_get(3)?,
            first_position: row.try_get(4)?,
            recorded_at: row.try_get(5)?,
            event_id: row.try_get(6)?,
        })
    }
}

impl Checked {
    /// Checks an append against the limits, and encodes its metadata.
    pub(crate) fn new(append: Append, known: &EventTypes) -> Result<Self, StoreError> {
        let metadata = append.check()?;
        let batchable = append.writes.len() == 1 || append.streams().len() == append.writes.len();
        let batchable = batchable && !condition_items(&append).iter().any(|item| item.key.is_some());
        let types = known.known_keys(append.events().map(|(stream, event)| (stream.category(), &*event.data.name)));
        Ok(Self { append, metadata, types, batchable })
    }

    /// Whether the append writes to one stream and has no other precondition than that stream's version.
    pub(crate) fn is_plain(&self) -> bool {
        self.append.writes.len() == 1 && self.append.unchanged.is_empty() && self.append.condition.is_none()
    }

    /// Whether a transaction must take the append lock before it checks the condition: the condition excepts event
    /// types, so it depends on which types there are, or it names streams.
    pub(crate) fn needs_hold(&self) -> bool {
        condition_items(&self.append).iter().any(|item| item.except.is_some() || item.key.is_some())
    }

    /// Returns the read that finds a violation of the condition in the streams it names; `None` if it names none.
    pub(crate) fn stream_condition(&self) -> Option<Read> {
        let items: Vec<_> = condition_items(&self.append).iter().filter(|item| item.key.is_some()).cloned().collect();
        let after = self.append.condition.as_ref()?.after;
        (!items.is_empty()).then(|| Read { query: Query { items }, after, limit: Some(1), ..Read::default() })
    }

    /// Returns the ids of the events.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.append.events().map(|(_, event)| event.id).collect()
    }

    /// Returns the number of streams that the append writes to or wants unchanged.
    pub(crate) fn streams(&self) -> usize {
        self.append.writes.len() + self.append.unchanged.len()
    }

    /// Calls the function `append`.
    ///
    /// - `new_types` receives the event types that this process did not know; they exist once the transaction commits.
    /// - Without `check_ids`, an event id that is recorded already violates its constraint and fails the transaction.
    /// - `holds_log` says that the transaction has the append lock, knows all event types, and has checked the streams
    ///   of the condition. Otherwise the statement checks both, and raises `ES004` (an unknown event type) or `ES005`
    ///   (an event in a stream of the condition).
    pub(crate) async fn record(
        &self,
        connection: &mut PgConnection,
        db: &Db,
        new_types: &mut Vec<(i32, String, String)>,
        check_ids: bool,
        holds_log: bool,
    ) -> Result<Written, AppendError> {
        let Self { append, .. } = self;
        let types: Vec<_> = append.events().map(|(stream, event)| (stream.category(), &*event.data.name)).collect();
        let types = db.types.keys(connection, &db.sql, &types, new_types).await?;
        let types = types.map_err(|size| StoreError::from(Invalid::types(size)))?;
        let answer = self.call(connection, db, types, new_types, check_ids, holds_log).await?;
        match (answer.status, answer) {
            (0, AppendRow { versions: Some(versions), first_position: Some(first), recorded_at: Some(at), .. }) => {
                let first = read::position(first)?;
                let streams = append.streams().into_iter().zip(versions);
                let streams =
                    streams.map(|((stream, _, new), before)| (stream.clone(), Version(before.unsigned_abs() + new)));
                let last = Position(first.0 - 1 + append.events().count() as u64);
                Ok(Written { streams: streams.collect(), first, last, recorded_at: at.0, replayed: false })
            }
            (1, AppendRow { stream: Some(stream), version: Some(version), .. }) => {
                Err(StoreError::from(self.version_conflict(&stream, Version(version.unsigned_abs()))?).into())
            }
            (2, AppendRow { stream: Some(stream), version: Some(version), .. }) => {
                let (stream, _) = StreamId::stored(&stream);
                Err(StoreError::from(Conflict::in_the_way(stream, Version(version.unsigned_abs()))).into())
            }
            (3, AppendRow { event_id: Some(taken), first_position, .. }) => {
                let duplicate = || AppendError::from(append.duplicate(taken));
                let first = read::position(first_position.ok_or_else(duplicate)?)?;
                let until = Position(first.0 - 1 + append.events().count() as u64);
                let recorded = read::events(connection, db, Position(first.0 - 1), until, new_types).await?;
                append.replay(&recorded).ok_or_else(duplicate)
            }
            (4, _) => {
                let position = append.condition.as_ref().map_or_else(Position::default, |condition| condition.after);
                Err(StoreError::Forked { position, event: None }.into())
            }
            (status, _) => {
                Err(StoreError::Schema(format!("the function `append` returned the unknown status {status}")).into())
            }
        }
    }

    fn version_conflict(&self, stream: &str, actual: Version) -> Result<Conflict, StoreError> {
        let stream: StreamId = stream.parse().map_err(error::damaged)?;
        let written = self.append.writes.iter().find(|write| write.stream == stream).map(|write| write.expected);
        let read = self.append.unchanged.iter().find(|(unchanged, _)| *unchanged == stream);
        // A stream can be written to and be wanted unchanged: the conflict names the expectation that fails.
        let expected = match (written, read) {
            (Some(expected), _) if !expected.holds(actual) => expected,
            (_, Some((_, version))) => Expected::Version(*version),
            _ => Expected::Any,
        };
        Ok(Conflict::new(stream, expected, actual))
    }

    async fn call(
        &self,
        connection: &mut PgConnection,
        db: &Db,
        types: Vec<i32>,
        new_types: &[(i32, String, String)],
        check_ids: bool,
        holds_log: bool,
    ) -> Result<AppendRow, sqlx::Error> {
        let Append { unchanged, condition, .. } = &self.append;
        let streams = self.append.streams();
        let index_of: HashMap<_, usize> =
            streams.iter().zip(0..).map(|((stream, ..), place)| (*stream, place)).collect();
        let place = |(stream, _): (&StreamId, &NewEvent)| i32::try_from(index_of[stream] + 1).unwrap_or(i32::MAX);
        let e_stream: Vec<i32> = self.append.events().map(place).collect();
        let mut each_type = DistinctTypes::default();
        each_type.add(&self.append, &types);
        let events: Vec<&NewEvent> = self.append.events().map(|(_, event)| event).collect();
        let after = condition.as_ref().map(|condition| read::signed(condition.after.0));
        let query = condition.as_ref().map(|condition| &condition.query);
        let (resolved, known) = query.map_or((None, 0), |query| db.types.resolve(query, new_types));
        let items = resolved.as_ref().or(query).map_or(&[][..], |query| &query.items);
        let (of_streams, items): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.key.is_some());
        let of_streams = if holds_log { vec![] } else { of_streams };
        let still = !holds_log && (resolved.is_some() || !of_streams.is_empty());
        let all_tags = |item: &&Item| array(item.tags.iter().map(ToString::to_string));
        let mut call = sqlx::query_as(if still { db.sql.append_still() } else { db.sql.append() })
            .bind(streams.iter().map(|(stream, ..)| stream.as_str()).collect::<Vec<_>>())
            .bind(streams.iter().map(|(_, is, _)| expected(*is)).collect::<Vec<_>>())
            .bind(e_stream)
            .bind(events.iter().map(|event| event.id).collect::<Vec<_>>())
            .bind(types)
            .bind(events.iter().map(|event| event.schema.cast_signed()).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.occurred_at.map(Instant)).collect::<Vec<_>>())
            .bind(events.iter().map(|event| tags(event)).collect::<Vec<_>>())
            .bind(&self.metadata)
            .bind(events.iter().map(|event| &*event.data.body).collect::<Vec<_>>())
            .bind(unchanged.iter().map(|(stream, _)| stream.as_str()).collect::<Vec<_>>())
            .bind(unchanged.iter().map(|(_, version)| read::signed(version.0)).collect::<Vec<_>>())
            .bind(after)
            .bind(items.iter().map(|item| names(item)).collect::<Vec<_>>())
            .bind(items.iter().map(all_tags).collect::<Vec<_>>())
            .bind(each_type.keys)
            .bind(each_type.categories)
            .bind(each_type.names)
            .bind(check_ids);
        if still {
            let stream = |item: &&Item| match (&item.category, &item.key) {
                (Some(category), Some(key)) => StreamId::new(category, key).to_string(),
                _ => String::new(),
            };
            call = call.bind(resolved.is_some().then_some(read::signed(known as u64))).bind(after);
            call = call.bind(of_streams.iter().map(stream).collect::<Vec<_>>());
            call = call.bind(of_streams.iter().map(|item| names(item)).collect::<Vec<_>>());
            call = call.bind(of_streams.iter().map(all_tags).collect::<Vec<_>>());
        }
        call.fetch_one(connection).await
    }
}

fn condition_items(append: &Append) -> &[Item] {
    append.condition.as_ref().map_or(&[], |condition| &condition.query.items)
}
