//! A store that forgets when the program ends: the reference for all others, and the one for tests.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem::take,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    sync::{OwnedMutexGuard, watch},
    time::timeout,
};
use uuid::Uuid;

use crate::{
    cause::event_id,
    clock::Clock,
    contract::{
        Append, Changes, Condition, EventStore, Events, Item, NewTags, Page, Prefix, Query, Read, StoredSnapshot,
        Tables, Transaction, TypeIndex, Written,
    },
    engine::shard::{Checkpoint, Shard},
    error::{Conflict, StoreError},
    event::{NewEvent, Raw, Recorded},
    identity::Identity,
    invalid::Invalid,
    limits,
    stream::{Position, StreamHead, StreamId, Version},
    table::{Column, Rows, SHADOW, Table},
    timestamp::Timestamp,
};

const PAGE: usize = 1_000;
/// How long an append waits for a transaction that is open: it may be awaited in that transaction.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store that forgets when the program ends. Clones share what is in it.
#[derive(Clone)]
pub struct MemoryStore {
    identity: Identity,
    inner: Arc<Mutex<Inner>>,
    /// Held by the append or the transaction that is open, while others read what is committed.
    writer: Arc<tokio::sync::Mutex<()>>,
    head: Arc<watch::Sender<Position>>,
    clock: Clock,
}

#[derive(Default)]
struct Inner {
    log: Vec<Recorded<Raw>>,
    /// How many events of the log are committed; those after belong to the open transaction.
    committed: usize,
    /// The places in the log of each stream's events.
    streams: BTreeMap<StreamId, Vec<usize>>,
    ids: HashMap<Uuid, usize>,
    types: TypeIndex,
    tables: HashMap<String, MemoryTable>,
    checkpoints: BTreeMap<Shard, Checkpoint>,
    /// By boundary and kind.
    snapshots: HashMap<(String, String), StoredSnapshot>,
}

struct MemoryTable {
    columns: &'static [Column],
    rows: BTreeMap<String, Box<RawValue>>,
}

impl MemoryTable {
    /// The columns to be added, if that makes it fit.
    fn lacks(&self, table: &Table) -> Result<Vec<&'static Column>, StoreError> {
        let wanted = |name| table.columns.iter().find(|column| column.name == name);
        let same = |old: &Column| wanted(old.name).is_none_or(|column| column.kind == old.kind);
        table.lacks(&table.to_string(), &self.columns.iter().map(|old| (old.name, same(old))).collect::<Vec<_>>())
    }

    /// A row as it is from now on: the columns that the program which writes it does not know stay as they were.
    fn with_others(
        &self,
        table: &Table,
        before: Option<&RawValue>,
        row: Box<RawValue>,
    ) -> Result<Box<RawValue>, StoreError> {
        let is_other = |name: &str| table.columns.iter().all(|column| column.name != name);
        let Some(before) = before.filter(|_| self.columns.iter().any(|column| is_other(column.name))) else {
            return Ok(row);
        };
        let merged = || {
            let mut merged: BTreeMap<&str, &RawValue> = serde_json::from_str(before.get())?;
            merged.retain(|name, _| is_other(name));
            merged.extend(serde_json::from_str::<BTreeMap<&str, &RawValue>>(row.get())?);
            to_raw_value(&merged)
        };
        merged().map_err(|reason| StoreError::Row { table: table.to_string(), reason: reason.into() })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(&Clock::new())
    }
}

impl MemoryStore {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log that lives by a clock of one's own.
    pub fn with_clock(clock: &Clock) -> Self {
        let (inner, writer, head) = (Arc::default(), Arc::default(), Arc::default());
        let identity = Identity::new(Uuid::now_v7(), 1, clock.now());
        Self { identity, inner, writer, head, clock: clock.clone() }
    }

    /// A store with the same log, which goes on by itself: for simulations.
    pub(crate) fn fork(&self, clock: &Clock) -> Self {
        let fork = Self::with_clock(clock);
        {
            let (inner, mut copy) = (self.inner(), fork.inner());
            copy.log = inner.log[..inner.committed].to_vec();
            copy.committed = inner.committed;
            copy.streams = inner.streams.clone();
            copy.ids = inner.ids.clone();
        }
        fork
    }

    /// Looks at the log as it is, without a copy.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Recorded<Raw>]) -> T) -> T {
        let inner = self.inner();
        look(&inner.log[..inner.committed])
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic inside would be a bug of this file; what it held is still whole, for all changes come last.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn writer(&self) -> Result<OwnedMutexGuard<()>, StoreError> {
        // A simulation has no runtime, and no other transaction.
        if let Ok(writer) = self.writer.clone().try_lock_owned() {
            return Ok(writer);
        }
        let writer = timeout(PATIENCE, self.writer.clone().lock_owned()).await;
        writer.map_err(|_| StoreError::Busy("another transaction is open".into()))
    }

    fn commit(&self) {
        let mut inner = self.inner();
        inner.committed = inner.log.len();
        self.head.send_replace(inner.head());
    }
}

/// How many events there are up to a position.
fn place(position: Position) -> usize {
    usize::try_from(position.0).unwrap_or(usize::MAX)
}

/// What a read asks for, of these events.
fn page<'a>(
    read: &Read,
    query: &Query,
    events: impl DoubleEndedIterator<Item = &'a Recorded<Raw>>,
) -> Vec<Recorded<Raw>> {
    let wanted = |event: &&Recorded<Raw>| query.matches(&event.stream, &event.data);
    let limit = read.limit.unwrap_or(usize::MAX);
    match read.backwards {
        false => events.filter(wanted).take(limit).cloned().collect(),
        true => events.rev().filter(wanted).take(limit).cloned().collect(),
    }
}

impl Inner {
    /// The end of what is committed.
    fn head(&self) -> Position {
        Position(self.committed as u64)
    }

    fn version(&self, stream: &StreamId) -> Version {
        Version(self.streams.get(stream).map_or(0, |places| places.len() as u64))
    }

    /// What a read asks for, of the log up to a head.
    fn page(&self, read: &Read, head: Position) -> Page {
        let asked = self.types.resolve(&read.query);
        let query = asked.as_ref().unwrap_or(&read.query);
        let until = place(read.until.map_or(head, |until| until.min(head)));
        let after = place(read.after).min(until);
        let events = match query.stream() {
            Some(stream) => {
                let places = self.streams.get(&stream).map_or(&[][..], |places| places);
                let versions = |version: Version| usize::try_from(version.0).unwrap_or(usize::MAX);
                let end = places.partition_point(|place| *place < until);
                let end = read.until_version.map_or(end, |version| versions(version).min(end));
                let start = places.partition_point(|place| *place < after).max(versions(read.after_version)).min(end);
                page(read, query, places[start..end].iter().map(|&place| &self.log[place]))
            }
            None if query.items.iter().all(Item::is_stream) => {
                let streams = query.items.iter().filter_map(|item| Query::from(item.clone()).stream());
                let places = streams.filter_map(|stream| self.streams.get(&stream)).flatten().copied();
                let places: BTreeSet<_> = places.filter(|place| (after..until).contains(place)).collect();
                page(read, query, places.into_iter().map(|place| &self.log[place]))
            }
            None => page(read, query, self.log[after..until].iter()),
        };
        Page { head, events, asked }
    }

    /// The events of a command, of the log up to a place.
    fn find(&self, command: Uuid, until: usize) -> Vec<Recorded<Raw>> {
        let Some(&place) = self.ids.get(&event_id(command, 0)) else { return vec![] };
        let seen = self.log.get(place..until).unwrap_or_default();
        let numbered = seen.iter().zip(0..).take_while(|(event, n)| event.id == event_id(command, *n));
        numbered.map(|(event, _)| event.clone()).collect()
    }

    /// A page of the streams of a category, of the log up to a place.
    fn streams(&self, category: &str, after: &str, limit: usize, until: usize) -> Vec<StreamHead> {
        let after = Bound::Excluded(StreamId::new(category, after));
        let streams = self.streams.range((after, Bound::Unbounded));
        let heads = streams.take_while(|(stream, _)| stream.category() == category).filter_map(|(stream, places)| {
            let version = places.partition_point(|place| *place < until);
            let last = places[..version].last()?;
            let (version, position) = (Version(version as u64), Position(*last as u64 + 1));
            Some(StreamHead { stream: stream.clone(), version, position })
        });
        heads.take(limit).collect()
    }

    /// What was recorded by an instant, of the log up to a place.
    fn prefix_at(&self, at: Timestamp, now: Timestamp, until: usize) -> Prefix {
        let place = self.log[..until].partition_point(|event| event.recorded_at <= at);
        Prefix { position: Position(place as u64), settled: place < until || at < now }
    }

    fn newer(&self, after: Position) -> &[Recorded<Raw>] {
        self.log.get(place(after)..).unwrap_or_default()
    }

    fn append(&mut self, append: Append, now: Timestamp) -> Result<Written, StoreError> {
        append.check()?;
        if let Some(replay) = self.replay(&append)? {
            return Ok(replay);
        }
        self.check(&append)?;
        let types = append.events().map(|(stream, event)| (stream.category(), &*event.data.name));
        let new: HashSet<_> = types.filter(|(category, name)| !self.types.contains(category, name)).collect();
        if self.types.len() + new.len() > limits::TYPES {
            return Err(Invalid::types(self.types.len() + new.len()).into());
        }
        let recorded_at = self.log.last().map_or(now, |last| last.recorded_at.max(now));
        let first = Position(self.log.len() as u64 + 1);
        let streams: Vec<_> = append.streams().into_iter().map(|(stream, ..)| stream.clone()).collect();
        for write in append.writes {
            for event in write.events {
                self.push(event, &write.stream, recorded_at);
            }
        }
        let last = Position(self.log.len() as u64);
        let streams = streams.into_iter().map(|stream| (stream.clone(), self.version(&stream))).collect();
        Ok(Written { streams, first, last, recorded_at, replayed: false })
    }

    /// The first result, if just this was recorded before.
    fn replay(&self, append: &Append) -> Result<Option<Written>, StoreError> {
        let taken = |(_, event): &(&StreamId, &NewEvent)| self.ids.contains_key(&event.id);
        let Some((_, taken)) = append.events().find(taken) else { return Ok(None) };
        let first = append.events().next().and_then(|(_, first)| self.ids.get(&first.id));
        let replay = first.and_then(|&place| append.replay(&self.log[place..]));
        replay.map(Some).ok_or_else(|| append.duplicate(taken.id))
    }

    fn check(&self, append: &Append) -> Result<(), StoreError> {
        if let Some(&Condition { after: position, .. }) = append.condition.as_ref()
            && place(position) > self.log.len()
        {
            return Err(StoreError::Forked { position, event: None });
        }
        for write in &append.writes {
            let actual = self.version(&write.stream);
            if !write.expected.holds(actual) {
                return Err(Conflict::new(write.stream.clone(), write.expected, actual).into());
            }
        }
        for (stream, version) in &append.unchanged {
            let (expected, actual) = (crate::stream::Expected::Version(*version), self.version(stream));
            if !expected.holds(actual) {
                return Err(Conflict::new(stream.clone(), expected, actual).into());
            }
        }
        let Some(condition) = &append.condition else { return Ok(()) };
        let resolved = self.types.resolve(&condition.query);
        let query = resolved.as_ref().unwrap_or(&condition.query);
        let matches = |event: &&Recorded<Raw>| query.matches(&event.stream, &event.data);
        match self.newer(condition.after).iter().find(matches) {
            Some(event) => Err(Conflict::in_the_way(event.stream.clone(), event.version).into()),
            None => Ok(()),
        }
    }

    fn push(&mut self, event: NewEvent, stream: &StreamId, recorded_at: Timestamp) {
        let place = self.log.len();
        let places = self.streams.entry(stream.clone()).or_default();
        places.push(place);
        self.ids.insert(event.id, place);
        self.types.add(stream.category(), &event.data.name);
        let (version, position) = (Version(places.len() as u64), Position(place as u64 + 1));
        self.log.push(event.recorded(stream.clone(), version, position, recorded_at));
    }

    /// Takes back what was pushed last.
    fn pop(&mut self) {
        if let Some(event) = self.log.pop() {
            self.ids.remove(&event.id);
            self.streams.get_mut(&event.stream).map(Vec::pop);
        }
    }

    fn named(&self, table: &str) -> Result<&MemoryTable, StoreError> {
        self.tables.get(table).ok_or_else(|| StoreError::NotBuilt { table: table.into() })
    }

    fn table(&self, wanted: &Table) -> Result<&MemoryTable, StoreError> {
        let table = wanted.to_string();
        match self.tables.get(&table) {
            Some(there) => match there.lacks(wanted)?[..] {
                [] => Ok(there),
                _ => Err(wanted.misfit(&table)),
            },
            None => Err(StoreError::NotBuilt { table }),
        }
    }

    /// The rows as they are, but for those changed by an open transaction.
    fn rows(&self, rows: &Rows, changed: &Changed) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        let (name, stored) = match rows {
            Rows::Keys { table, .. } | Rows::Where { table, .. } => {
                let there = self.named(&table.to_string())?;
                // A column that is not there yet is null in every row.
                there.lacks(table)?;
                (table.to_string(), there)
            }
            Rows::Whole { table, .. } => (table.clone(), self.named(table)?),
        };
        let (stored, changed) = (&stored.rows, changed.get(&name));
        let row = |key: &String| match changed.and_then(|changed| changed.get(key)) {
            Some(row) => row.as_ref(),
            None => stored.get(key),
        };
        let found = |key: &String| row(key).map(|row| (key.clone(), row.clone()));
        Ok(match rows {
            Rows::Keys { keys, .. } => keys.iter().collect::<BTreeSet<_>>().into_iter().filter_map(found).collect(),
            Rows::Where { equal, order, limit, .. } => {
                let keys: BTreeSet<_> = stored.keys().chain(changed.into_iter().flat_map(BTreeMap::keys)).collect();
                let wanted = |(_, row): &(_, Box<RawValue>)| equal.iter().all(|(column, value)| column.has(row, value));
                let found = keys.into_iter().filter_map(found).filter(wanted).collect();
                let sorted = order.sort(found, |(_, row)| Ok(row.clone()))?;
                sorted.into_iter().skip(order.skip).take(limit.unwrap_or(usize::MAX)).collect()
            }
            Rows::Whole { keys: only, after, limit, .. } => {
                let keys: BTreeSet<_> = stored.keys().chain(changed.into_iter().flat_map(BTreeMap::keys)).collect();
                let wanted = |key: &&String| *key > after && (only.is_empty() || only.contains(key));
                keys.into_iter().filter(wanted).filter_map(found).take(*limit).collect()
            }
        })
    }
}

/// The rows a transaction has written, by table and key; `None`: deleted.
type Changed = HashMap<String, BTreeMap<String, Option<Box<RawValue>>>>;

#[async_trait]
impl EventStore for MemoryStore {
    async fn read(&self, read: Read) -> Result<Events, StoreError> {
        read.check()?;
        let limit = read.limit;
        let page = Read { limit: Some(limit.map_or(PAGE, |limit| limit.min(PAGE))), ..read };
        let Page { head, events: first, asked } = {
            let inner = self.inner();
            inner.page(&page, inner.head())
        };
        let head = page.until.map_or(head, |until| until.min(head));
        let store = self.clone();
        let fetch = move |read: Read| {
            std::future::ready(Ok({
                let inner = store.inner();
                inner.page(&read, inner.head()).events
            }))
        };
        Ok(Events::paged(head, page, limit, first, fetch).asking(asked))
    }

    async fn append(&self, append: Append) -> Result<Written, StoreError> {
        let _writer = self.writer().await?;
        let written = self.inner().append(append, self.clock.now())?;
        self.commit();
        Ok(written)
    }

    async fn find(&self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.inner();
        Ok(inner.find(command, inner.committed))
    }

    async fn recorded(&self, ids: Vec<Uuid>) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.inner();
        let places: BTreeSet<_> = ids.iter().filter_map(|id| inner.ids.get(id).copied()).collect();
        let committed = places.into_iter().take_while(|place| *place < inner.committed);
        Ok(committed.map(|place| inner.log[place].clone()).collect())
    }

    async fn streams(&self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        let inner = self.inner();
        Ok(inner.streams(category, after, limit, inner.committed))
    }

    async fn position_at(&self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&self, at: Timestamp) -> Result<Prefix, StoreError> {
        let now = self.clock.now();
        let (prefix, head) = {
            let inner = self.inner();
            (inner.prefix_at(at, now, inner.committed), inner.head())
        };
        if prefix.position < head {
            // An event is stamped later, and what is not committed yet later still.
            return Ok(prefix);
        }
        let open = timeout(PATIENCE, self.writer.lock()).await;
        let _writer = open.map_err(|_| StoreError::Busy("an append is open for too long".into()))?;
        let inner = self.inner();
        Ok(inner.prefix_at(at, now, inner.committed))
    }

    async fn identity(&self) -> Result<Identity, StoreError> {
        Ok(self.identity)
    }

    async fn appended(&self, after: Position) {
        let mut head = self.head.subscribe();
        let _ = timeout(Duration::from_secs(1), head.wait_for(|head| *head > after)).await;
    }

    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let writer = self.writer().await?;
        let transaction = MemoryTransaction {
            store: self.clone(),
            changed: HashMap::new(),
            moved: vec![],
            checkpoints: self.inner().checkpoints.clone(),
            failed: false,
            _writer: writer,
        };
        Ok(Box::new(transaction))
    }

    async fn retag(&self, events: Vec<NewTags>) -> Result<u64, StoreError> {
        events.iter().try_for_each(NewTags::check)?;
        let _writer = self.writer.lock().await;
        let mut inner = self.inner();
        let mut changed = 0;
        for NewTags { position, id, was, tags } in events {
            let at = place(position).checked_sub(1).and_then(|place| inner.log.get_mut(place));
            if let Some(event) = at.filter(|event| event.id == id && event.data.tags == was && was != tags) {
                event.data.tags = tags;
                changed += 1;
            }
        }
        inner.snapshots.retain(|(boundary, _), _| !StoredSnapshot::is_of_tag(boundary));
        Ok(changed)
    }

    async fn snapshot(&self, boundary: &str, kind: &str) -> Result<Option<StoredSnapshot>, StoreError> {
        Ok(self.inner().snapshots.get(&(boundary.into(), kind.into())).cloned())
    }

    async fn keep_snapshot(&self, snapshot: StoredSnapshot, instead_of: Option<u64>) -> Result<bool, StoreError> {
        let key = (snapshot.boundary.clone(), snapshot.kind.clone());
        let mut inner = self.inner();
        let stays = |old: &StoredSnapshot| {
            old.shape == snapshot.shape && old.position >= snapshot.position && instead_of != Some(old.checksum)
        };
        if inner.snapshots.get(&key).is_some_and(stays) {
            return Ok(false);
        }
        inner.snapshots.insert(key, snapshot);
        Ok(true)
    }

    async fn snapshots(&self, kind: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let inner = self.inner();
        let mut all: Vec<_> = inner.snapshots.values().filter(|snapshot| snapshot.kind == kind).collect();
        all.sort_by(|a, b| (b.position, &a.boundary).cmp(&(a.position, &b.boundary)));
        Ok(all.into_iter().take(limit).map(|snapshot| snapshot.boundary.clone()).collect())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn database(&self) -> &(dyn Any + Send + Sync) {
        &()
    }
}

#[async_trait]
impl Tables for MemoryStore {
    async fn create(&self, table: &Table) -> Result<(), StoreError> {
        let mut inner = self.inner();
        let new = || MemoryTable { columns: table.columns, rows: BTreeMap::new() };
        let there = inner.tables.entry(table.to_string()).or_insert_with(new);
        if !there.lacks(table)?.is_empty() {
            // All that are there are among them.
            there.columns = table.columns;
        }
        Ok(())
    }

    async fn index(&self, table: &Table) -> Result<(), StoreError> {
        self.inner().table(table).map(drop)
    }

    async fn rows(&self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.inner().rows(&rows, &Changed::new())
    }

    async fn shards(&self, projection: Option<&str>) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        Ok(shards(&self.inner().checkpoints, projection))
    }
}

fn shards(all: &BTreeMap<Shard, Checkpoint>, projection: Option<&str>) -> Vec<(Shard, Checkpoint)> {
    let wanted = all.iter().filter(|(shard, _)| projection.is_none_or(|projection| projection == shard.projection));
    wanted.map(|(shard, checkpoint)| (shard.clone(), *checkpoint)).collect()
}

/// Appends behind what is committed, and keeps everything else to itself until then.
struct MemoryTransaction {
    store: MemoryStore,
    changed: Changed,
    /// Tables that change names, or go: the names they have then. No reader sees it before the end.
    moved: Vec<(String, Option<String>)>,
    checkpoints: BTreeMap<Shard, Checkpoint>,
    /// Whether an operation has failed. None can be half done: there is no await in any.
    failed: bool,
    _writer: OwnedMutexGuard<()>,
}

impl MemoryTransaction {
    fn noting<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.failed |= result.as_ref().is_err_and(|error| !error.is_refusal());
        result
    }

    fn put(&mut self, changes: Changes) -> Result<(), StoreError> {
        let inner = self.store.inner();
        let there = inner.table(&changes.table)?;
        changes.check()?;
        let changed = self.changed.entry(changes.table.to_string()).or_default();
        for (key, row) in changes.upserts {
            let before = changed.get(&key).map_or_else(|| there.rows.get(&key), Option::as_ref);
            let row = there.with_others(&changes.table, before.map(|row| &**row), row)?;
            changed.insert(key, Some(row));
        }
        changed.extend(changes.deletes.into_iter().map(|key| (key, None)));
        Ok(())
    }
}

impl Drop for MemoryTransaction {
    fn drop(&mut self) {
        let mut inner = self.store.inner();
        while inner.log.len() > inner.committed {
            inner.pop();
        }
    }
}

#[async_trait]
impl Transaction for MemoryTransaction {
    async fn lock(&mut self, shard: &Shard) -> Result<Option<Checkpoint>, StoreError> {
        Ok(self.checkpoints.get(shard).copied())
    }

    async fn lock_projection(&mut self, projection: &str) -> Result<Vec<(Shard, Checkpoint)>, StoreError> {
        Ok(shards(&self.checkpoints, Some(projection)))
    }

    async fn put_shards(&mut self, projection: &str, shards: Vec<(Shard, Checkpoint)>) -> Result<(), StoreError> {
        self.checkpoints.retain(|shard, _| shard.projection != projection);
        self.checkpoints.extend(shards);
        Ok(())
    }

    async fn append(&mut self, append: Append) -> Result<Written, StoreError> {
        let written = self.store.inner().append(append, self.store.clock.now());
        self.noting(written)
    }

    async fn hold(&mut self, _: Vec<(StreamId, Version)>, _: Option<Condition>) -> Result<(), StoreError> {
        // From its beginning on a transaction keeps all others from appending.
        Ok(())
    }

    async fn read(&mut self, read: Read) -> Result<Page, StoreError> {
        let inner = self.store.inner();
        let head = Position(inner.log.len() as u64);
        Ok(inner.page(&read, head))
    }

    async fn find(&mut self, command: Uuid) -> Result<Vec<Recorded<Raw>>, StoreError> {
        let inner = self.store.inner();
        Ok(inner.find(command, inner.log.len()))
    }

    async fn streams(&mut self, category: &str, after: &str, limit: usize) -> Result<Vec<StreamHead>, StoreError> {
        let inner = self.store.inner();
        Ok(inner.streams(category, after, limit, inner.log.len()))
    }

    async fn position_at(&mut self, at: Timestamp) -> Result<Position, StoreError> {
        Ok(self.prefix_at(at).await?.position)
    }

    async fn prefix_at(&mut self, at: Timestamp) -> Result<Prefix, StoreError> {
        let inner = self.store.inner();
        Ok(inner.prefix_at(at, self.store.clock.now(), inner.log.len()))
    }

    async fn rows(&mut self, rows: Rows) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        self.store.inner().rows(&rows, &self.changed)
    }

    async fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        let put = self.put(changes);
        self.noting(put)
    }

    async fn swap(&mut self, table: &str) -> Result<(), StoreError> {
        let shadow = format!("{table}{SHADOW}");
        let there = [table, &shadow].map(|table| self.store.inner().named(table).map(drop));
        let there = there.into_iter().collect::<Result<(), _>>();
        self.noting(there)?;
        self.moved.extend([(table.into(), Some(shadow.clone())), (shadow, Some(table.into()))]);
        Ok(())
    }

    async fn publish(&mut self, _: &str, table: &str) -> Result<(), StoreError> {
        // There is no SQL to read it by.
        let there = self.store.inner().named(table).map(drop);
        self.noting(there)
    }

    async fn remove(&mut self, table: &str) -> Result<(), StoreError> {
        self.moved.push((table.into(), None));
        Ok(())
    }

    async fn advance(&mut self, shard: &Shard, to: Position, event: Option<Uuid>) -> Result<(), StoreError> {
        if let Some(event) = event {
            let there = self.store.inner().ids.get(&event).is_some_and(|place| *place as u64 + 1 == to.0);
            self.noting(if there { Ok(()) } else { Err(StoreError::Forked { position: to, event: Some(event) }) })?;
        }
        if let Some(checkpoint) = self.checkpoints.get_mut(shard).filter(|checkpoint| checkpoint.position < to) {
            (checkpoint.position, checkpoint.event) = (to, event);
        }
        Ok(())
    }

    fn connection(&mut self) -> Option<&mut (dyn Any + Send)> {
        None
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.failed {
            return Err(Invalid::unfinished().into());
        }
        let (changed, checkpoints) = (take(&mut self.changed), take(&mut self.checkpoints));
        {
            let mut inner = self.store.inner();
            for (table, changed) in changed {
                let Some(table) = inner.tables.get_mut(&table) else { continue };
                for (key, row) in changed {
                    match row {
                        Some(row) => table.rows.insert(key, row),
                        None => table.rows.remove(&key),
                    };
                }
            }
            inner.checkpoints = checkpoints;
            let moved: Vec<_> =
                take(&mut self.moved).into_iter().map(|(from, to)| (inner.tables.remove(&from), to)).collect();
            inner.tables.extend(moved.into_iter().filter_map(|(table, to)| to.zip(table)));
        }
        self.store.commit();
        Ok(())
    }

    async fn rollback(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
}
