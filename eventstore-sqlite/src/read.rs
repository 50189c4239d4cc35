//! Reads events: by position, by stream, or by what a query asks for.

use std::collections::BTreeSet;

use eventstore_core::{
    EventError, Identity, Item, Metadata, NewEvent, Position, Prefix, Query, Raw, Read, Recorded, StoreError,
    StreamHead, StreamId, Tag, Timestamp, TypeIndex, Version, event_id,
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::error;

/// A query, resolved against the event types there are: where to find the positions that match.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// The log, as it is.
    Log,
    /// One stream, as it is.
    Stream(StreamId),
    /// Whatever any of these finds.
    Sources(Vec<Source>),
}

/// One index, and what is left to be asked of the events it finds.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    All,
    Type(i64),
    Stream { stream: String, rest: Rest },
    Tag { tag: String, rest: Rest },
}

/// Types and tags, as JSON arrays.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    types: Option<String>,
    tags: String,
}

/// A type of event: key, category, name.
type Type = (i64, String, String);

impl Plan {
    /// The plan, and the query with the names it asks for without naming them. Made after the head of the log was read:
    /// every type of an event up to there is known by then.
    pub(crate) async fn new(
        connection: &mut SqliteConnection,
        query: &Query,
    ) -> Result<(Self, Option<Query>), StoreError> {
        if *query == Query::all() {
            return Ok((Self::Log, None));
        }
        if let Some(stream) = query.stream()
            && *query == Query::of(&stream)
        {
            return Ok((Self::Stream(stream), None));
        }
        let (sources, asked) = sources_of(connection, query).await?;
        Ok((Self::Sources(sources), asked))
    }

    /// The page a read asks for: up to its `until`, and its `limit` is the size of the page.
    pub(crate) async fn page(
        &self,
        connection: &mut SqliteConnection,
        read: &Read,
    ) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let bounds = Bounds::of(read);
        match self {
            Self::Log => {
                let (after, until) = bounds.stretch();
                let page = sqlx::query(include_str!("../sql/events.sql")).bind(after).bind(until).bind(bounds.limit);
                let page = recorded(page.fetch_all(connection).await)?;
                Ok(if read.backwards { page.into_iter().rev().collect() } else { page })
            }
            Self::Stream(stream) => {
                let bare = read.bare && !read.backwards;
                let page = sqlx::query(match read.backwards {
                    _ if bare => include_str!("../sql/events_bare.sql"),
                    false => include_str!("../sql/events_of_stream.sql"),
                    true => include_str!("../sql/events_of_stream_backwards.sql"),
                });
                let page = page.bind(bounds.after).bind(bounds.until).bind(bounds.limit).bind(stream.as_str());
                let page = page.bind(bounds.after_version).bind(bounds.until_version).fetch_all(connection).await;
                if bare {
                    return page.map_err(error::store)?.iter().map(|row| bare_event(row, stream)).collect();
                }
                recorded(page)
            }
            Self::Sources(sources) => {
                let mut found = BTreeSet::new();
                for source in sources {
                    found.extend(source.positions(connection, &bounds).await?);
                }
                let limit = usize::try_from(bounds.limit).unwrap_or(usize::MAX);
                let found: Vec<_> = match read.backwards {
                    false => found.into_iter().take(limit).collect(),
                    true => found.into_iter().rev().take(limit).collect(),
                };
                let page = sqlx::query(include_str!("../sql/events_at.sql")).bind(serde_json::json!(found).to_string());
                let page = recorded(page.fetch_all(connection).await)?;
                Ok(if read.backwards { page.into_iter().rev().collect() } else { page })
            }
        }
    }
}

/// Where a page lies, in SQLite's integers.
struct Bounds {
    after: i64,
    until: i64,
    after_version: i64,
    until_version: i64,
    limit: i64,
    backwards: bool,
}

impl Bounds {
    fn of(read: &Read) -> Self {
        Self {
            after: signed(read.after.0),
            until: read.until.map_or(i64::MAX, |until| signed(until.0)),
            after_version: signed(read.after_version.0),
            until_version: read.until_version.map_or(i64::MAX, |until| signed(until.0)),
            limit: read.limit.map_or(i64::MAX, |limit| signed(limit as u64)),
            backwards: read.backwards,
        }
    }

    /// The positions of a page of the log as it is: without a gap, so that the last ones need no search.
    fn stretch(&self) -> (i64, i64) {
        match self.backwards {
            false => (self.after, self.until),
            true => (self.after.max(self.until.saturating_sub(self.limit)), self.until),
        }
    }
}

/// The indexes that find the events of a query, and the query with the names it asks for without naming them.
async fn sources_of(
    connection: &mut SqliteConnection,
    query: &Query,
) -> Result<(Vec<Source>, Option<Query>), StoreError> {
    let types: Vec<Type> =
        sqlx::query_as(include_str!("../sql/types.sql")).fetch_all(connection).await.map_err(error::store)?;
    let asked = if query.items.iter().any(|item| item.except.is_some()) {
        types.iter().map(|(_, category, name)| (category, name)).collect::<TypeIndex>().resolve(query)
    } else {
        None
    };
    let items = &asked.as_ref().unwrap_or(query).items;
    Ok((items.iter().flat_map(|item| sources(item, &types)).collect(), asked))
}

/// How many events a read asks for, up to a head. They are counted page by page, so that memory stays bounded.
pub(crate) async fn count(connection: &mut SqliteConnection, read: &Read, head: Position) -> Result<u64, StoreError> {
    const PAGE: u64 = 100_000;
    let until = read.until.map_or(head, |until| until.min(head));
    let wanted = read.limit.map_or(u64::MAX, |limit| limit as u64);
    if read.query == Query::all() {
        return Ok(until.0.saturating_sub(read.after.0).min(wanted));
    }
    let (sources, _) = sources_of(connection, &read.query).await?;
    let (mut count, mut after) = (0, signed(read.after.0));
    loop {
        let page = PAGE.min(wanted - count);
        let bounds =
            Bounds { after, until: signed(until.0), limit: signed(page), backwards: false, ..Bounds::of(read) };
        let mut found = BTreeSet::new();
        for source in &sources {
            found.extend(source.positions(connection, &bounds).await?);
        }
        let last = found.iter().copied().take(usize::try_from(page).unwrap_or(usize::MAX)).next_back();
        count += page.min(found.len() as u64);
        match last {
            Some(last) if count < wanted && found.len() as u64 >= page => after = last,
            _ => return Ok(count),
        }
    }
}

/// The indexes that find the events of an item.
fn sources(item: &Item, types: &[Type]) -> Vec<Source> {
    let wanted = |(_, category, name): &&Type| {
        (item.names.is_empty() || item.names.iter().any(|wanted| *wanted == *name))
            && item.category.as_ref().is_none_or(|wanted| wanted == category)
    };
    let wanted: Vec<_> = types.iter().filter(wanted).collect();
    let every = item.names.is_empty() && item.category.is_none();
    let keys: Vec<_> = wanted.iter().map(|(key, ..)| *key).collect();
    let types = (!every).then(|| serde_json::json!(keys).to_string());
    let tags: Vec<_> = item.tags.iter().map(ToString::to_string).collect();
    let rest = |tags: &[String]| Rest { types: types.clone(), tags: serde_json::json!(tags).to_string() };
    match (&item.key, &tags[..]) {
        (Some(key), tags) => {
            let categories: BTreeSet<_> = wanted.iter().map(|(_, category, _)| category).collect();
            let stream = |category: &String| StreamId::new(category, key).to_string();
            categories
                .into_iter()
                .map(|category| Source::Stream { stream: stream(category), rest: rest(tags) })
                .collect()
        }
        (None, [first, others @ ..]) => vec![Source::Tag { tag: first.clone(), rest: rest(others) }],
        (None, []) if every => vec![Source::All],
        (None, []) => keys.into_iter().map(Source::Type).collect(),
    }
}

impl Source {
    async fn positions(&self, connection: &mut SqliteConnection, bounds: &Bounds) -> Result<Vec<i64>, StoreError> {
        let Bounds { after, until, after_version, until_version, limit, backwards } = *bounds;
        let found = match self {
            Self::All => {
                let (after, until) = bounds.stretch();
                sqlx::query_scalar(include_str!("../sql/positions.sql")).bind(after).bind(until).bind(limit)
            }
            Self::Type(key) => {
                let found = sqlx::query_scalar(match backwards {
                    false => include_str!("../sql/positions_of_type.sql"),
                    true => include_str!("../sql/positions_of_type_backwards.sql"),
                });
                found.bind(after).bind(until).bind(limit).bind(*key)
            }
            Self::Stream { stream, rest: Rest { types, tags } } => {
                let found = sqlx::query_scalar(match backwards {
                    false => include_str!("../sql/positions_of_stream.sql"),
                    true => include_str!("../sql/positions_of_stream_backwards.sql"),
                });
                let found = found.bind(after).bind(until).bind(limit).bind(&**stream);
                found.bind(types.as_deref()).bind(&**tags).bind(after_version).bind(until_version)
            }
            Self::Tag { tag, rest: Rest { types, tags } } => {
                let found = sqlx::query_scalar(match backwards {
                    false => include_str!("../sql/positions_of_tag.sql"),
                    true => include_str!("../sql/positions_of_tag_backwards.sql"),
                });
                found.bind(after).bind(until).bind(limit).bind(&**tag).bind(types.as_deref()).bind(&**tags)
            }
        };
        found.fetch_all(connection).await.map_err(error::store)
    }
}

/// A page of the log.
pub(crate) async fn events(
    connection: &mut SqliteConnection,
    after: Position,
    until: Position,
    limit: u64,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let page = sqlx::query(include_str!("../sql/events.sql"));
    let page = page.bind(signed(after.0)).bind(signed(until.0)).bind(signed(limit));
    recorded(page.fetch_all(connection).await)
}

pub(crate) async fn head(connection: &mut SqliteConnection) -> Result<Position, StoreError> {
    let head = sqlx::query(include_str!("../sql/head.sql")).fetch_optional(connection).await.map_err(error::store)?;
    head.map_or(Ok(Position(0)), |head| position(head.try_get(0).map_err(error::store)?))
}

pub(crate) async fn position_of(connection: &mut SqliteConnection, id: Uuid) -> Result<Option<Position>, StoreError> {
    let found = sqlx::query_scalar(include_str!("../sql/position_of.sql")).bind(id);
    found.fetch_optional(connection).await.map_err(error::store)?.map(position).transpose()
}

/// A page of the streams of a category.
pub(crate) async fn streams(
    connection: &mut SqliteConnection,
    category: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<StreamHead>, StoreError> {
    // No name begins with a category and a character between `-` and `.`.
    let (after, before) = (format!("{category}-{after}"), format!("{category}."));
    let page = sqlx::query_as(include_str!("../sql/streams.sql")).bind(after).bind(before).bind(signed(limit as u64));
    let page: Vec<(String, i64, i64)> = page.fetch_all(connection).await.map_err(error::store)?;
    let head = |(stream, version, last): (String, i64, i64)| {
        let (stream, version) = (stream.parse().map_err(error::damaged)?, Version(version.unsigned_abs()));
        Ok(StreamHead { stream, version, position: position(last)? })
    };
    page.into_iter().map(head).collect()
}

/// What was recorded by an instant, as it can be seen: settled only if an event is there that was recorded later.
pub(crate) async fn prefix_at(connection: &mut SqliteConnection, at: Timestamp) -> Result<Prefix, StoreError> {
    let found = sqlx::query_as(include_str!("../sql/position_at.sql")).bind(at.as_micros());
    let (found, head): (i64, i64) = found.fetch_one(connection).await.map_err(error::store)?;
    Ok(Prefix { position: position(found)?, settled: found < head })
}

/// The same, in a transaction that holds the write lock of the file and was asked for at `now`: then everything that is
/// recorded later is stamped later. In a file that can only be read there is no such lock.
pub(crate) async fn prefix_under_lock(
    connection: &mut SqliteConnection,
    at: Timestamp,
    now: Timestamp,
) -> Result<Prefix, StoreError> {
    let prefix = prefix_at(connection, at).await?;
    if prefix.settled || at >= now {
        return Ok(prefix);
    }
    match sqlx::query(include_str!("../sql/writable.sql")).execute(connection).await.map_err(error::store) {
        Err(StoreError::Denied(_)) => Ok(prefix),
        written => written.map(|_| Prefix { settled: true, ..prefix }),
    }
}

/// Which log it is.
pub(crate) async fn identity(connection: &mut SqliteConnection) -> Result<Identity, StoreError> {
    let stored = sqlx::query_as(include_str!("../sql/identity.sql")).fetch_optional(connection).await;
    let stored: Option<(Uuid, i64, i64)> = stored.map_err(error::store)?;
    let (id, epoch, since) = stored.ok_or_else(|| error::damaged("the identity of the log is gone"))?;
    Ok(Identity::new(id, epoch.unsigned_abs(), Timestamp::from_micros(since)))
}

/// The events with these ids.
pub(crate) async fn of_ids(connection: &mut SqliteConnection, ids: &[Uuid]) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let page = sqlx::query(include_str!("../sql/events_of_ids.sql")).bind(ids_json(ids.iter().copied()));
    recorded(page.fetch_all(connection).await)
}

/// Ids as statements take them.
pub(crate) fn ids_json(ids: impl Iterator<Item = Uuid>) -> String {
    serde_json::json!(ids.map(|id| id.simple().to_string()).collect::<Vec<_>>()).to_string()
}

/// The events of a command, from that of its first id on.
pub(crate) async fn of_command(
    connection: &mut SqliteConnection,
    command: Uuid,
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    const PAGE: u64 = 1_000;
    let mut found = vec![];
    let Some(first) = position_of(connection, event_id(command, 0)).await? else { return Ok(found) };
    let mut numbers = 0..;
    loop {
        let after = Position(first.0 - 1 + found.len() as u64);
        let page = events(connection, after, Position(u64::MAX), PAGE).await?;
        let read = page.len() as u64;
        let before = found.len() as u64;
        found.extend(
            page.into_iter().zip(&mut numbers).take_while(|(e, n)| e.id == event_id(command, *n)).map(|(e, _)| e),
        );
        if found.len() as u64 - before < PAGE || read < PAGE {
            return Ok(found);
        }
    }
}

/// SQLite's integers have a sign: what is larger than they can say is as good as the largest.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn position(position: i64) -> Result<Position, StoreError> {
    u64::try_from(position).map(Position).map_err(error::damaged)
}

/// Of an event whose type is not in the list of types.
const NO_TYPE: &str = "its type is not in the log";

fn recorded(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Recorded<Raw>>, StoreError> {
    rows.map_err(error::store)?.iter().map(event).collect()
}

/// One row of the bare statement.
fn bare_event(row: &SqliteRow, stream: &StreamId) -> Result<Recorded<Raw>, StoreError> {
    let number = |column| row.try_get::<i64, _>(column).map_err(error::store);
    let version = Version(number(0)?.unsigned_abs());
    let name = row.try_get::<&str, _>(1).map_err(error::store)?.into();
    let schema = u32::try_from(number(2)?).map_err(error::damaged)?;
    let body = row.try_get::<&[u8], _>(3).map_err(error::store)?.to_vec();
    let mut event = Recorded::bare(stream.clone(), version, name, schema, body);
    event.position = position(number(5)?)?;
    Ok(if number(4)? == 0 { event } else { event.damaged(NO_TYPE) })
}

/// One row of the other statements that begin with `events`.
fn event(row: &SqliteRow) -> Result<Recorded<Raw>, StoreError> {
    let number = |column| row.try_get::<i64, _>(column).map_err(error::store);
    let text = |column| row.try_get::<&str, _>(column).map_err(error::store);
    let bytes = |column| row.try_get::<&[u8], _>(column).map_err(error::store);
    let position = position(number(0)?)?;
    let version = Version(number(1)?.unsigned_abs());
    let (recorded_at, occurred_at) = (Timestamp::from_micros(number(2)?), Timestamp::from_micros(number(3)?));
    let id: Uuid = row.try_get(4).map_err(error::store)?;
    let schema = u32::try_from(number(6)?).map_err(error::damaged)?;
    let (stream, no_stream) = StreamId::stored(text(7)?);
    let (tags, no_tags) = match text(8)? {
        "[]" => (vec![], None),
        tags => match serde_json::from_str::<Vec<String>>(tags) {
            Ok(tags) => {
                let (tags, wrong): (Vec<_>, Vec<_>) = tags.iter().map(|tag| Tag::stored(tag)).unzip();
                (tags, wrong.into_iter().flatten().next().map(|wrong| wrong.to_string()))
            }
            Err(error) => (vec![], Some(format!("its tags are no list of texts: {error}"))),
        },
    };
    let (metadata, no_metadata) = match Metadata::from_json(bytes(9)?) {
        Ok(metadata) => (metadata, None),
        Err(error) => (Metadata::default(), Some(EventError::Metadata(error))),
    };
    let data = Raw { name: text(5)?.into(), tags, body: bytes(10)?.to_vec() };
    let new = NewEvent { id, schema, occurred_at: Some(occurred_at), metadata, data };
    let mut event = new.recorded(stream, version, position, recorded_at);
    if number(11)? != 0 {
        event = event.damaged(NO_TYPE);
    }
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
