//! Reads events: by position, by stream, or by what a query asks for.

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

/// Event types that were read or given out: key, category, name. In a transaction, they are there once it is committed.
pub(crate) type NewTypes = Vec<(i32, String, String)>;

type Statement<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// The page a read asks for: its `limit` is the size of the page. The log of the connection's server is known to go as far
/// as `known`.
pub(crate) async fn page(
    connection: &mut PgConnection,
    db: &Db,
    read: &Read,
    known: Position,
    new: &mut NewTypes,
) -> Result<Page, StoreError> {
    if read.bare
        && !read.backwards
        && let Some(stream) = read.query.stream()
        && read.query == Query::of(&stream)
    {
        let query = || bare_query(db, read, &stream);
        let mut page = fetch(connection, db, new, query, Layout::Bare(&stream)).await?.page;
        page.events.sort_by_key(|event| event.version);
        page.head = head_of(connection, db, known, &page, read.limit, read.until_version).await?;
        return Ok(page);
    }
    let mut page = match read.query.items.iter().any(|item| item.except.is_some()) {
        false => fetch(connection, db, new, || query(db, read), Layout::Whole).await?.page,
        true => resolved(connection, db, read, new).await?,
    };
    // They come in order. No statement says so: that would have the server hold all of a page back, to sort it.
    if read.backwards {
        page.events.sort_by_key(|event| Reverse(event.position));
    } else {
        page.events.sort_by_key(|event| event.position);
    }
    Ok(page)
}

/// A page of a query that asks for names without naming them: they are found among the types that this process knows,
/// and the statement says how many there are. If there are others, it reads again.
async fn resolved(connection: &mut PgConnection, db: &Db, read: &Read, new: &mut NewTypes) -> Result<Page, StoreError> {
    let (mut asked, mut known) = db.types.resolve(&read.query, new);
    loop {
        let named = Read { query: asked.clone().unwrap_or_default(), ..read.clone() };
        let found = fetch(connection, db, new, || query(db, &named), Layout::Counted).await?;
        if found.types == known as u64 {
            return Ok(Page { asked, ..found.page });
        }
        *new = sqlx::query_as(db.sql.types()).fetch_all(&mut *connection).await.map_err(error::store)?;
        let all: TypeIndex = new.iter().map(|(_, category, name)| (category, name)).collect();
        (asked, known) = (all.resolve(&read.query), all.len());
    }
}

/// What one statement reads.
#[derive(Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// A page: the `limit` is its size.
    Page(&'a Read),
    /// The snapshot of a stream and a kind, and a page of the events from its last one on, or of all.
    FromSnapshot(&'a StreamId, &'a str, usize),
}

impl Asked<'_> {
    /// Reads on a connection to this server.
    pub(crate) async fn read(
        self,
        connection: &mut PgConnection,
        server: u64,
        db: &Db,
        new: &mut NewTypes,
    ) -> Result<(Option<StoredSnapshot>, Page), StoreError> {
        // Before anything is sent: whatever is known now, the statement sees.
        let known = db.head.known(server);
        let (stream, kind, limit) = match self {
            Self::Page(read) => {
                let page = page(connection, db, read, known, new).await?;
                db.head.seen(server, known, page.head);
                return Ok((None, page));
            }
            Self::FromSnapshot(stream, kind, limit) => (stream, kind, signed(limit as u64)),
        };
        let query = || {
            let query = sqlx::query(db.sql.events_from_snapshot()).bind(stream.as_str().to_owned());
            query.bind(kind).bind(limit)
        };
        let layout = Layout::FromSnapshot(stream, kind);
        let Found { mut page, snapshot, .. } = fetch(connection, db, new, query, layout).await?;
        page.events.sort_by_key(|event| event.version);
        page.head = head_of(connection, db, known, &page, usize::try_from(limit).ok(), None).await?;
        Ok((snapshot, page))
    }
}

/// Up to where there is no more of a stream than a page of it: up to where it was known, before the page was read, that the
/// log goes, for all of that was read; and up to the last event. To ask where the log ends takes a quarter as long as to read
/// ten events. What comes behind a whole page must be known to be there.
async fn head_of(
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

/// How many events a read asks for. They are counted page by page, so that the server's memory stays bounded.
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

/// The events of a stretch of the log.
pub(crate) async fn events(
    connection: &mut PgConnection,
    db: &Db,
    after: Position,
    until: Position,
    new: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let read = Read { query: Query::all(), after, until: Some(until), ..Read::default() };
    Ok(page(connection, db, &read, Position(0), new).await?.events)
}

/// The events with these ids.
pub(crate) async fn of_ids(
    connection: &mut PgConnection,
    db: &Db,
    ids: &[Uuid],
    new: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let query = || sqlx::query(db.sql.events_of_ids()).bind(ids);
    let mut events = fetch(connection, db, new, query, Layout::Whole).await?.page.events;
    events.sort_by_key(|event| event.position);
    Ok(events)
}

/// The events of a command, from that of its first id on.
pub(crate) async fn of_command(
    connection: &mut PgConnection,
    db: &Db,
    command: Uuid,
    new: &mut NewTypes,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    const PAGE: usize = 1_000;
    let mut found = vec![];
    loop {
        let (first, skip) = (event_id(command, 0), signed(found.len() as u64));
        let query = || sqlx::query(db.sql.events_of_command()).bind(first).bind(skip).bind(signed(PAGE as u64));
        let page = fetch(connection, db, new, query, Layout::Whole).await?.page.events;
        let numbers = u32::try_from(found.len()).map_err(error::damaged)?..;
        let own = page.into_iter().zip(numbers).take_while(|(event, n)| event.id == event_id(command, *n));
        let before = found.len();
        found.extend(own.map(|(event, _)| event));
        if found.len() - before < PAGE {
            return Ok(found);
        }
    }
}

/// A page of the streams of a category.
pub(crate) async fn streams(
    connection: &mut PgConnection,
    db: &Db,
    category: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<StreamHead>, StoreError> {
    // No name begins with a category and a character between `-` and `.`.
    let (after, before) = (format!("{category}-{after}"), format!("{category}."));
    let page = sqlx::query_as(db.sql.streams()).bind(after).bind(before).bind(signed(limit as u64));
    let page: Vec<(String, i64, i64)> = page.fetch_all(connection).await.map_err(error::store)?;
    let head = |(stream, version, last): (String, i64, i64)| {
        let (stream, version) = (stream.parse().map_err(error::damaged)?, Version(version.unsigned_abs()));
        Ok(StreamHead { stream, version, position: position(last)? })
    };
    page.into_iter().map(head).collect()
}

/// What was recorded by an instant. At READ COMMITTED only: else the error is `ES001`, where what is open is waited for.
pub(crate) async fn prefix_at(connection: &mut PgConnection, db: &Db, at: Timestamp) -> Result<Prefix, sqlx::Error> {
    let found = sqlx::query_as(db.sql.position_at()).bind(Instant(at)).fetch_one(connection).await;
    let (found, settled): (i64, bool) = found?;
    Ok(Prefix { position: Position(found.unsigned_abs()), settled })
}

/// Which log it is.
pub(crate) async fn identity(connection: &mut PgConnection, db: &Db) -> Result<Identity, StoreError> {
    let stored = sqlx::query_as(db.sql.identity()).fetch_optional(connection).await.map_err(error::store)?;
    let stored: Option<(Uuid, i64, Instant)> = stored;
    let (id, epoch, since) = stored.ok_or_else(|| error::damaged("the identity of the log is gone"))?;
    Ok(Identity::new(id, epoch.unsigned_abs(), since.0))
}

/// PostgreSQL's integers have a sign: what is larger than they can say is as good as the largest.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn position(position: i64) -> Result<Position, StoreError> {
    u64::try_from(position).map(Position).map_err(error::damaged)
}

/// What the rows of a statement are.
#[derive(Clone, Copy)]
enum Layout<'a> {
    Whole,
    /// With the number of event types behind it.
    Counted,
    Bare(&'a StreamId),
    FromSnapshot(&'a StreamId, &'a str),
}

/// What they have said.
#[derive(Default)]
struct Found {
    page: Page,
    snapshot: Option<StoredSnapshot>,
    /// How many event types there are.
    types: u64,
}

/// Runs one of the statements that begin with `events`; again as long as it shows a type of event that is new here.
async fn fetch<'q>(
    connection: &mut PgConnection,
    db: &Db,
    new: &mut NewTypes,
    query: impl Fn() -> Statement<'q>,
    layout: Layout<'_>,
) -> Result<Found, StoreError> {
    // Types of events that are not in the log.
    let mut missing = HashSet::new();
    loop {
        let unknown = match fetch_known(connection, db, new, &missing, query(), layout).await? {
            Ok(found) => return Ok(found),
            Err(unknown) => unknown,
        };
        *new = sqlx::query_as(db.sql.types()).fetch_all(&mut *connection).await.map_err(error::store)?;
        // A type is there before its first event, so a list that is read later has it, or it is nowhere. The next page may
        // show another, which was added since.
        if new.iter().all(|(key, ..)| *key != unknown) {
            missing.insert(unknown);
        }
    }
}

/// Takes rows in while the server sends them; or says which type of an event is not known here.
async fn fetch_known(
    connection: &mut PgConnection,
    db: &Db,
    new: &NewTypes,
    missing: &HashSet<i32>,
    query: Statement<'_>,
    layout: Layout<'_>,
) -> Result<Result<Found, i32>, StoreError> {
    let new = new.iter().map(|(key, _, name)| (*key, name.as_str().into())).collect();
    let mut names = Names { db, new, missing, last: None };
    let mut rows = connection.fetch_many(query);
    let mut found = Found::default();
    let mut unknown = None;
    while let Some(row) = rows.try_next().await.map_err(error::store)? {
        let Either::Right(row) = row else { continue };
        let columns = Columns(&row);
        let taken = match layout {
            Layout::Whole => take(&columns, &mut names, &mut found.page)?,
            Layout::Counted => {
                found.types = columns.get::<i64>(12)?.unsigned_abs();
                take(&columns, &mut names, &mut found.page)?
            }
            Layout::Bare(stream) => take_bare(&columns, stream, &mut names, &mut found.page)?,
            Layout::FromSnapshot(stream, kind) => take_after_snapshot(&columns, stream, kind, &mut names, &mut found)?,
        };
        unknown = taken.err().or(unknown);
    }
    Ok(unknown.map_or(Ok(found), Err))
}

/// The names of event types.
struct Names<'a> {
    db: &'a Db,
    new: HashMap<i32, Arc<str>>,
    /// Types that are not in the log.
    missing: &'a HashSet<i32>,
    /// Neighbours are often of one type.
    last: Option<(i32, Arc<str>)>,
}

impl Names<'_> {
    /// The key, if it is not known.
    fn name(&mut self, key: i32) -> Result<Arc<str>, i32> {
        if let Some((_, name)) = self.last.as_ref().filter(|(last, _)| *last == key) {
            return Ok(name.clone());
        }
        let name = self.new.get(&key).cloned().or_else(|| self.db.types.name(key));
        let name = match name {
            Some(name) => name,
            None if self.missing.contains(&key) => format!("?{key}").into(),
            None => return Err(key),
        };
        self.last = Some((key, name.clone()));
        Ok(name)
    }

    /// The event, marked if its type is not in the log.
    fn mark(&self, key: i32, event: Recorded<Raw>) -> Recorded<Raw> {
        if self.missing.contains(&key) { event.damaged("its type is not in the log") } else { event }
    }
}

/// Takes a row in; or says which type it is of that is not known.
fn take(columns: &Columns<'_>, names: &mut Names<'_>, page: &mut Page) -> Result<Result<(), i32>, StoreError> {
    page.head = position(columns.get(0)?)?;
    // A row without a place only says where the head is.
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

/// The same for a bare row: version, type, schema, body, position.
fn take_bare(
    columns: &Columns<'_>,
    stream: &StreamId,
    names: &mut Names<'_>,
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

/// The same, with the id and the instant of the event behind it: without a type it is the snapshot.
fn take_after_snapshot(
    columns: &Columns<'_>,
    stream: &StreamId,
    kind: &str,
    names: &mut Names<'_>,
    found: &mut Found,
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
    let taken = take_bare(columns, stream, names, &mut found.page)?;
    if let (Ok(()), Some(event)) = (taken, found.page.events.last_mut()) {
        (event.id, event.recorded_at) = (id, recorded_at);
    }
    Ok(taken)
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
    // Neighbours are often of one stream.
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

/// The tags of an event, as far as they can be read, and why not all can.
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
        // Of several dimensions, or not counted from 1.
        Err(_) => (vec![], Some("its tags are no list".into())),
    }
}

/// The columns of a row of a statement of ours: their types need not be compared for each row again.
struct Columns<'r>(&'r PgRow);

impl<'r> Columns<'r> {
    fn get<T: Decode<'r, Postgres>>(&self, column: usize) -> Result<T, StoreError> {
        self.0.try_get_unchecked(column).map_err(error::store)
    }
}
