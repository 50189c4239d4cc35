//! Reads events by position, by stream, or by query.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use eventstore_core::{
    EventError, Identity, Item, Metadata, NewEvent, Page, Position, Prefix, Query, Raw, Read, Recorded, StoreError,
    StoredSnapshot, StreamHead, StreamId, Tag, Timestamp, TypeIndex, Version, event_id,
};
use futures::TryStreamExt;
use sqlx::{
    Decode, Either, Executor, PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
};
use uuid::Uuid;

use crate::{
    db::Db,
    error,
    types::{Instant, array, names},
};

/// Event types that were read or created: key, category, name. Those that a transaction created exist once it commits.
pub(crate) type NewTypes = Vec<(i32, String, String)>;

type Statement<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Returns the page of a read, whose `limit` is the size of the page. `known` is the last position that this process
/// knew of the connection's server before the read.
pub(crate) async fn page(
    connection: &mut PgConnection,
    db: &Db,
    read: &Read,
    known: Position,
    new_types: &mut NewTypes,
) -> Result<Page, StoreError> {
    if read.bare
        && !read.backwards
        && let Some(stream) = read.query.stream()
        && read.query == Query::of(&stream)
    {
        let query = || bare_query(db, read, &stream);
        let mut page = fetch(connection, db, new_types, query, Layout::Bare(&stream)).await?.page;
        page.events.sort_by_key(|event| event.version);
        page.head = head_of_page(connection, db, known, &page, read.limit, read.until_version).await?;
        return Ok(page);
    }
    let mut page = match read.query.items.iter().any(|item| item.except.is_some()) {
        false => fetch(connection, db, new_types, || query(db, read), Layout::Whole).await?.page,
        true => page_of_types(connection, db, read, new_types).await?,
    };
    // The rows mostly come in order. No statement sorts them: the server would hold back the whole page to do so.
    if read.backwards {
        page.events.sort_by_key(|event| Reverse(event.position));
    } else {
        page.events.sort_by_key(|event| event.position);
    }
    Ok(page)
}

/// Returns a page of a query that excepts event types. The types it names are resolved among those that this process
/// knows, and the statement returns how many there are. If there are more, this learns them and reads again.
async fn page_of_types(
    connection: &mut PgConnection,
    db: &Db,
    read: &Read,
    new_types: &mut NewTypes,
) -> Result<Page, StoreError> {
    let (mut named_query, mut known) = db.types.resolve(&read.query, new_types);
    loop {
        let named = Read { query: named_query.clone().unwrap_or_default(), ..read.clone() };
        let found = fetch(connection, db, new_types, || query(db, &named), Layout::Counted).await?;
        if found.types == known as u64 {
            return Ok(Page { asked: named_query, ..found.page });
        }
        *new_types = sqlx::query_as(db.sql.types()).fetch_all(&mut *connection).await.map_err(error::store)?;
        let all: TypeIndex = new_types.iter().map(|(_, category, name)| (category, name)).collect();
        (named_query, known) = (all.resolve(&read.query), all.len());
    }
}

/// What one statement reads.
#[derive(Clone, Copy)]
pub(crate) enum PageRequest<'a> {
    /// A page, whose size is the `limit`.
    Page(&'a Read),
    /// The snapshot of a stream and a kind, and a page (of this size) of the stream's events from the snapshot's last
    /// event on, or from the first if there is no snapshot.
    FromSnapshot(&'a StreamId, &'a str, usize),
}

impl PageRequest<'_> {
    /// Runs the read on a connection to this server.
    pub(crate) async fn read(
        self,
        connection: &mut PgConnection,
        server: u64,
        db: &Db,
        new_types: &mut NewTypes,
    ) -> Result<(Option<StoredSnapshot>, Page), StoreError> {
        // Before anything is sent: the statement sees at least the position that is known now.
        let known = db.head.known(server);
        let (stream, kind, limit) = match self {
            Self::Page(read) => {
                let page = page(connection, db, read, known, new_types).await?;
                db.head.check_end(server, known, page.head);
                return Ok((None, page));
            }
            Self::FromSnapshot(stream, kind, limit) => (stream, kind, signed(limit as u64)),
        };
        let query = || {
            let query = sqlx::query(db.sql.events_from_snapshot()).bind(stream.as_str().to_owned());
            query.bind(kind).bind(limit)
        };
        let layout = Layout::FromSnapshot(stream, kind);
        let Fetched { mut page, snapshot, .. } = fetch(connection, db, new_types, query, layout).await?;
        page.events.sort_by_key(|event| event.version);
        page.head = head_of_page(connection, db, known, &page, usize::try_from(limit).ok(), None).await?;
        Ok((snapshot, page))
    }
}

/// Returns the head to report with a page of one stream. If the page is not full, the stream has no further event up to
/// `max(known, last event)`, where `known` is the head this process knew before the read. That saves the query for the
/// real head, which costs a quarter of reading ten events. A full page asks for it.
async fn head_of_page(
    connection: &mut PgConnection,
    db: &Db,
    known: Position,
    page: &Page,
    limit: Option<usize>,
    until: Option<Version>,
) -> Result<Position, StoreError> {
    let last = page.events.last();
    let whole = limit.is_some_and(|limit| page.events.len() >= limit);
    if !whole || last.is_some_and(|last| Some(last.version) == until) {
        return Ok(last.map_or(known, |last| last.position.max(known)));
    }
    let head = sqlx::query_scalar(db.sql.head()).fetch_one(connection).await.map_err(error::store)?;
    position(head)
}

fn query<'q>(db: &Db, read: &'q Read) -> Statement<'q> {
    let (after, until) = (signed(read.after.0), read.until.map_or(i64::MAX, |until| signed(until.0)));
    let limit = read.limit.map_or(i64::MAX, |limit| signed(limit as u64));
    let tags = |item: &Item| item.tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    match (&read.query.items[..], read.query.stream()) {
        ([item], _) if *item == Item::default() => {
            let page = sqlx::query(if read.backwards { db.sql.events_backwards() } else { db.sql.events() });
            page.bind(after).bind(until).bind(limit)
        }
        ([item], Some(stream)) => {
            let names: Option<Vec<&str>> =
                (!item.names.is_empty()).then(|| item.names.iter().map(|name| &**name).collect());
            let until_version = read.until_version.map_or(i64::MAX, |until| signed(until.0));
            let page = sqlx::query(match read.backwards {
                false => db.sql.events_of_stream(),
                true => db.sql.events_of_stream_backwards(),
            });
            let page = page.bind(after).bind(until).bind(limit).bind(stream.as_str().to_owned());
            page.bind(signed(read.after_version.0)).bind(until_version).bind(names).bind(tags(item))
        }
        ([Item { names, tags, category, key: None, .. }], _) if tags.is_empty() && !read.backwards => {
            let names: Vec<&str> = names.iter().map(|name| &**name).collect();
            let page = sqlx::query(db.sql.events_of_types()).bind(after).bind(until).bind(limit);
            page.bind(names).bind(category.as_deref())
        }
        (items, _) => {
            let page = sqlx::query(match read.backwards {
                false => db.sql.events_matching(),
                true => db.sql.events_matching_backwards(),
            });
            let page = page.bind(after).bind(until).bind(limit);
            let page = page.bind(items.iter().map(names).collect::<Vec<_>>());
            let page = page.bind(items.iter().map(|item| array(tags(item))).collect::<Vec<_>>());
            let page = page.bind(items.iter().map(|item| item.category.as_deref()).collect::<Vec<_>>());
            page.bind(items.iter().map(|item| item.key.as_deref()).collect::<Vec<_>>())
        }
    }
}

fn bare_query<'q>(db: &Db, read: &Read, stream: &StreamId) -> Statement<'q> {
    let page = sqlx::query(db.sql.events_bare()).bind(stream.as_str().to_owned());
    let page = page.bind(signed(read.after.0)).bind(read.until.map_or(i64::MAX, |until| signed(until.0)));
    let page = page.bind(signed(read.after_version.0));
    let page = page.bind(read.until_version.map_or(i64::MAX, |until| signed(until.0)));
    page.bind(read.limit.map_or(i64::MAX, |limit| signed(limit as u64)))
}

/// Returns how many events match a read. Counts page by page, so that the server's memory stays bounded.
pub(crate) async fn count(connection: &mut PgConnection, db: &Db, read: &Read) -> Result<u64, StoreError> {
    const PAGE: u64 = 100_000;
    let until = read.until.map_or(i64::MAX, |until| signed(until.0));
    let wanted = read.limit.map_or(u64::MAX, |limit| limit as u64);
    let tags = |item: &Item| item.tags.iter().map(ToString::to_string).collect::<Vec<_>>();
    if let (Some(stream), [item]) = (read.query.stream(), &read.query.items[..]) {
        let named: Option<Vec<&str>> =
            (!item.names.is_empty()).then(|| item.names.iter().map(|name| &**name).collect());
        let until_version = read.until_version.map_or(i64::MAX, |until| signed(until.0));
        let count = sqlx::query_scalar(db.sql.count_of_stream())
            .bind(signed(read.after.0))
            .bind(until)
            .bind(stream.as_str().to_owned())
            .bind(signed(read.after_version.0))
            .bind(until_version)
            .bind(named)
            .bind(tags(item));
        let count: i64 = count.fetch_one(connection).await.map_err(error::store)?;
        return Ok(count.unsigned_abs().min(wanted));
    }
    let items = &read.query.items;
    let (mut count, mut after) = (0, signed(read.after.0));
    loop {
        let page = PAGE.min(wanted - count);
        let some = sqlx::query_as(db.sql.count())
            .bind(after)
            .bind(until)
            .bind(signed(page))
            .bind(items.iter().map(names).collect::<Vec<_>>())
            .bind(items.iter().map(|item| array(tags(item))).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.category.as_deref()).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.key.as_deref()).collect::<Vec<_>>());
        let (found, last): (i64, Option<i64>) = some.fetch_one(&mut *connection).await.map_err(error::store)?;
        count += found.unsigned_abs();
        match last {
            Some(last) if found.unsigned_abs() == page && count < wanted => after = last,
            _ => return Ok(count),
        }
    }
}

/// Returns the events after one position and up to another.
pub(crate) async fn events(
    connection: &mut PgConnection,
    db: &Db,
    after: Position,
    until: Position,
    new_types: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let read = Read { query: Query::all(), after, until: Some(until), ..Read::default() };
    Ok(page(connection, db, &read, Position(0), new_types).await?.events)
}

/// Returns the events with these ids, in the order of the log.
pub(crate) async fn events_by_ids(
    connection: &mut PgConnection,
    db: &Db,
    ids: &[Uuid],
    new_types: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let query = || sqlx::query(db.sql.events_of_ids()).bind(ids);
    let mut events = fetch(connection, db, new_types, query, Layout::Whole).await?.page.events;
    events.sort_by_key(|event| event.position);
    Ok(events)
}

/// Returns the events of a command: from the one with the command's first id on, as long as their ids follow each
/// other.
pub(crate) async fn events_of_command(
    connection: &mut PgConnection,
    db: &Db,
    command: Uuid,
    new_types: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    const PAGE: usize = 1_000;
    let mut found = vec![];
    loop {
        let (first, skip) = (event_id(command, 0), signed(found.len() as u64));
        let query = || sqlx::query(db.sql.events_of_command()).bind(first).bind(skip).bind(signed(PAGE as u64));
        let page = fetch(connection, db, new_types, query, Layout::Whole).await?.page.events;
        let numbers = u32::try_from(found.len()).map_err(error::damaged)?..;
        let own = page.into_iter().zip(numbers).take_while(|(event, n)| event.id == event_id(command, *n));
        let before = found.len();
        found.extend(own.map(|(event, _)| event));
        if found.len() - before < PAGE {
            return Ok(found);
        }
    }
}

/// Returns a page of the streams of a category that come after a key.
pub(crate) async fn streams(
    connection: &mut PgConnection,
    db: &Db,
    category: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<StreamHead>, StoreError> {
    // No stream name has a character between `-` and `.` behind its category, so this bounds the category.
    let (after, before) = (format!("{category}-{after}"), format!("{category}."));
    let page = sqlx::query_as(db.sql.streams()).bind(after).bind(before).bind(signed(limit as u64));
    let page: Vec<(String, i64, i64)> = page.fetch_all(connection).await.map_err(error::store)?;
    let head = |(stream, version, last): (String, i64, i64)| {
        let (stream, version) = (stream.parse().map_err(error::damaged)?, Version(version.unsigned_abs()));
        Ok(StreamHead { stream, version, position: position(last)? })
    };
    page.into_iter().map(head).collect()
}

/// Returns the last position recorded at or before an instant. Waits for open appends, which needs READ COMMITTED: at
/// another isolation level the server raises `ES001`.
pub(crate) async fn prefix_at(connection: &mut PgConnection, db: &Db, at: Timestamp) -> Result<Prefix, sqlx::Error> {
    let found = sqlx::query_as(db.sql.position_at()).bind(Instant(at)).fetch_one(connection).await;
    let (found, settled): (i64, bool) = found?;
    Ok(Prefix { position: Position(found.unsigned_abs()), settled })
}

/// Returns the time by the clock of the server.
pub(crate) async fn time(connection: &mut PgConnection, db: &Db) -> Result<Timestamp, StoreError> {
    let micros: i64 = sqlx::query_scalar(db.sql.time()).fetch_one(connection).await.map_err(error::store)?;
    Ok(Timestamp::from_micros(micros))
}

/// Returns the identity of the log. A log without one is [`StoreError::Damaged`].
pub(crate) async fn identity(connection: &mut PgConnection, db: &Db) -> Result<Identity, StoreError> {
    let stored = sqlx::query_as(db.sql.identity()).fetch_optional(connection).await.map_err(error::store)?;
    let stored: Option<(Uuid, i64, Instant)> = stored;
    let (id, epoch, since) = stored.ok_or_else(|| error::damaged("the identity of the log is gone"))?;
    Ok(Identity::new(id, epoch.unsigned_abs(), since.0))
}

/// Converts to PostgreSQL's signed integer. No stored number is larger than the largest of those, so a larger one
/// becomes it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts a stored position. A negative one is [`StoreError::Damaged`].
pub(crate) fn position(position: i64) -> Result<Position, StoreError> {
    u64::try_from(position).map(Position).map_err(error::damaged)
}

/// The columns of a statement's rows.
#[derive(Clone, Copy)]
enum Layout<'a> {
    Whole,
    /// The columns of `Whole`, and the number of event types.
    Counted,
    Bare(&'a StreamId),
    FromSnapshot(&'a StreamId, &'a str),
}

/// The content of the rows of a statement.
#[derive(Default)]
struct Fetched {
    page: Page,
    snapshot: Option<StoredSnapshot>,
    /// The number of event types in the log.
    types: u64,
}

/// Runs one of the statements whose names begin with `events`. If a row has an event type that this process does not
/// know, this reads the list of types and runs the statement again.
async fn fetch<'q>(
    connection: &mut PgConnection,
    db: &Db,
    new_types: &mut NewTypes,
    query: impl Fn() -> Statement<'q>,
    layout: Layout<'_>,
) -> Result<Fetched, StoreError> {
    // Event types of rows that the list of types lacks.
    let mut missing = HashSet::new();
    loop {
        let unknown = match fetch_known(connection, db, new_types, &missing, query(), layout).await? {
            Ok(found) => return Ok(found),
            Err(unknown) => unknown,
        };
        *new_types = sqlx::query_as(db.sql.types()).fetch_all(&mut *connection).await.map_err(error::store)?;
        // A type is recorded before its first event, so a list that is read after the event has it, unless the log is
        // damaged. The repeated statement may show another type, which was added since.
        if new_types.iter().all(|(key, ..)| *key != unknown) {
            missing.insert(unknown);
        }
    }
}

/// Decodes rows while the server sends them. Returns the key of an event type that this process does not know as the
/// inner error.
async fn fetch_known(
    connection: &mut PgConnection,
    db: &Db,
    new_types: &NewTypes,
    missing: &HashSet<i32>,
    query: Statement<'_>,
    layout: Layout<'_>,
) -> Result<Result<Fetched, i32>, StoreError> {
    let new_types = new_types.iter().map(|(key, _, name)| (*key, name.as_str().into())).collect();
    let mut names = TypeNames { db, new_types, missing, last: None };
    let mut rows = connection.fetch_many(query);
    let mut found = Fetched::default();
    let mut unknown = None;
    while let Some(row) = rows.try_next().await.map_err(error::store)? {
        let Either::Right(row) = row else { continue };
        let columns = Columns(&row);
        let pushed = match layout {
            Layout::Whole => push_row(&columns, &mut names, &mut found.page)?,
            Layout::Counted => {
                found.types = columns.get::<i64>(12)?.unsigned_abs();
                push_row(&columns, &mut names, &mut found.page)?
            }
            Layout::Bare(stream) => push_bare_row(&columns, stream, &mut names, &mut found.page)?,
            Layout::FromSnapshot(stream, kind) => push_snapshot_row(&columns, stream, kind, &mut names, &mut found)?,
        };
        unknown = pushed.err().or(unknown);
    }
    Ok(unknown.map_or(Ok(found), Err))
}

/// Looks up the names of event types.
struct TypeNames<'a> {
    db: &'a Db,
    new_types: HashMap<i32, Arc<str>>,
    /// Types that the log lacks.
    missing: &'a HashSet<i32>,
    /// The last one looked up: neighbours are often of one type.
    last: Option<(i32, Arc<str>)>,
}

impl TypeNames<'_> {
    /// Returns the name of a type, or its key as the error if it is not known. A type that the log lacks is named `?`
    /// and its key.
    fn name(&mut self, key: i32) -> Result<Arc<str>, i32> {
        if let Some((_, name)) = self.last.as_ref().filter(|(last, _)| *last == key) {
            return Ok(name.clone());
        }
        let name = self.new_types.get(&key).cloned().or_else(|| self.db.types.name(key));
        let name = match name {
            Some(name) => name,
            None if self.missing.contains(&key) => format!("?{key}").into(),
            None => return Err(key),
        };
        self.last = Some((key, name.clone()));
        Ok(name)
    }

    /// Marks the event as damaged if the log lacks its type.
    fn mark(&self, key: i32, event: Recorded<Raw>) -> Recorded<Raw> {
        if self.missing.contains(&key) { event.damaged("its type is not in the log") } else { event }
    }
}

/// Adds the event of a row to the page. The inner error is the key of an unknown type.
fn push_row(columns: &Columns<'_>, names: &mut TypeNames<'_>, page: &mut Page) -> Result<Result<(), i32>, StoreError> {
    page.head = position(columns.get(0)?)?;
    // A row without a position only has the head.
    let Some(place) = columns.get(1)? else { return Ok(Ok(())) };
    let key = columns.get(6)?;
    let name = match names.name(key) {
        Ok(name) => name,
        Err(unknown) => return Ok(Err(unknown)),
    };
    let event = event(columns, position(place)?, name, page.events.last())?;
    page.events.push(names.mark(key, event));
    Ok(Ok(()))
}

/// Like [`push_row`] for a bare row: version, type, schema, body, position.
fn push_bare_row(
    columns: &Columns<'_>,
    stream: &StreamId,
    names: &mut TypeNames<'_>,
    page: &mut Page,
) -> Result<Result<(), i32>, StoreError> {
    let key = columns.get(1)?;
    let name = match names.name(key) {
        Ok(name) => name,
        Err(unknown) => return Ok(Err(unknown)),
    };
    let version = Version(columns.get::<i64>(0)?.unsigned_abs());
    let (schema, body) = (columns.get::<i32>(2)?.cast_unsigned(), columns.get::<&[u8]>(3)?.to_vec());
    let mut event = Recorded::bare(stream.clone(), version, name, schema, body);
    event.position = position(columns.get(4)?)?;
    page.events.push(names.mark(key, event));
    Ok(Ok(()))
}

/// Like [`push_bare_row`] for a row that also has the id and the time of the event. A row without a type is the
/// snapshot.
fn push_snapshot_row(
    columns: &Columns<'_>,
    stream: &StreamId,
    kind: &str,
    names: &mut TypeNames<'_>,
    found: &mut Fetched,
) -> Result<Result<(), i32>, StoreError> {
    let (id, recorded_at) = (columns.get(5)?, columns.get::<Instant>(6)?.0);
    if columns.get::<Option<i32>>(1)?.is_none() {
        found.snapshot = Some(StoredSnapshot {
            boundary: stream.as_str().into(),
            kind: kind.into(),
            shape: columns.get::<i64>(8)?.cast_unsigned(),
            version: Version(columns.get::<i64>(0)?.unsigned_abs()),
            position: position(columns.get(4)?)?,
            recorded_at,
            event: id,
            checksum: columns.get::<i64>(7)?.cast_unsigned(),
            state: columns.get(3)?,
        });
        return Ok(Ok(()));
    }
    let pushed = push_bare_row(columns, stream, names, &mut found.page)?;
    if let (Ok(()), Some(event)) = (pushed, found.page.events.last_mut()) {
        (event.id, event.recorded_at) = (id, recorded_at);
    }
    Ok(pushed)
}

fn event(
    columns: &Columns<'_>,
    position: Position,
    name: Arc<str>,
    before: Option<&Recorded<Raw>>,
) -> Result<Recorded<Raw>, StoreError> {
    let version = Version(columns.get::<i64>(2)?.unsigned_abs());
    let (recorded_at, occurred_at) = (columns.get::<Instant>(3)?.0, columns.get::<Instant>(4)?.0);
    let id = columns.get(5)?;
    let schema = columns.get::<i32>(7)?.cast_unsigned();
    let stream: &str = columns.get(8)?;
    // Neighbours are often of one stream, so its name is not parsed again.
    let (stream, no_stream) = match before {
        Some(before) if before.stream.as_str() == stream => (before.stream.clone(), None),
        _ => StreamId::stored(stream),
    };
    let (tags, no_tags) = tags(columns);
    let (metadata, no_metadata) = match Metadata::from_json(columns.get(10)?) {
        Ok(metadata) => (metadata, None),
        Err(error) => (Metadata::default(), Some(EventError::Metadata(error))),
    };
    let body = columns.get::<&[u8]>(11)?.to_vec();
    let new = NewEvent { id, schema, occurred_at: Some(occurred_at), metadata, data: Raw { name, tags, body } };
    let mut event = new.recorded(stream, version, position, recorded_at);
    if let Some(why) = no_stream {
        event = event.damaged(why);
    }
    if let Some(why) = no_tags {
        event = event.damaged(why);
    }
    if let Some(why) = no_metadata {
        event = event.damaged(why);
    }
    Ok(event)
}

/// Returns the tags of an event that can be read, and why one of them cannot.
fn tags(columns: &Columns<'_>) -> (Vec<Tag>, Option<String>) {
    match columns.0.try_get_unchecked::<Vec<Option<String>>, _>(9) {
        Ok(tags) => {
            let tag = |tag: &Option<String>| match tag {
                Some(tag) => Tag::stored(tag),
                None => Tag::stored(""),
            };
            let (tags, wrong): (Vec<_>, Vec<_>) = tags.iter().map(tag).unzip();
            (tags, wrong.into_iter().flatten().next().map(|wrong| wrong.to_string()))
        }
        // The array has several dimensions, or does not begin at 1.
        Err(_) => (vec![], Some("its tags are no list".into())),
    }
}

/// The columns of a row. The statements are the store's own, so the types are not compared for each row.
struct Columns<'r>(&'r PgRow);

impl<'r> Columns<'r> {
    fn get<T: Decode<'r, Postgres>>(&self, column: usize) -> Result<T, StoreError> {
        self.0.try_get_unchecked(column).map_err(error::store)
    }
}
