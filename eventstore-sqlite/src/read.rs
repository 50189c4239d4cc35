//! Reads events by position, by stream, or by query.

use std::collections::BTreeSet;

use eventstore_core::{
    EventError, Identity, Item, Metadata, NewEvent, Position, Prefix, Query, Raw, Read, Recorded, StoreError,
    StreamHead, StreamId, Tag, Timestamp, TypeIndex, Version, event_id,
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use crate::error;

/// A query resolved against the event types of the log: where the matching positions are found.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// The whole log.
    Log,
    /// One whole stream.
    Stream(StreamId),
    /// The union of what these indexes find.
    Sources(Vec<Index>),
}

/// An index of the log, and the conditions that its entries must also fulfil.
#[derive(Clone, Debug)]
pub(crate) enum Index {
    All,
    Type(i64),
    Stream { stream: String, others: OtherConditions },
    Tag { tag: String, others: OtherConditions },
}

/// Conditions beyond the index itself: event types (`None`: any) and tags (all of them), as JSON arrays.
#[derive(Clone, Debug)]
pub(crate) struct OtherConditions {
    types: Option<String>,
    tags: String,
}

/// An event type: key, category, name.
type Type = (i64, String, String);

impl Plan {
    /// Returns the plan, and, if the query excepts event types, the query with the names it stands for. The caller
    /// reads the head before, so that the type of every event up to the head is known here.
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
        let (indexes, asked) = resolve(connection, query).await?;
        Ok((Self::Sources(indexes), asked))
    }

    /// Returns the page of a read, up to its `until`, whose `limit` is the size of the page.
    pub(crate) async fn page(
        &self,
        connection: &mut SqliteConnection,
        read: &Read,
    ) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let bounds = Bounds::of(read);
        match self {
            Self::Log => {
                let (after, until) = bounds.range();
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
            Self::Sources(indexes) => {
                let mut found = BTreeSet::new();
                for index in indexes {
                    found.extend(index.positions(connection, &bounds).await?);
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

/// The bounds of a page, as SQLite's integers.
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

    /// Returns the positions of a page of the whole log. Positions have no gaps, so the last ones need no search.
    fn range(&self) -> (i64, i64) {
        match self.backwards {
            false => (self.after, self.until),
            true => (self.after.max(self.until.saturating_sub(self.limit)), self.until),
        }
    }
}

/// Returns the indexes that find the events of a query, and, if it excepts event types, the query with the names it
/// stands for.
async fn resolve(connection: &mut SqliteConnection, query: &Query) -> Result<(Vec<Index>, Option<Query>), StoreError> {
    let types: Vec<Type> =
        sqlx::query_as(include_str!("../sql/types.sql")).fetch_all(connection).await.map_err(error::store)?;
    let asked = if query.items.iter().any(|item| item.except.is_some()) {
        types.iter().map(|(_, category, name)| (category, name)).collect::<TypeIndex>().resolve(query)
    } else {
        None
    };
    let items = &asked.as_ref().unwrap_or(query).items;
    Ok((items.iter().flat_map(|item| indexes(item, &types)).collect(), asked))
}

/// Returns how many events match a read, up to a head. Counts page by page, so that memory stays bounded.
pub(crate) async fn count(connection: &mut SqliteConnection, read: &Read, head: Position) -> Result<u64, StoreError> {
    const PAGE: u64 = 100_000;
    let until = read.until.map_or(head, |until| until.min(head));
    let wanted = read.limit.map_or(u64::MAX, |limit| limit as u64);
    if read.query == Query::all() {
        return Ok(until.0.saturating_sub(read.after.0).min(wanted));
    }
    let (indexes, _) = resolve(connection, &read.query).await?;
    let (mut count, mut after) = (0, signed(read.after.0));
    loop {
        let page = PAGE.min(wanted - count);
        let bounds =
            Bounds { after, until: signed(until.0), limit: signed(page), backwards: false, ..Bounds::of(read) };
        let mut found = BTreeSet::new();
        for index in &indexes {
            found.extend(index.positions(connection, &bounds).await?);
        }
        let last = found.iter().copied().take(usize::try_from(page).unwrap_or(usize::MAX)).next_back();
        count += page.min(found.len() as u64);
        match last {
            Some(last) if count < wanted && found.len() as u64 >= page => after = last,
            _ => return Ok(count),
        }
    }
}

/// Returns the indexes that find the events of an item.
fn indexes(item: &Item, types: &[Type]) -> Vec<Index> {
    let wanted = |(_, category, name): &&Type| {
        (item.names.is_empty() || item.names.iter().any(|wanted| *wanted == *name))
            && item.category.as_ref().is_none_or(|wanted| wanted == category)
    };
    let wanted: Vec<_> = types.iter().filter(wanted).collect();
    let every = item.names.is_empty() && item.category.is_none();
    let keys: Vec<_> = wanted.iter().map(|(key, ..)| *key).collect();
    let types = (!every).then(|| serde_json::json!(keys).to_string());
    let tags: Vec<_> = item.tags.iter().map(ToString::to_string).collect();
    let others = |tags: &[String]| OtherConditions { types: types.clone(), tags: serde_json::json!(tags).to_string() };
    match (&item.key, &tags[..]) {
        (Some(key), tags) => {
            let categories: BTreeSet<_> = wanted.iter().map(|(_, category, _)| category).collect();
            let stream = |category: &String| StreamId::new(category, key).to_string();
            categories
                .into_iter()
                .map(|category| Index::Stream { stream: stream(category), others: others(tags) })
                .collect()
        }
        (None, [first, more @ ..]) => vec![Index::Tag { tag: first.clone(), others: others(more) }],
        (None, []) if every => vec![Index::All],
        (None, []) => keys.into_iter().map(Index::Type).collect(),
    }
}

impl Index {
    /// Returns the positions within the bounds that the index finds and that fulfil the other conditions.
    async fn positions(&self, connection: &mut SqliteConnection, bounds: &Bounds) -> Result<Vec<i64>, StoreError> {
        let Bounds { after, until, after_version, until_version, limit, backwards } = *bounds;
        let found = match self {
            Self::All => {
                let (after, until) = bounds.range();
                sqlx::query_scalar(include_str!("../sql/positions.sql")).bind(after).bind(until).bind(limit)
            }
            Self::Type(key) => {
                let found = sqlx::query_scalar(match backwards {
                    false => include_str!("../sql/positions_of_type.sql"),
                    true => include_str!("../sql/positions_of_type_backwards.sql"),
                });
                found.bind(after).bind(until).bind(limit).bind(*key)
            }
            Self::Stream { stream, others: OtherConditions { types, tags } } => {
                let found = sqlx::query_scalar(match backwards {
                    false => include_str!("../sql/positions_of_stream.sql"),
                    true => include_str!("../sql/positions_of_stream_backwards.sql"),
                });
                let found = found.bind(after).bind(until).bind(limit).bind(&**stream);
                found.bind(types.as_deref()).bind(&**tags).bind(after_version).bind(until_version)
            }
            Self::Tag { tag, others: OtherConditions { types, tags } } => {
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

/// Returns a page of the log.
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

/// Returns the last position; 0 if the log is empty.
pub(crate) async fn head(connection: &mut SqliteConnection) -> Result<Position, StoreError> {
    let head = sqlx::query(include_str!("../sql/head.sql")).fetch_optional(connection).await.map_err(error::store)?;
    head.map_or(Ok(Position(0)), |head| position(head.try_get(0).map_err(error::store)?))
}

/// Returns the position of the event with this id, if it is recorded.
pub(crate) async fn position_of(connection: &mut SqliteConnection, id: Uuid) -> Result<Option<Position>, StoreError> {
    let found = sqlx::query_scalar(include_str!("../sql/position_of.sql")).bind(id);
    found.fetch_optional(connection).await.map_err(error::store)?.map(position).transpose()
}

/// Returns a page of the streams of a category that come after a key.
pub(crate) async fn streams(
    connection: &mut SqliteConnection,
    category: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<StreamHead>, StoreError> {
    // No stream name has a character between `-` and `.` behind its category, so this bounds the category.
    let (after, before) = (format!("{category}-{after}"), format!("{category}."));
    let page = sqlx::query_as(include_str!("../sql/streams.sql")).bind(after).bind(before).bind(signed(limit as u64));
    let page: Vec<(String, i64, i64)> = page.fetch_all(connection).await.map_err(error::store)?;
    let head = |(stream, version, last): (String, i64, i64)| {
        let (stream, version) = (stream.parse().map_err(error::damaged)?, Version(version.unsigned_abs()));
        Ok(StreamHead { stream, version, position: position(last)? })
    };
    page.into_iter().map(head).collect()
}

/// Returns the last visible position recorded at or before an instant. It is settled only if a later event exists.
pub(crate) async fn prefix_at(connection: &mut SqliteConnection, at: Timestamp) -> Result<Prefix, StoreError> {
    let found = sqlx::query_as(include_str!("../sql/position_at.sql")).bind(at.as_micros());
    let (found, head): (i64, i64) = found.fetch_one(connection).await.map_err(error::store)?;
    Ok(Prefix { position: position(found)?, settled: found < head })
}

/// Like [`prefix_at`], in a transaction that holds the write lock of the file and was begun after `now`. Every later
/// event is stamped later than `now`, so the answer for an earlier instant is settled. A read-only file has no such
/// lock.
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

/// Returns the identity of the log. A log without one is [`StoreError::Damaged`].
pub(crate) async fn identity(connection: &mut SqliteConnection) -> Result<Identity, StoreError> {
    let stored = sqlx::query_as(include_str!("../sql/identity.sql")).fetch_optional(connection).await;
    let stored: Option<(Uuid, i64, i64)> = stored.map_err(error::store)?;
    let (id, epoch, since) = stored.ok_or_else(|| error::damaged("the identity of the log is gone"))?;
    Ok(Identity::new(id, epoch.unsigned_abs(), Timestamp::from_micros(since)))
}

/// Returns the events with these ids, in the order of the log.
pub(crate) async fn events_by_ids(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
) -> Result<Vec<Recorded<Raw>>, StoreError> {
    let page = sqlx::query(include_str!("../sql/events_of_ids.sql")).bind(ids_json(ids.iter().copied()));
    recorded(page.fetch_all(connection).await)
}

/// Returns ids as the JSON array that statements take.
pub(crate) fn ids_json(ids: impl Iterator<Item = Uuid>) -> String {
    serde_json::json!(ids.map(|id| id.simple().to_string()).collect::<Vec<_>>()).to_string()
}

/// Returns the events of a command: from the one with the command's first id on, as long as their ids follow each
/// other.
pub(crate) async fn events_of_command(
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

/// Converts to SQLite's signed integer. No stored number is larger than the largest of those, so a larger one becomes
/// it.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts a stored position. A negative one is [`StoreError::Damaged`].
pub(crate) fn position(position: i64) -> Result<Position, StoreError> {
    u64::try_from(position).map(Position).map_err(error::damaged)
}

/// The damage of an event whose type is not in the list of types.
const NO_TYPE: &str = "its type is not in the log";

fn recorded(rows: Result<Vec<SqliteRow>, sqlx::Error>) -> Result<Vec<Recorded<Raw>>, StoreError> {
    rows.map_err(error::store)?.iter().map(event).collect()
}

/// Decodes a row of the statement `events_bare`.
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

/// Decodes a row of the other statements whose names begin with `events`. A part of the event that cannot be read is
/// noted as its damage.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn types() -> Vec<Type> {
        [(1, "toy", "made"), (2, "toy", "sold"), (3, "shop", "made")]
            .map(|(key, category, name)| (key, category.to_owned(), name.to_owned()))
            .into()
    }

    fn tag(key: &str) -> Tag {
        Tag { name: "toy".into(), key: key.into() }
    }

    #[test]
    fn a_name_that_no_event_has_finds_nothing_rather_than_everything() {
        let item = Item { names: vec!["lost".into()], ..Item::default() };
        assert!(indexes(&item, &types()).is_empty());
        let item = Item { names: vec!["lost".into()], tags: vec![tag("a")], ..Item::default() };
        let found = indexes(&item, &types());
        assert!(
            matches!(&found[..], [Index::Tag { others, .. }] if others.types.as_deref() == Some("[]")),
            "{found:?}"
        );
    }

    #[test]
    fn an_item_without_names_and_category_asks_for_no_type() {
        assert!(matches!(indexes(&Item::default(), &types())[..], [Index::All]));
        let found = indexes(&Item { tags: vec![tag("a"), tag("b")], ..Item::default() }, &types());
        let [Index::Tag { tag, others }] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&**tag, others.types.as_deref(), &*others.tags), ("toy:a", None, r#"["toy:b"]"#));
    }

    #[test]
    fn a_key_is_looked_up_in_each_category_that_has_the_names() {
        let item = Item { names: vec!["made".into()], key: Some("a".into()), ..Item::default() };
        let streams: Vec<_> = indexes(&item, &types())
            .into_iter()
            .map(|index| match index {
                Index::Stream { stream, others } => (stream, others.types.unwrap_or_default()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(streams, [("shop-a".into(), "[1,3]".into()), ("toy-a".into(), "[1,3]".to_owned())]);
    }

    #[test]
    fn a_page_from_the_end_of_the_log_begins_where_it_must() {
        let range = |after, until, limit, backwards| {
            let (after_version, until_version) = (0, i64::MAX);
            Bounds { after, until, after_version, until_version, limit, backwards }.range()
        };
        assert_eq!(range(0, 100, 10, false), (0, 100));
        assert_eq!(range(0, 100, 10, true), (90, 100));
        assert_eq!(range(95, 100, 10, true), (95, 100), "not before what the caller has read");
        assert_eq!(range(0, 5, i64::MAX, true), (0, 5));
    }
}
