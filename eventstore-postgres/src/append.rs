//! Records an append: one call of one function of the server's.

use std::collections::HashMap;

use eventstore_core::{
    Append, Conflict, Expected, Invalid, Item, NewEvent, Position, Query, Read, StoreError, StreamId, Version, Written,
};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    bind::{Types, expected, tags},
    db::Db,
    error, read,
    types::{EventTypes, Instant, array, names},
};

/// An append that is within the limits, with its metadata written: nothing about it can be refused any more but by
/// what is in the log.
pub(crate) struct Checked {
    pub(crate) append: Append,
    /// Of each event, in order.
    pub(crate) metadata: Vec<Vec<u8>>,
    /// The keys of their types, if this process knows all of them.
    pub(crate) types: Option<Vec<i32>>,
    /// Whether it can be one of several in a call: it names each stream once, and its condition asks for no stream.
    pub(crate) batchable: bool,
}

/// Why an append was not recorded: by the server's word, or because the word did not come.
pub(crate) enum Failed {
    Refused(StoreError),
    Broken(sqlx::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Failed {
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Broken(error) => error::store(error),
        }
    }
}

/// What the function answers.
struct Answer {
    status: i32,
    versions: Option<Vec<i64>>,
    stream: Option<String>,
    version: Option<i64>,
    first_position: Option<i64>,
    recorded_at: Option<Instant>,
    event_id: Option<Uuid>,
}

impl FromRow<'_, PgRow> for Answer {
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
    pub(crate) fn new(append: Append, known: &EventTypes) -> Result<Self, StoreError> {
        let metadata = append.check()?;
        let batchable = append.writes.len() == 1 || append.streams().len() == append.writes.len();
        let batchable = batchable && !items_of(&append).iter().any(|item| item.key.is_some());
        let types = known.known(append.events().map(|(stream, event)| (stream.category(), &*event.data.name)));
        Ok(Self { append, metadata, types, batchable })
    }

    /// Whether it goes to one stream, and asks for nothing else.
    pub(crate) fn is_plain(&self) -> bool {
        self.append.writes.len() == 1 && self.append.unchanged.is_empty() && self.append.condition.is_none()
    }

    /// Whether its condition asks for types that are not named, or for streams.
    pub(crate) fn asks_more(&self) -> bool {
        items_of(&self.append).iter().any(|item| item.except.is_some() || item.key.is_some())
    }

    /// What its condition asks of streams.
    pub(crate) fn of_streams(&self) -> Option<Read> {
        let items: Vec<_> = items_of(&self.append).iter().filter(|item| item.key.is_some()).cloned().collect();
        let after = self.append.condition.as_ref()?.after;
        (!items.is_empty()).then(|| Read { query: Query { items }, after, limit: Some(1), ..Read::default() })
    }

    /// The ids of its events.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.append.events().map(|(_, event)| event.id).collect()
    }

    /// How many streams it writes to or asks about.
    pub(crate) fn streams(&self) -> usize {
        self.append.writes.len() + self.append.unchanged.len()
    }

    /// Calls the function. `new_types` are event types that this process does not know yet; they are there once this is
    /// committed. Without a `look` at the ids first, one that is taken breaks its constraint, and the transaction.
    ///
    /// Where the transaction holds the log already, all types are among those that are known, and what the condition asks of
    /// streams was checked. Else the statement checks both, and raises `ES004` or `ES005`.
    pub(crate) async fn record(
        &self,
        connection: &mut PgConnection,
        db: &Db,
        new_types: &mut Vec<(i32, String, String)>,
        look: bool,
        held: bool,
    ) -> Result<Written, Failed> {
        let Self { append, .. } = self;
        let types: Vec<_> = append.events().map(|(stream, event)| (stream.category(), &*event.data.name)).collect();
        let types = db.types.keys(connection, &db.sql, &types, new_types).await?;
        let types = types.map_err(|size| StoreError::from(Invalid::types(size)))?;
        let answer = self.call(connection, db, types, new_types, look, held).await?;
        match (answer.status, answer) {
            (0, Answer { versions: Some(versions), first_position: Some(first), recorded_at: Some(at), .. }) => {
                let first = read::position(first)?;
                let streams = append.streams().into_iter().zip(versions);
                let streams =
                    streams.map(|((stream, _, new), before)| (stream.clone(), Version(before.unsigned_abs() + new)));
                let last = Position(first.0 - 1 + append.events().count() as u64);
                Ok(Written { streams: streams.collect(), first, last, recorded_at: at.0, replayed: false })
            }
            (1, Answer { stream: Some(stream), version: Some(version), .. }) => {
                Err(StoreError::from(self.unexpected(&stream, Version(version.unsigned_abs()))?).into())
            }
            (2, Answer { stream: Some(stream), version: Some(version), .. }) => {
                let (stream, _) = StreamId::stored(&stream);
                Err(StoreError::from(Conflict::in_the_way(stream, Version(version.unsigned_abs()))).into())
            }
            (3, Answer { event_id: Some(taken), first_position, .. }) => {
                let duplicate = || Failed::from(append.duplicate(taken));
                let first = read::position(first_position.ok_or_else(duplicate)?)?;
                let until = Position(first.0 - 1 + append.events().count() as u64);
                let recorded = read::events(connection, db, Position(first.0 - 1), until, new_types).await?;
                append.replay(&recorded).ok_or_else(duplicate)
            }
            (4, _) => {
                let position = append.condition.as_ref().map_or_else(Position::default, |condition| condition.after);
                Err(StoreError::Forked { position, event: None }.into())
            }
            (status, _) => Err(StoreError::Schema(format!("its function answers {status}")).into()),
        }
    }

    fn unexpected(&self, stream: &str, actual: Version) -> Result<Conflict, StoreError> {
        let stream: StreamId = stream.parse().map_err(error::damaged)?;
        let written = self.append.writes.iter().find(|write| write.stream == stream).map(|write| write.expected);
        let read = self.append.unchanged.iter().find(|(unchanged, _)| *unchanged == stream);
        // Where it is both written to and to be unchanged, what fails is what does not hold.
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
        look: bool,
        held: bool,
    ) -> Result<Answer, sqlx::Error> {
        let Append { unchanged, condition, .. } = &self.append;
        let streams = self.append.streams();
        let places: HashMap<_, usize> = streams.iter().zip(0..).map(|((stream, ..), place)| (*stream, place)).collect();
        let place = |(stream, _): (&StreamId, &NewEvent)| i32::try_from(places[stream] + 1).unwrap_or(i32::MAX);
        let e_stream: Vec<i32> = self.append.events().map(place).collect();
        let mut each_type = Types::default();
        each_type.add(&self.append, &types);
        let events: Vec<&NewEvent> = self.append.events().map(|(_, event)| event).collect();
        let after = condition.as_ref().map(|condition| read::signed(condition.after.0));
        let query = condition.as_ref().map(|condition| &condition.query);
        let (resolved, known) = query.map_or((None, 0), |query| db.types.resolve(query, new_types));
        let items = resolved.as_ref().or(query).map_or(&[][..], |query| &query.items);
        let (of_streams, items): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.key.is_some());
        let of_streams = if held { vec![] } else { of_streams };
        let still = !held && (resolved.is_some() || !of_streams.is_empty());
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
            .bind(look);
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

fn items_of(append: &Append) -> &[Item] {
    append.condition.as_ref().map_or(&[], |condition| &condition.query.items)
}
