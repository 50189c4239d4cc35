//! The contract of a store: what it must read, append and keep. To use one, see [`Store`](crate::Store).
//!
//! These traits may still grow until the projection engine stands; the conformance suite says what they must do.

use std::{
    any::Any,
    borrow::Cow,
    collections::{HashMap, HashSet},
    error::Error,
    fmt,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde_json::value::RawValue;
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

use crate::{
    doctor::Report,
    error::{Blame, Conflict, StoreError},
    event::{NewEvent, Raw, Recorded, Tag},
    identity::Identity,
    invalid::Invalid,
    limits,
    select::Select,
    shard::{Checkpoint, Shard},
    stream::{Expected, Position, StreamHead, StreamId, Version},
    table::{Order, Rows, Table},
    timestamp::Timestamp,
};

/// An ordered, append-only log. Implemented by stores, used through [`Store`](crate::Store).
#[async_trait]
pub trait EventStore: Tables + Any {
    /// The matching events, oldest first, or newest first if so asked.
    async fn read(&self, read: Read) -> Result<Events, StoreError>;

    /// Appends all, or nothing; and only if everything expected holds.
    ///
    /// If all its event ids are recorded already, in this order, with the same stream, name and body, then nothing is
    /// written and the first result is given again; if any is recorded otherwise, that is
    /// [`Duplicate`](StoreError::Duplicate). Both come before any conflict. The first events of a longer append are
    /// answered, too, with the places they have: the log does not know where an append ended.
    async fn append(&self, append: Append) -> Result<Written, StoreError>;

    /// The events a command caused, in the order of the log: those with the ids [`event_id`](crate::event_id) of 0, 1, …,
    /// one behind the other. None if it was not recorded.
    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// The events with these ids that are recorded, in the order of the log.
    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// The streams of a category that come after a key, in the order of their keys, byte by byte; at most so many.
    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError>;

    /// The store that this one is a layer over, if it does more with each append than that one. An engine processes events on
    /// the store below: it must not wait for what the layer keeps up to date.
    fn beneath(&self) -> Option<Arc<dyn EventStore>> {
        None
    }

    /// How many events match. The default reads them all.
    async fn count(&self, read: Read) -> Result<u64, StoreError> {
        let mut events = self.read(read).await?.events;
        let mut count = 0;
        while events.try_next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// The last position recorded at or before an instant. An append that is open and may have been stamped by then is
    /// waited for, so that the answer for an instant that is over never changes; one that stays open for too long is
    /// [`Busy`](StoreError::Busy).
    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError>;

    /// The same, and whether the answer is final. A store that cannot tell says that it is not.
    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        Ok(Prefix { position: self.position_at(at).await?, settled: false })
    }

    /// Which log it is. [`Invalid::Request`] from a store that does not keep it.
    async fn identity(&self) -> Result<Identity, StoreError> {
        Err(Invalid::Request("this store does not keep the identity of its log".into()).into())
    }

    /// Whether this is a replica: what is recorded elsewhere may not have come here yet.
    async fn is_replica(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Returns when something may have been recorded after a position. A hint: it may be early; of what is recorded it
    /// comes to know within a second or so, and it returns within some seconds in any case.
    async fn appended(&self, after: Position);

    /// Returns when an event is safe from a crash: before an event leaves the database, it must be. At once, unless the
    /// store shows events earlier than that; an error if a crash has taken the event back.
    async fn flushed(&self, event: Uuid) -> Result<(), StoreError> {
        let _ = event;
        Ok(())
    }

    /// Opens a transaction, for whatever must happen together with the step of a checkpoint. One that is dropped is
    /// rolled back.
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError>;

    /// Writes rows, and moves a shard that has processed what they are made of; or neither, and says whether it did. It
    /// does neither where the shard is not as it is said to be, or where an event that is named is not in the log. Of what
    /// else goes wrong, a transaction says more.
    async fn step(&self, step: Step) -> Result<bool, StoreError> {
        let Step { shard, from, to, changes, lazy } = step;
        let mut transaction = self.begin().await?;
        let mut stands = transaction.lock(&shard).await? == Some(from);
        for (position, event) in [(from.position, from.event), to] {
            if let (true, Some(event)) = (stands, event) {
                let there = transaction.read(Read::at(position)).await?.events;
                stands = there.first().is_some_and(|there| there.id == event);
            }
        }
        if !stands {
            transaction.rollback().await?;
            return Ok(false);
        }
        if !changes.is_empty() {
            transaction.write(changes).await?;
        }
        transaction.advance(&shard, to.0, to.1).await?;
        if lazy {
            transaction.lazy();
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Gives events other tags, all or none, and removes the snapshots of tags, also where no event is named: the only
    /// change of what is stored of an event, since tags are an index. Returns how many events have been changed. An event
    /// stays as it is if it is not at its position under its id, or if its tags are not those that were read.
    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        let _ = events;
        Err(Invalid::Request("this store cannot change the tags of events".into()).into())
    }

    /// Looks at the database and says what makes it an unsafe or a slow place for a log. Changes nothing; may take a
    /// while where everything is read. A store that has nothing to say of itself says nothing.
    async fn doctor(&self) -> Result<Report, StoreError> {
        Ok(Report::default())
    }

    /// Waits until what has begun is done, and closes the connections. A store without any has nothing to close.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The snapshot of a kind kept for a boundary, as it was written. Whether it fits is for others to see.
    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError>;

    /// Keeps a snapshot, one for each boundary and kind, and says whether it did: in place of none, of one of another
    /// shape, of an earlier position, or with the checksum `instead_of`. Any other stays.
    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError>;

    /// The snapshot of a kind kept for a stream, as it was written, and the stream's events from its last one on; all of
    /// them, if there is none. The events and the head may be as bare as they may be for [`bare`](Read::bare), but for the ids,
    /// positions and instants of recording.
    async fn read_from_snapshot(
        &self,
        stream: &StreamId,
        kind: &str,
    ) -> Result<(Option<StoredSnapshot>, Events), StoreError> {
        let stored = self.snapshot(stream.as_str(), kind).await?;
        let after_version = Version(stored.as_ref().map_or(0, |stored| stored.version.0.saturating_sub(1)));
        let read = Read { query: Query::of(stream), after_version, ..Read::default() };
        Ok((stored, self.read(read).await?))
    }

    /// The boundaries that have a snapshot of a kind, the latest position first, at most so many.
    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError>;

    /// The clock this process has, to compare with what is recorded.
    fn now(&self) -> Timestamp;

    /// The database behind it, for projections in SQL: an `sqlx::Pool` of its kind.
    fn database(&self) -> &(dyn Any + Send + Sync);
}

/// Rows beside the log, and how far they have come.
#[async_trait]
pub trait Tables: Send + Sync + 'static {
    /// Makes a table if it is not there, without indexes, and adds the [optional](crate::table::Column::optional) columns that it lacks.
    /// One that has other columns, by name and kind, is [`StoreError::Columns`], here and wherever it is read or written;
    /// their order is no matter.
    async fn create(&self, table: &Table) -> Result<(), StoreError>;

    /// Makes the indexes a table lacks: once much has been written to it, for that is faster.
    async fn index(&self, table: &Table) -> Result<(), StoreError>;

    /// The rows asked for, by key, each as the JSON object it was written as. An [optional](crate::table::Column::optional) column that
    /// the table lacks is null in every row: a program that reads may be started before the one that adds it.
    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// Returns the rows of a query, in its order, each as [`rows`](Self::rows) returns it. The default reads all rows that
    /// pass the filters by equality, and leaves out the others in memory.
    async fn select(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        Ok(select.among(self.rows(select.rows()).await?))
    }

    /// Returns the number of rows that pass the filters, regardless of `order`, `after` and `limit`. The default reads
    /// them.
    async fn count_rows(&self, select: Select) -> Result<u64, StoreError> {
        let all = Select { order: Order::default(), after: None, limit: None, ..select };
        Ok(self.select(all).await?.len() as u64)
    }

    /// The shards of a projection, or of all, by name and slot: none if it never ran.
    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError>;

    /// How far all of a projection has come; 0 if it never ran.
    async fn checkpoint(&self, projection: &str) -> Result<Position, StoreError> {
        let shards = self.shards(Some(projection)).await?;
        Ok(shards.iter().map(|(_, checkpoint)| checkpoint.position).min().unwrap_or_default())
    }
}

/// Reads and writes that happen together, or not at all.
///
/// Once an operation has failed or its future was dropped, it is unknown how much of it was done: `commit` refuses, and
/// leaves nothing. A refusal ([`StoreError::is_refusal`]) is no failure: it comes before anything is done. Nor is a read of
/// the rows of a table that is not there ([`StoreError::NotBuilt`]) or has other columns.
#[async_trait]
pub trait Transaction: Send {
    /// Locks a shard against all others until the end, and gives its checkpoint; none if there is no such shard. Comes
    /// first.
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError>;

    /// Locks all shards of a projection, also if it has none yet, and gives them by slot. Comes first.
    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError>;

    /// Makes these the shards of a projection: after [`lock_projection`](Self::lock_projection).
    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError>;

    /// As [`EventStore::append`].
    async fn append(&mut self, append: Append) -> Result<Written, StoreError>;

    /// Keeps all others from appending until the end, as an append does, and returns [`Conflict`](StoreError::Conflict),
    /// which is a refusal, unless each of the streams is at its version, and no event that matches the condition was
    /// recorded after its position. Called before this transaction has appended anything.
    ///
    /// The default reads, and takes no lock: it is exact for a store whose transactions keep others from appending from
    /// the beginning.
    async fn hold(
        &mut self,
        unchanged: Vec<(StreamId, Version)>,
        condition: Option<Condition>,
    ) -> Result<(), StoreError> {
        for (stream, version) in unchanged {
            let last = Read { query: Query::of(&stream), backwards: true, limit: Some(1), ..Read::default() };
            let actual = self.read(last).await?.events.first().map_or(Version(0), |last| last.version);
            if actual != version {
                return Err(Conflict::new(stream, Expected::Version(version), actual).into());
            }
        }
        let Some(Condition { query, after }) = condition else { return Ok(()) };
        let newer = Read { query, after, limit: Some(1), ..Read::default() };
        match self.read(newer).await?.events.pop() {
            Some(event) => Err(Conflict::in_the_way(event.stream, event.version).into()),
            None => Ok(()),
        }
    }

    /// Whether it still keeps all others from appending, after [`hold`](Self::hold) or an append: not any more, if a caller
    /// of the [`connection`](Self::connection) has rolled back to a savepoint from before it. The default is for a store
    /// whose transactions keep others from appending from the beginning.
    async fn holds(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// As [`EventStore::read`], one page of it, seeing what this transaction has appended.
    async fn read(&mut self, read: Read) -> Result<Page, StoreError>;

    /// As [`EventStore::find`], seeing what this transaction has appended.
    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError>;

    /// As [`EventStore::streams`], seeing what this transaction has appended.
    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError>;

    /// As [`EventStore::position_at`], seeing what this transaction has appended.
    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError>;

    /// As [`EventStore::prefix_at`], seeing what this transaction has appended.
    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        Ok(Prefix { position: self.position_at(at).await?, settled: false })
    }

    /// As [`Tables::rows`], seeing what this transaction has written.
    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError>;

    /// Writes and deletes rows, after [`Changes::check`].
    async fn write(&mut self, changes: Changes) -> Result<(), StoreError>;

    /// A table and its [shadow](Table::shadow) exchange their names; both must exist.
    async fn swap(&mut self, table: &str) -> Result<(), StoreError>;

    /// Has readers of plain SQL find a table under a name from now on, a view, with the rights that the table it showed
    /// before had.
    async fn publish(&mut self, name: &str, table: &str) -> Result<(), StoreError>;

    /// Removes a table, if it is there.
    async fn remove(&mut self, table: &str) -> Result<(), StoreError>;

    /// Moves the checkpoint of a shard forward, to a position and the event there; one that is further already stays. An
    /// event that is not there, in the log as this transaction sees it, is [`StoreError::Forked`].
    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError>;

    /// The commit need not wait until it is on disk, if that is faster and nothing was appended: for what is made of the
    /// log and would be made again. A commit that does wait takes it along.
    fn lazy(&mut self) {}

    /// Comes before [`connection`](Self::connection) where a caller is to have it: takes back what the operations before
    /// have set for themselves, such as time-outs. Fails if the transaction can be committed no more.
    async fn lend(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The connection that runs it, for SQL of one's own: a `PgConnection`, a `SqliteConnection`.
    ///
    /// The caller may begin transactions on it with sqlx's `begin`, which makes savepoints of them, and must not end
    /// this one. The next operation looks: a transaction that is not the one that was begun is [`StoreError::Ended`], and
    /// one in which a statement has failed, or was dropped before its end, cannot be committed.
    fn connection(&mut self) -> Option<&mut (dyn Any + Send)>;

    /// The caller has given the connection back: notes whether a statement is still under way, whose future was dropped.
    fn returned(&mut self) {}

    /// Looks whether this is still the transaction that was begun, and can be committed. Every operation does so itself.
    async fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Who has caused an error that user code gives, if there is one of the database's driver below it.
    fn blame(&self, error: &(dyn Error + 'static)) -> Option<Blame> {
        let _ = error;
        None
    }

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
    /// If this is given, the item also asks for names that it does not name: those of event types in its category, or in a
    /// category that has one of `names`, except these. So a program that asks for the events it knows also hears of
    /// those that a newer program has added. A store finds them by [`TypeIndex::resolve`], in the same snapshot as the
    /// events, and says what it found in [`Events::asked`].
    pub except: Option<Vec<&'static [&'static str]>>,
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

    /// The events with one of these names, wherever they are; of no names, none.
    pub fn names(names: &'static [&'static str]) -> Self {
        if names.is_empty() { Self::default() } else { Item::names(names).into() }
    }

    /// Whether an event matches. An [`except`](Item::except) is not looked at: see [`TypeIndex::resolve`].
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        self.items.iter().any(|item| item.matches(stream, event))
    }

    /// Whether an event matches, or might by an [`except`](Item::except).
    pub fn may_match(&self, stream: &StreamId, event: &Raw) -> bool {
        self.items.iter().any(|item| match &item.except {
            None => item.matches(stream, event),
            Some(except) if except.iter().any(|names| names.contains(&&*event.name)) => item.matches(stream, event),
            Some(_) => item.matches_but_names(stream, event),
        })
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

    /// Whether it is the stream it names, and all of it.
    pub(crate) fn is_stream(&self) -> bool {
        self.category.is_some() && self.key.is_some() && self.names.is_empty() && self.tags.is_empty()
    }

    /// Whether an event matches. An [`except`](Self::except) is not looked at: see [`TypeIndex::resolve`].
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        (self.names.is_empty() || self.names.iter().any(|name| **name == *event.name))
            && self.matches_but_names(stream, event)
    }

    fn matches_but_names(&self, stream: &StreamId, event: &Raw) -> bool {
        self.tags.iter().all(|tag| event.tags.contains(tag))
            && self.category.as_ref().is_none_or(|category| category == stream.category())
            && self.key.as_ref().is_none_or(|key| key == stream.key())
    }
}

/// The event types of a log, by category and by name.
#[derive(Clone, Debug, Default)]
pub struct TypeIndex {
    /// The names in each category.
    names: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// The categories that have a name.
    categories: HashMap<Arc<str>, Vec<Arc<str>>>,
    count: usize,
}

impl TypeIndex {
    /// Whether a type is there.
    pub fn contains(&self, category: &str, name: &str) -> bool {
        self.names.get(category).is_some_and(|names| names.iter().any(|other| **other == *name))
    }

    /// Adds a type, unless it is there.
    pub fn add(&mut self, category: &str, name: &str) {
        if self.contains(category, name) {
            return;
        }
        let category =
            self.names.get_key_value(category).map_or_else(|| category.into(), |(category, _)| category.clone());
        let name = self.categories.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone());
        self.names.entry(category.clone()).or_default().push(name.clone());
        self.categories.entry(name).or_default().push(category);
        self.count += 1;
    }

    /// How many types there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no type.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The query with the names that it asks for by [`Item::except`] added to those it names; none, if no item has an
    /// `except`.
    pub fn resolve(&self, query: &Query) -> Option<Query> {
        if query.items.iter().all(|item| item.except.is_none()) {
            return None;
        }
        let mut query = query.clone();
        for item in &mut query.items {
            let unnamed = self.unnamed(item);
            item.names.extend(unnamed);
        }
        Some(query)
    }

    fn unnamed(&self, item: &Item) -> Vec<Cow<'static, str>> {
        let Some(except) = &item.except else { return vec![] };
        let mut categories: Vec<&str> = match &item.category {
            Some(category) => vec![category],
            None => item.names.iter().filter_map(|name| self.categories.get(&**name)).flatten().map(|c| &**c).collect(),
        };
        categories.sort_unstable();
        categories.dedup();
        let mut unnamed = vec![];
        for name in categories.into_iter().filter_map(|category| self.names.get(category)).flatten() {
            let known = item.names.iter().any(|known| **known == **name)
                || except.iter().any(|known| known.contains(&&**name))
                || unnamed.iter().any(|other: &Cow<'_, str>| **other == **name);
            if !known {
                unnamed.push(Cow::Owned(name.to_string()));
            }
        }
        unnamed
    }
}

impl<C: AsRef<str>, N: AsRef<str>> FromIterator<(C, N)> for TypeIndex {
    fn from_iter<T: IntoIterator<Item = (C, N)>>(types: T) -> Self {
        let mut index = Self::default();
        types.into_iter().for_each(|(category, name)| index.add(category.as_ref(), name.as_ref()));
        index
    }
}

/// What to read: matching events after a place and up to another, whichever way they are read.
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
    /// Only those up to this version; for a query of one stream.
    pub until_version: Option<Version>,
    /// The newest first.
    pub backwards: bool,
    /// At most so many, of those that come first.
    pub limit: Option<usize>,
    /// Only what a state is made of. Where the query is for all events of one stream, a store may leave out of each what is
    /// not its stream, version, position, name, schema or body ([`Recorded::bare`]), and may say of the head no more than
    /// up to where there is nothing else of that stream, which is faster.
    pub bare: bool,
}

impl Read {
    /// The event at a position.
    pub fn at(position: Position) -> Self {
        let after = Position(position.0.saturating_sub(1));
        Self { query: Query::all(), after, until: Some(position), limit: Some(1), ..Self::default() }
    }

    /// Refuses what no store can answer. Every store calls it first.
    pub fn check(&self) -> Result<(), Invalid> {
        if (self.after_version > Version(0) || self.until_version.is_some()) && self.query.stream().is_none() {
            return Err(Invalid::Request("only one stream can be read after or up to a version".into()));
        }
        self.query.items.iter().try_for_each(Item::check)
    }
}

/// What was recorded by an instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// The last position recorded at or before the instant.
    pub position: Position,
    /// Whether no event recorded by the instant can come any more. Not so where the instant is not over yet, and where an
    /// append that is open cannot be waited for: on a replica, and in a file that can only be read.
    pub settled: bool,
}

/// Some events, and the end of the log when they were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The last position.
    pub head: Position,
    /// The events, in the order asked for.
    pub events: Vec<Recorded<Raw>>,
    /// As [`Events::asked`].
    pub asked: Option<Query>,
}

/// Events as they are read.
pub struct Events {
    /// Every event up to here is seen, and none after: the end of the log when the reading began, or `until` if that
    /// is earlier.
    pub head: Position,
    /// The events. Read page by page, so that memory stays bounded and no snapshot is held.
    pub events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
    /// The query with the names it asked for by [`Item::except`]; none, if it has none.
    pub asked: Option<Query>,
}

impl Events {
    /// Events that come in pages: the first is at hand, `fetch` brings the next. `read` is what the first page was read
    /// with, its limit being the size of a page; `limit` is how many events are wanted in all.
    ///
    /// While a page is processed, the next one is fetched in a task of its own: no caller has to poll it, so it
    /// never keeps a connection from the caller that processes the events. One page ahead, and no more.
    pub fn paged<F, P>(head: Position, read: Read, limit: Option<usize>, first: Vec<Recorded<Raw>>, fetch: F) -> Self
    where
        F: Fn(Read) -> P + Send + 'static,
        P: Future<Output = Result<Vec<Recorded<Raw>>, StoreError>> + Send + 'static,
    {
        let page = read.limit.unwrap_or(usize::MAX);
        let until = Some(read.until.map_or(head, |until| until.min(head)));
        let next = Pages { read: Read { until, ..read }, left: limit.unwrap_or(usize::MAX), page };
        let ahead = Ahead { next: next.after(&first), fetch, task: JoinSet::new() };
        let mut pages = stream::try_unfold((Some(first), ahead), |(first, mut ahead)| async move {
            let events = match first {
                Some(first) => Some(first),
                None => ahead.page().await?,
            };
            ahead.start();
            Ok::<_, StoreError>(events.map(|events| (events.into_iter(), (None, ahead))))
        })
        .boxed();
        let mut page = vec![].into_iter();
        let next = move |context: &mut Context<'_>| loop {
            if let Some(event) = page.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(pages.try_poll_next_unpin(context)?) {
                Some(next) => page = next,
                None => return Poll::Ready(None),
            }
        };
        let events = stream::poll_fn(next).boxed();
        Self { head, events, asked: None }
    }

    /// The same, with the query as it was [resolved](TypeIndex::resolve).
    pub fn asking(self, asked: Option<Query>) -> Self {
        Self { asked, ..self }
    }
}

/// The page that is fetched before anybody asks for it. Dropped, it is fetched no more.
struct Ahead<F> {
    /// The page to be fetched, if there may be one.
    next: Option<Pages>,
    fetch: F,
    task: JoinSet<Result<Vec<Recorded<Raw>>, StoreError>>,
}

impl<F, P> Ahead<F>
where
    F: Fn(Read) -> P,
    P: Future<Output = Result<Vec<Recorded<Raw>>, StoreError>> + Send + 'static,
{
    fn start(&mut self) {
        if let (Some(next), Ok(runtime)) = (&self.next, Handle::try_current()) {
            self.task.spawn_on((self.fetch)(next.read.clone()), &runtime);
        }
    }

    async fn page(&mut self) -> Result<Option<Vec<Recorded<Raw>>>, StoreError> {
        let Some(next) = self.next.take() else { return Ok(None) };
        let fetched = match self.task.try_join_next() {
            // It failed while no caller waited for it, for want of a connection perhaps: now it counts.
            Some(fetched) => fetched.ok().and_then(Result::ok),
            None => match self.task.join_next().await {
                Some(Ok(fetched)) => Some(fetched?),
                _ => None,
            },
        };
        let events = match fetched {
            Some(events) => events,
            None => (self.fetch)(next.read.clone()).await?,
        };
        self.next = next.after(&events);
        Ok(Some(events))
    }
}

/// What pages grow to.
const LARGE_PAGE: usize = 4_000;
/// What the bodies of a page may take, if those before say how large they are.
const PAGE_BYTES: usize = 8 << 20;

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
        // A caller that reads on reads much: then a page is large, so that little is asked for it.
        self.page = self.page.saturating_mul(2).min(LARGE_PAGE).max(self.page);
        // Large events come in small pages, so that memory stays bounded.
        let bytes: usize = events.iter().map(|event| event.data.body.len()).sum();
        let fit = events.len().saturating_mul(PAGE_BYTES) / bytes.max(1);
        self.read.limit = Some(self.left.min(self.page).min(fit.max(1)));
        // By version, too, where there is one: it is what the index of a stream is ordered by.
        let one_stream = self.read.query.stream().is_some();
        if self.read.backwards {
            self.read.until = Some(Position(last.position.0.saturating_sub(1)));
            self.read.until_version = one_stream.then_some(Version(last.version.0.saturating_sub(1)));
        } else {
            // A bare event has no position; then the version says it.
            self.read.after = self.read.after.max(last.position);
            self.read.after_version = if one_stream { last.version } else { Version(0) };
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
    /// What goes where. The log keeps this order. A stream may come again, and what is expected of it is said where it
    /// comes first.
    pub writes: Vec<Write>,
    /// Streams that are not written to, but must still be at these versions.
    pub unchanged: Vec<(StreamId, Version)>,
    /// What must not have been recorded meanwhile.
    pub condition: Option<Condition>,
}

impl Append {
    /// Refuses what no store can keep. Every store calls it first, so that the limits are the same everywhere. Gives the
    /// metadata of each event, in the order of [`events`](Self::events), as stores keep it.
    pub fn check(&self) -> Result<Vec<Vec<u8>>, Invalid> {
        if self.writes.iter().any(|write| write.events.is_empty()) || self.writes.is_empty() {
            return Err(Invalid::Request("an append needs an event for each of its streams".into()));
        }
        let mut streams = HashSet::with_capacity(self.writes.len());
        for write in &self.writes {
            if !streams.insert(&write.stream) && write.expected != Expected::Any {
                let stream = &write.stream;
                return Err(Invalid::Request(format!(
                    "what is expected of stream {stream} is said where it comes first"
                )));
            }
        }
        let events = || self.writes.iter().flat_map(|write| &write.events);
        limits::size("the events of an append", events().count(), limits::EVENTS)?;
        let (mut bytes, mut metadata) = (0, vec![]);
        for event in events() {
            let json = event.metadata.to_json()?;
            bytes += event.data.bytes() + json.len();
            limits::size("the bodies, tags and metadata of an append together", bytes, limits::APPEND_BYTES)?;
            metadata.push(json);
        }
        let mut ids: Vec<_> = events().map(|event| event.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Invalid::Request(format!("event id {} is given twice in one append", twice[0])));
        }
        self.writes.iter().try_for_each(Write::check)?;
        self.unchanged.iter().try_for_each(|(stream, _)| stream.check())?;
        if let Some(condition) = &self.condition {
            for item in &condition.query.items {
                if item.category.is_some() != item.key.is_some() {
                    let why = "an append condition asks for names, tags and whole streams, not for a category or a key";
                    return Err(Invalid::Request(why.into()));
                }
                item.check()?;
            }
        }
        Ok(metadata)
    }

    /// The events, each with its stream, in the order the log will have.
    pub fn events(&self) -> impl Iterator<Item = (&StreamId, &NewEvent)> {
        self.writes.iter().flat_map(|write| write.events.iter().map(|event| (&write.stream, event)))
    }

    /// The streams that are written to, each once, in the order in which they come first: with what is expected, and how
    /// many events they get.
    pub fn streams(&self) -> Vec<(&StreamId, Expected, u64)> {
        let mut places = HashMap::with_capacity(self.writes.len());
        let mut streams = Vec::with_capacity(self.writes.len());
        for Write { stream, expected, events } in &self.writes {
            let place = *places.entry(stream).or_insert(streams.len());
            if place == streams.len() {
                streams.push((stream, *expected, 0));
            }
            streams[place].2 += events.len() as u64;
        }
        streams
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
        let ends: HashMap<_, _> = recorded.iter().map(|event| (&event.stream, event.version)).collect();
        let streams = self.streams().into_iter().map(|(stream, ..)| Some((stream.clone(), *ends.get(stream)?)));
        Some(Written { streams: streams.collect::<Option<_>>()?, first, last, recorded_at, replayed: true })
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

/// Other tags for a stored event.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTags {
    /// Its position.
    pub position: Position,
    /// Its id.
    pub id: Uuid,
    /// All of its tags as they were read, in their order.
    pub was: Vec<Tag>,
    /// All of its tags from then on.
    pub tags: Vec<Tag>,
}

impl NewTags {
    /// Refuses what no store can keep. Every store calls it first.
    pub fn check(&self) -> Result<(), Invalid> {
        limits::size("the tags of an event", self.tags.len(), limits::TAGS)?;
        self.tags.iter().try_for_each(Tag::check)
    }
}

/// An append condition: no event that matches the query was recorded after the position.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// By names, tags and streams. An [`except`](Item::except) is resolved when the events are appended, so that it covers
    /// types that were added after the decision was made.
    pub query: Query,
    /// The head of the read that the decision was made on. One beyond the end of the log is of another log, or of an end
    /// that was lost: [`StoreError::Forked`].
    pub after: Position,
}

/// Where an append landed.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The streams in the order in which they come first, each at the version of its last new event.
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
    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }

    /// Refuses rows that not every store could hold, by [`StoreError::Row`]. Every store calls it first.
    pub fn check(&self) -> Result<(), StoreError> {
        self.upserts.iter().try_for_each(|(key, row)| self.table.check(key, row))?;
        self.deletes.iter().try_for_each(|key| self.table.check_key(key))
    }
}

/// A step of a shard: what has come of the events after one place and up to another.
#[derive(Clone, Debug)]
pub struct Step {
    /// The shard.
    pub shard: Shard,
    /// Where it must be, and whose it must be.
    pub from: Checkpoint,
    /// Where it goes: a position, and the event there.
    pub to: (Position, Option<Uuid>),
    /// What is written with it.
    pub changes: Changes,
    /// As [`Transaction::lazy`].
    pub lazy: bool,
}

/// A state as it was kept, with the place of the last event in it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSnapshot {
    /// Whose events: of a stream, `account-ann`; of a tag, `course:rust`; every event of a kind, `account*`.
    pub boundary: String,
    /// Which type the state is.
    pub kind: String,
    /// The fingerprint of that type.
    pub shape: u64,
    /// How many events the state is made of.
    pub version: Version,
    /// The position of the last of them.
    pub position: Position,
    /// Its id.
    pub event: Uuid,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// The state, as its type writes it.
    pub state: Vec<u8>,
    /// The [`sum`](Self::sum) it was kept with.
    pub checksum: u64,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::task::yield_now;

    use super::*;
    use crate::metadata::Metadata;

    fn log(after: Position, until: u64, limit: usize) -> Vec<Recorded<Raw>> {
        let event = |position| {
            let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
            let new = NewEvent { id: Uuid::nil(), schema: 1, occurred_at: None, metadata: Metadata::default(), data };
            new.recorded(StreamId::new("a", "b"), Version(position), Position(position), Timestamp::MIN)
        };
        (after.0 + 1..=until).take(limit).map(event).collect()
    }

    /// 35 events in pages of 10, 20 and 5; how many pages were asked for, and how many are being fetched.
    fn paged(fails: bool) -> (Events, Arc<[AtomicUsize; 2]>) {
        let counts: Arc<[AtomicUsize; 2]> = Arc::default();
        let counted = counts.clone();
        let fetch = move |read: Read| {
            let counts = counted.clone();
            let asked = counts[0].fetch_add(1, SeqCst);
            async move {
                counts[1].fetch_add(1, SeqCst);
                yield_now().await;
                counts[1].fetch_sub(1, SeqCst);
                if fails && asked == 0 {
                    return Err(StoreError::Unavailable("no connection".into()));
                }
                Ok(log(read.after, 35, read.limit.unwrap_or(usize::MAX)))
            }
        };
        let read = Read { query: Query::all(), limit: Some(10), ..Read::default() };
        (Events::paged(Position(35), read, None, log(Position(0), 35, 10), fetch), counts)
    }

    /// Until the task at work is done.
    async fn settle() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn s10_one_page_is_fetched_ahead_and_no_more() {
        let (Events { mut events, .. }, counts) = paged(false);
        assert_eq!(counts[0].load(SeqCst), 0, "nobody has asked for anything yet");
        for (asked, taken) in [(1, 10), (2, 20), (2, 5)] {
            for _ in 0..taken {
                assert!(events.try_next().await.expect("an event").is_some());
                settle().await;
                assert_eq!([0, 1].map(|n| counts[n].load(SeqCst)), [asked, 0]);
            }
        }
        assert!(events.try_next().await.expect("the end").is_none());
    }

    #[tokio::test]
    async fn a_page_that_could_not_be_fetched_ahead_is_fetched_when_it_is_wanted() {
        let (Events { mut events, .. }, counts) = paged(true);
        events.try_next().await.expect("an event");
        settle().await;
        assert_eq!(events.count().await, 34);
        assert_eq!(counts[0].load(SeqCst), 3);
        // Who waits for it while it fails is told.
        let (Events { events, .. }, _) = paged(true);
        assert!(matches!(events.try_collect::<Vec<_>>().await, Err(StoreError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a8_a_dropped_read_fetches_nothing_more() {
        let (Events { mut events, .. }, counts) = paged(false);
        events.try_next().await.expect("an event");
        let kept = Arc::downgrade(&counts);
        drop((events, counts));
        while kept.upgrade().is_some() {
            yield_now().await;
        }
    }

    #[test]
    fn a11_tags_and_metadata_of_an_append_are_limited_together_with_the_bodies() {
        let event = |n: u128| {
            let tag = Tag { name: LONG.into(), key: "k".into() };
            let data = Raw { name: "x".into(), tags: vec![tag; limits::TAGS], body: vec![] };
            NewEvent { id: Uuid::from_u128(n), schema: 1, occurred_at: None, metadata: Metadata::default(), data }
        };
        // Borrowed 512 bytes: the test needs little of the memory that is counted.
        const LONG: &str = match str::from_utf8(&[b'a'; limits::NAME_BYTES]) {
            Ok(long) => long,
            Err(_) => "",
        };
        let refused = |events: Vec<NewEvent>| {
            let write = Write { stream: StreamId::new("a", "b"), expected: Expected::Any, events };
            let checked = Append { writes: vec![write], ..Append::default() }.check();
            assert!(matches!(checked, Err(Invalid::TooLarge { limit: limits::APPEND_BYTES, .. })), "{checked:?}");
        };
        refused((0..4_100).map(event).collect());
        let mut events: Vec<_> = (0..4_080).map(event).collect();
        for event in &mut events[..10] {
            event.metadata.actor = Some("x".repeat(60_000));
        }
        refused(events);
    }
}
