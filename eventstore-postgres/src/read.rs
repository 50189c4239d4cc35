//! Reads events: by position, by stream, or by what a query asks for.

use eventstore_core::{
    EventError, Item, Metadata, NewEvent, Position, Raw, Read, Recorded, StoreError, StreamId, Tag, Version, event_id,
};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    error,
    shared::Shared,
    types::{Instant, array, names},
};

/// A page of events, and the head of the log as the same snapshot has it.
pub(crate) struct Page {
    pub(crate) head: Position,
    pub(crate) events: Vec<Recorded<Raw>>,
}

/// The page a read asks for: its `limit` is the size of the page.
pub(crate) async fn page(connection: &mut PgConnection, shared: &Shared, read: &Read) -> Result<Page, StoreError> {
    let (after, until) = (signed(read.after.0), read.until.map_or(i64::MAX, |until| signed(until.0)));
    let limit = read.limit.map_or(i64::MAX, |limit| signed(limit as u64));
    let tags = |item: &Item| item.tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rows = match (&read.query.items[..], read.query.stream()) {
        ([item], _) if *item == Item::default() => {
            let page = sqlx::query(if read.backwards { shared.sql.events_backwards() } else { shared.sql.events() });
            page.bind(after).bind(until).bind(limit).fetch_all(&mut *connection).await
        }
        ([item], Some(stream)) => {
            let names: Option<Vec<&str>> =
                (!item.names.is_empty()).then(|| item.names.iter().map(|name| &**name).collect());
            let until_version = read.until_version.map_or(i64::MAX, |until| signed(until.0));
            let page = sqlx::query(match read.backwards {
                false => shared.sql.events_of_stream(),
                true => shared.sql.events_of_stream_backwards(),
            });
            let page = page.bind(after).bind(until).bind(limit).bind(stream.as_str());
            let page = page.bind(signed(read.after_version.0)).bind(until_version).bind(names).bind(tags(item));
            page.fetch_all(&mut *connection).await
        }
        (items, _) => {
            let page = sqlx::query(match read.backwards {
                false => shared.sql.events_matching(),
                true => shared.sql.events_matching_backwards(),
            });
            let page = page.bind(after).bind(until).bind(limit);
            let page = page.bind(items.iter().map(names).collect::<Vec<_>>());
            let page = page.bind(items.iter().map(|item| array(tags(item))).collect::<Vec<_>>());
            let page = page.bind(items.iter().map(|item| item.category.as_deref()).collect::<Vec<_>>());
            let page = page.bind(items.iter().map(|item| item.key.as_deref()).collect::<Vec<_>>());
            page.fetch_all(&mut *connection).await
        }
    };
    recorded(connection, shared, rows.map_err(error::store)?).await
}

/// The events of a stretch of the log.
pub(crate) async fn events(
    connection: &mut PgConnection,
    shared: &Shared,
    after: Position,
    until: Position,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let rows = sqlx::query(shared.sql.events()).bind(signed(after.0)).bind(signed(until.0)).bind(i64::MAX);
    let rows = rows.fetch_all(&mut *connection).await.map_err(error::store)?;
    Ok(recorded(connection, shared, rows).await?.events)
}

/// The events of a command, from that of its first id on.
pub(crate) async fn of_command(
    connection: &mut PgConnection,
    shared: &Shared,
    command: Uuid,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    const PAGE: usize = 1_000;
    let mut found = vec![];
    loop {
        let rows = sqlx::query(shared.sql.events_of_command()).bind(event_id(command, 0));
        let rows = rows.bind(signed(found.len() as u64)).bind(signed(PAGE as u64));
        let rows = rows.fetch_all(&mut *connection).await.map_err(error::store)?;
        let page = recorded(connection, shared, rows).await?.events;
        let numbers = u32::try_from(found.len()).map_err(error::damaged)?..;
        let own = page.into_iter().zip(numbers).take_while(|(event, n)| event.id == event_id(command, *n));
        let before = found.len();
        found.extend(own.map(|(event, _)| event));
        if found.len() - before < PAGE {
            return Ok(found);
        }
    }
}

/// PostgreSQL's integers have a sign: what is larger than they can say is as good as the largest.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn position(position: i64) -> Result<Position, StoreError> {
    u64::try_from(position).map(Position).map_err(error::damaged)
}

/// The rows of the statements that begin with `events`.
async fn recorded(connection: &mut PgConnection, shared: &Shared, rows: Vec<PgRow>) -> Result<Page, StoreError> {
    const TYPE: usize = 6;
    for row in &rows {
        let key: Option<i32> = row.try_get(TYPE).map_err(error::store)?;
        if key.is_some_and(|key| shared.types.name(key).is_none()) {
            shared.types.load(connection, &shared.sql).await?;
            break;
        }
    }
    let head = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(error::store)?;
    let events = rows.iter().filter_map(|row| event(shared, row).transpose()).collect::<Result<_, _>>()?;
    Ok(Page { head: position(head)?, events })
}

/// The event in a row; none in a row that only says where the head is.
fn event(shared: &Shared, row: &PgRow) -> Result<Option<Recorded<Raw>>, StoreError> {
    let Some(place) = row.try_get::<Option<i64>, _>(1).map_err(error::store)? else { return Ok(None) };
    let position = position(place)?;
    let version = Version(row.try_get::<i64, _>(2).map_err(error::store)?.unsigned_abs());
    let instant = |column| row.try_get::<Instant, _>(column).map(|instant| instant.0).map_err(error::store);
    let (recorded_at, occurred_at) = (instant(3)?, instant(4)?);
    let id = row.try_get(5).map_err(error::store)?;
    let key = row.try_get(6).map_err(error::store)?;
    let name = shared.types.name(key).ok_or_else(|| error::damaged(format!("there is no event type {key}")))?;
    let schema = row.try_get::<i32, _>(7).map_err(error::store)?.cast_unsigned();
    let stream: StreamId = row.try_get::<&str, _>(8).map_err(error::store)?.parse().map_err(error::damaged)?;
    let tags: Vec<String> = row.try_get(9).map_err(error::store)?;
    let tags = tags.iter().map(|tag| tag.parse()).collect::<Result<Vec<Tag>, _>>().map_err(error::damaged)?;
    let metadata = Metadata::from_json(row.try_get(10).map_err(error::store)?).map_err(|error| {
        let (stream, source) = (stream.clone(), EventError::Metadata(error));
        StoreError::Unreadable { stream, version, source }
    })?;
    let body = row.try_get::<&[u8], _>(11).map_err(error::store)?.to_vec();
    let new = NewEvent { id, schema, occurred_at: Some(occurred_at), metadata, data: Raw { name, tags, body } };
    Ok(Some(new.recorded(stream, version, position, recorded_at)))
}
