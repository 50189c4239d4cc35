//! The contract of a store: what it must read, append and keep. To use one, see [`Store`](crate::Store).
//!
//! These traits may still grow until the projection engine stands; the conformance suite says what they must do.

use std::{any::Any, borrow::Cow, fmt};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde_json::{Value as Json, value::RawValue};
use uuid::Uuid;

use crate::{
    error::StoreError,
    event::{NewEvent, Raw, Recorded, Tag},
    invalid::Invalid,
    limits,
    stream::{Expected, Position, StreamId, Version},
    table::{Column, Table},
    timestamp::Timestamp,
};

/// An ordered, append-only log. Implemented by stores, used through [`Store`](crate::Store).
#[async_trait]
pub trait EventStore: Tables {
    /// The matching events, oldest first.
    async fn read(&self, read: Read) -> Result<Events, StoreError>;

    /// Appends all, or nothing; and only if everything expected holds.
    ///
    /// If all its event ids are recorded already, in this order, with the same stream, name and body, then nothing is
    /// written and the first result is given again; if any is recorded otherwise, that is
    /// [`Duplicate`](StoreError::Duplicate). Both come before any conflict.
    async fn append(&self, append: Append) -> Result<Written, StoreError>;

    /// The events a command caused, in the order of the log; none if it was not recorded.
    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// The last position recorded at or before an instant.
    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError>;

    /// Returns when something may have been recorded after a position. A hint: it may be early, and within a second
    /// or so it comes in any case.
    async fn appended(&self, after: Position);

    /// Opens a transaction, for whatever must happen together with the step of a checkpoint. One that is dropped is
    /// rolled back.
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// The clock this process has, to compare with what is recorded.
    fn now(&self) -> Timestamp;

    /// The database behind it, for projections in SQL: an `sqlx::Pool` of its kind.
    fn database(&self) -> &(dyn Any + Send + Sync);
}

/// Rows beside the log, and how far they have come.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Makes a table if it is not there, and the indexes it lacks. One that has other columns, by name and kind, is
    /// [`StoreError::Columns`], here and wherever it is read or written; their order is no matter.
    async fn create(&self, table: &Table) -> Result<(), StoreError>;

    /// The rows asked for, by key, each as the JSON object it was written as.
    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// How far a projection has come; 0 if it never ran.
    async fn checkpoint(&self, projection: &str) -> Result<Position, StoreError>;
}

/// Reads and writes that happen together, or not at all.
///
/// Once an operation has failed or its future was dropped, nobody knows how much of it was done: `commit` refuses, and
/// leaves nothing.
#[async_trait]
pub trait Transaction: Send {
    /// Locks a projection's checkpoint against all others until the end, and gives it. Comes first.
    async fn lock(&mut self, projection: &str) -> Result<Position, StoreError>;

    /// As [`EventStore::append`].
    async fn append(&mut self, append: Append) -> Result<Written, StoreError>;

    /// As [`Tables::rows`], seeing what this transaction has written.
    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// Writes and deletes rows, after [`Changes::check`].
    async fn write(&mut self, changes: Changes) -> Result<(), StoreError>;

    /// Moves a checkpoint forward; one that is further already stays.
    async fn advance(&mut self, projection: &str, to: Position) -> Result<(), StoreError>;

    /// The connection that runs it, for SQL of one's own: a `PgConnection`, a `SqliteConnection`.
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)>;

    /// Makes everything true at once; or nothing, if not every operation succeeded: that is
    /// [`Invalid::Request`].
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Forgets everything.
    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
}

/// Which events: those that match any of the items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Any of these. None: no event.
    pub items: Vec<Item>,
}

/// Events that are all of this; what is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Has one of these names.
    pub names: Vec<Cow<'static, str>>,
    /// Has each of these tags.
    pub tags: Vec<Tag>,
    /// Is in a stream of this category.
    pub category: Option<String>,
    /// Is in a stream with this key; with the category, in this one stream.
    pub key: Option<String>,
}

impl Query {
    /// Every event.
    pub fn all() -> Self {
        Item::default().into()
    }

    /// The events of one stream.
    pub fn of(stream: &StreamId) -> Self {
        Item::of(stream).into()
    }

    /// The events with one of these names, wherever they are.
    pub fn names(names: &'static [&'static str]) -> Self {
        Item::names(names).into()
    }

    /// Whether an event matches.
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        self.items.iter().any(|item| item.matches(stream, event))
    }

    /// The stream, if the query is for the events of one stream and nothing else.
    pub fn stream(&self) -> Option<StreamId> {
        match &self.items[..] {
            [Item { category: Some(category), key: Some(key), .. }] => Some(StreamId::new(category, key)),
            _ => None,
        }
    }
}

impl From<Item> for Query {
    fn from(item: Item) -> Self {
        Self { items: vec![item] }
    }
}

impl Item {
    /// The events of one stream.
    pub fn of(stream: &StreamId) -> Self {
        let (category, key) = (Some(stream.category().into()), Some(stream.key().into()));
        Self { category, key, ..Self::default() }
    }

    /// The events with one of these names, wherever they are.
    pub fn names(names: &'static [&'static str]) -> Self {
        Self { names: names.iter().copied().map(Cow::Borrowed).collect(), ..Self::default() }
    }

    fn check(&self) -> Result<(), Invalid> {
        self.names.iter().try_for_each(|event| limits::name("event name", event))?;
        self.tags.iter().try_for_each(Tag::check)?;
        self.category.iter().try_for_each(|text| limits::plain("category", text))?;
        self.key.iter().try_for_each(|key| limits::name("key", key))
    }

    /// Whether an event matches.
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        (self.names.is_empty() || self.names.iter().any(|name| **name == *event.name))
            && self.tags.iter().all(|tag| event.tags.contains(tag))
            && self.category.as_ref().is_none_or(|category| category == stream.category())
            && self.key.as_ref().is_none_or(|key| key == stream.key())
    }
}

/// What to read: matching events after a place, up to another, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// Which events.
    pub query: Query,
    /// Only those after this position.
    pub after: Position,
    /// Only those after this version; for a query of one stream.
    pub after_version: Version,
    /// Only those up to this position.
    pub until: Option<Position>,
    /// At most so many.
    pub limit: Option<usize>,
}

impl Read {
    /// Refuses what no store can answer. Every store calls it first.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.after_version > Version(0) && self.query.stream().is_none() {
            return Err(Invalid::Request("only one stream can be read after a version".into()));
        }
        self.query.items.iter().try_for_each(Item::check)
    }
}

/// Events as they are read.
pub struct Events {
    /// Every event up to here is seen, and none after: the end of the log when the reading began, or `until` if that
    /// is earlier.
    pub head: Position,
    /// The events. Read page by page, so that memory stays bounded and no snapshot is held.
    pub events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
}

impl Events {
    /// Events that come in pages: the first is at hand, `fetch` brings the next when it is wanted. `read` is what the
    /// first page was read with, its limit being the size of a page; `limit` is how many events are wanted in all.
    pub fn paged<F, P>(head: Position, read: Read, limit: Option<usize>, first: Vec<Recorded<Raw>>, fetch: F) -> Self
    where
        F: Fn(Read) -> P + Send + 'static,
        P: Future<Output = Result<Vec<Recorded<Raw>>, StoreError>> + Send,
    {
        let page = read.limit.unwrap_or(usize::MAX);
        let next = Pages { read: Read { until: Some(head), ..read }, left: limit.unwrap_or(usize::MAX), page };
        let next = next.after(&first);
        let more = stream::try_unfold((next, fetch), |(next, fetch)| async move {
            let Some(pages) = next else { return Ok(None) };
            let events = fetch(pages.read.clone()).await?;
            let next = pages.after(&events);
            Ok(Some((events, (next, fetch))))
        });
        let pages = stream::once(async { Ok::<_, StoreError>(first) }).chain(more);
        let events = pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed();
        Self { head, events }
    }
}

/// The next page to be read.
struct Pages {
    read: Read,
    /// How many events are still wanted.
    left: usize,
    page: usize,
}

impl Pages {
    /// The page after these events, if there may be one.
    fn after(mut self, events: &[Recorded<Raw>]) -> Option<Self> {
        let last = events.last()?;
        self.left -= events.len();
        if self.left == 0 || events.len() < self.read.limit? {
            return None;
        }
        self.read.limit = Some(self.left.min(self.page));
        self.read.after = last.position;
        if self.read.query.stream().is_some() {
            self.read.after_version = last.version;
        }
        Some(self)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("head", &self.head).finish_non_exhaustive()
    }
}

/// One atomic append: to one stream or to several.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// What goes where. The log keeps this order.
    pub writes: Vec<Write>,
    /// Streams that are not written to, but must still be at these versions.
    pub unchanged: Vec<(StreamId, Version)>,
    /// What must not have been recorded meanwhile.
    pub condition: Option<Condition>,
}

impl Append {
    /// Refuses what no store can keep. Every store calls it first, so that the limits are the same everywhere.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.writes.iter().any(|write| write.events.is_empty()) || self.writes.is_empty() {
            return Err(Invalid::Request("an append needs an event for each of its streams".into()));
        }
        let mut streams: Vec<_> = self.writes.iter().map(|write| &write.stream).collect();
        streams.sort_unstable();
        if let Some(twice) = streams.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Invalid::Request(format!("stream {} is named twice in one append", twice[0])));
        }
        let events = || self.writes.iter().flat_map(|write| &write.events);
        limits::size("the events of an append", events().count(), limits::EVENTS)?;
        limits::size(
            "the bodies of an append together",
            events().map(|event| event.data.body.len()).sum(),
            limits::APPEND_BYTES,
        )?;
        let mut ids: Vec<_> = events().map(|event| event.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Invalid::Request(format!("event id {} is given twice in one append", twice[0])));
        }
        self.writes.iter().try_for_each(Write::check)?;
        self.unchanged.iter().try_for_each(|(stream, _)| stream.check())?;
        if let Some(condition) = &self.condition {
            for item in &condition.query.items {
                if item.category.is_some() || item.key.is_some() {
                    return Err(Invalid::Request("an append condition asks for names and tags only".into()));
                }
                item.check()?;
            }
        }
        Ok(())
    }

    /// The events, each with its stream, in the order the log will have.
    pub fn events(&self) -> impl Iterator<Item = (&StreamId, &NewEvent)> {
        self.writes.iter().flat_map(|write| write.events.iter().map(|event| (&write.stream, event)))
    }

    /// The first result, if just this was recorded before: `recorded` is what the log has at the place of the first
    /// event and behind it.
    pub fn replay(&self, recorded: &[Recorded<Raw>]) -> Option<Written> {
        let recorded = recorded.get(..self.events().count())?;
        let same = self.events().zip(recorded).all(|((stream, new), old)| {
            (new.id, stream, &new.data.name, &new.data.body) == (old.id, &old.stream, &old.data.name, &old.data.body)
        });
        let (first, last) = (recorded.first().filter(|_| same)?, recorded.last()?);
        let (first, last, recorded_at) = (first.position, last.position, first.recorded_at);
        let mut ends = 0;
        let streams = self.writes.iter().map(|write| {
            ends += write.events.len();
            (write.stream.clone(), recorded[ends - 1].version)
        });
        Some(Written { streams: streams.collect(), first, last, recorded_at, replayed: true })
    }

    /// The error for an event id that is taken by something else.
    pub fn duplicate(&self, event: Uuid) -> StoreError {
        let taken = self.events().find(|(_, new)| new.id == event);
        let command = taken.map_or(Uuid::nil(), |(_, new)| new.metadata.command_id);
        StoreError::Duplicate { event, command }
    }
}

/// What goes into one stream.
#[derive(Clone, Debug)]
pub struct Write {
    /// The stream.
    pub stream: StreamId,
    /// What it must be like.
    pub expected: Expected,
    /// At least one.
    pub events: Vec<NewEvent>,
}

impl Write {
    fn check(&self) -> Result<(), Invalid> {
        self.stream.check()?;
        self.events.iter().try_for_each(NewEvent::check)
    }
}

/// An append condition: no event that matches the query was recorded after the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// By names and tags only.
    pub query: Query,
    /// The head of the read that the decision was made on.
    pub after: Position,
}

/// Where an append landed.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The streams in the order of the append, each at the version of its last new event.
    pub streams: Vec<(StreamId, Version)>,
    /// The position of the first event; the others follow without a gap.
    pub first: Position,
    /// The position of the last event: what to wait for to read one's own writes.
    pub last: Position,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Whether it had been recorded before, and this is the first result again.
    pub replayed: bool,
}

/// Which rows of a table.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Those with these keys.
    Keys {
        /// The table.
        table: Table,
        /// The keys.
        keys: Vec<String>,
    },
    /// Those with these values in these columns, in the order of their keys.
    Where {
        /// The table.
        table: Table,
        /// Columns of the table, and the values asked for.
        equal: Vec<(&'static Column, Json)>,
        /// At most so many.
        limit: Option<usize>,
    },
}

/// Rows to be written and rows to be deleted.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The table.
    pub table: Table,
    /// Rows to be there from now on, each a JSON object with the columns of the table.
    pub upserts: Vec<(String, Box<RawValue>)>,
    /// Keys of rows to be gone.
    pub deletes: Vec<String>,
}

impl Changes {
    /// Refuses rows that not every store could hold, by [`StoreError::Row`]. Every store calls it first.
    pub fn check(&self) -> Result<(), StoreError> {
        self.upserts.iter().try_for_each(|(key, row)| self.table.check(key, row))?;
        self.deletes.iter().try_for_each(|key| self.table.check_key(key))
    }
}
