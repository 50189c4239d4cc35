//! The fast path: calls of the functions for one plain append, and for many appends at once. An append that a function
//! does not record comes back without a reason.

use std::collections::HashSet;

use eventstore_core::{NewEvent, Position, Version, Written};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    append::Checked,
    bind::{DistinctTypes, expected, tags},
    db::Db,
    read,
    types::{Instant, array, names},
};

/// Whether the append was recorded, the version of the stream before it, the position of its first event, and the time.
type Row = (bool, i64, i64, Instant);

/// Appends to one stream, without a condition. Returns `None` if the append was not recorded.
pub(crate) async fn append_one(
    connection: &mut PgConnection,
    db: &Db,
    append: &Checked,
) -> Result<Option<Written>, sqlx::Error> {
    let write = &append.append.writes[0];
    let events = || write.events.iter();
    let mut types = DistinctTypes::default();
    types.add(&append.append, append.types.as_deref().unwrap_or_default());
    let row: Row = sqlx::query_as(db.sql.append_one())
        .bind(write.stream.as_str())
        .bind(expected(write.expected))
        .bind(events().map(|event| event.id).collect::<Vec<_>>())
        .bind(append.types.as_deref())
        .bind(events().map(|event| event.schema.cast_signed()).collect::<Vec<_>>())
        .bind(events().map(|event| event.occurred_at.map(Instant)).collect::<Vec<_>>())
        .bind(events().map(tags).collect::<Vec<_>>())
        .bind(&append.metadata)
        .bind(events().map(|event| &*event.data.body).collect::<Vec<_>>())
        .bind(types.keys)
        .bind(types.categories)
        .bind(types.names)
        .fetch_one(connection)
        .await?;
    Ok(written(append, &[row]))
}

/// Records appends that do not depend on each other. Returns one outcome for each, `None` if it was not recorded. With
/// `pipelined`, the call does not wait for the disk: the caller must [`flush`] before it acknowledges them.
pub(crate) async fn append_batch(
    connection: &mut PgConnection,
    db: &Db,
    appends: &[&Checked],
    pipelined: bool,
) -> Result<Vec<Option<Written>>, sqlx::Error> {
    let mut writes = Writes::default();
    let mut events = Events::default();
    let mut items = Items::default();
    let mut types = DistinctTypes::default();
    // The number of event types that the conditions were resolved against, if one excepts types.
    let mut known_types = None;
    for (checked, number) in appends.iter().zip(1_i32..) {
        let append = &checked.append;
        for write in &append.writes {
            writes.push(number, write.stream.as_str(), expected(write.expected));
            for event in &write.events {
                events.push(writes.stream.len(), event);
            }
        }
        for (stream, version) in &append.unchanged {
            writes.push(number, stream.as_str(), read::signed(version.0));
        }
        let keys = checked.types.as_deref().unwrap_or_default();
        types.add(append, keys);
        events.types.extend(keys);
        events.metadata.extend(checked.metadata.iter().map(|metadata| &**metadata));
        if let Some(condition) = &append.condition {
            let (resolved, known) = db.types.resolve(&condition.query, &[]);
            if resolved.is_some() {
                // The smaller number was read earlier, so it is the one to check.
                known_types = Some(known_types.map_or(known, |other: usize| known.min(other)));
            }
            for item in &resolved.as_ref().unwrap_or(&condition.query).items {
                items.append.push(number);
                items.after.push(read::signed(condition.after.0));
                items.names.push(names(item));
                items.tags.push(array(item.tags.iter().map(ToString::to_string)));
            }
        }
    }
    let sql = if known_types.is_some() { db.sql.append_batch_still() } else { db.sql.append_batch() };
    let mut call = sqlx::query_as(sql)
        .bind(writes.append)
        .bind(writes.stream)
        .bind(writes.expected)
        .bind(events.write)
        .bind(events.id)
        .bind(events.types)
        .bind(events.schema)
        .bind(events.occurred_at)
        .bind(events.tags)
        .bind(events.metadata)
        .bind(events.body)
        .bind(items.append)
        .bind(items.after)
        .bind(items.names)
        .bind(items.tags)
        .bind(types.keys)
        .bind(types.categories)
        .bind(types.names)
        .bind(pipelined);
    if let Some(types) = known_types {
        call = call.bind(read::signed(types as u64));
    }
    let rows: Vec<Row> = call.fetch_all(connection).await?;
    let mut rows = &rows[..];
    let of_each = appends.iter().map(|append| {
        let (own, others) = rows.split_at_checked(append.streams()).ok_or(sqlx::Error::RowNotFound)?;
        rows = others;
        Ok(written(append, own))
    });
    of_each.collect()
}

/// Waits until everything recorded so far is on disk. Returns whether this event is recorded.
pub(crate) async fn flush(connection: &mut PgConnection, db: &Db, event: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query(db.sql.flush()).bind(event).fetch_one(connection).await?.try_get(0)
}

/// Returns those of the event ids that are recorded.
pub(crate) async fn recorded_ids(
    connection: &mut PgConnection,
    db: &Db,
    ids: Vec<Uuid>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let taken: Vec<Uuid> = sqlx::query_scalar(db.sql.taken()).bind(ids).fetch_all(connection).await?;
    Ok(taken.into_iter().collect())
}

/// Returns the streams and positions of an append, if it was recorded.
fn written(append: &Checked, rows: &[Row]) -> Option<Written> {
    let &(true, _, first, Instant(recorded_at)) = rows.first()? else { return None };
    let first = Position(first.unsigned_abs());
    let streams = append.append.writes.iter().zip(rows).map(|(write, (_, before, ..))| {
        (write.stream.clone(), Version(before.unsigned_abs() + write.events.len() as u64))
    });
    let last = Position(first.0 - 1 + append.metadata.len() as u64);
    Some(Written { streams: streams.collect(), first, last, recorded_at, replayed: false })
}

#[derive(Default)]
struct Writes<'a> {
    append: Vec<i32>,
    stream: Vec<&'a str>,
    expected: Vec<i64>,
}

impl<'a> Writes<'a> {
    fn push(&mut self, append: i32, stream: &'a str, expected: i64) {
        self.append.push(append);
        self.stream.push(stream);
        self.expected.push(expected);
    }
}

#[derive(Default)]
struct Events<'a> {
    write: Vec<i32>,
    id: Vec<uuid::Uuid>,
    types: Vec<i32>,
    schema: Vec<i32>,
    occurred_at: Vec<Option<Instant>>,
    tags: Vec<String>,
    metadata: Vec<&'a [u8]>,
    body: Vec<&'a [u8]>,
}

impl<'a> Events<'a> {
    fn push(&mut self, write: usize, event: &'a NewEvent) {
        self.write.push(i32::try_from(write).unwrap_or(i32::MAX));
        self.id.push(event.id);
        self.schema.push(event.schema.cast_signed());
        self.occurred_at.push(event.occurred_at.map(Instant));
        self.tags.push(tags(event));
        self.body.push(&event.data.body);
    }
}

#[derive(Default)]
struct Items {
    append: Vec<i32>,
    after: Vec<i64>,
    names: Vec<String>,
    tags: Vec<String>,
}
