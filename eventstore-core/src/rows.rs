//! Asks a read model: for rows as they are, as they were, and how they came to be; from its table, or from the log.

use std::{
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use futures::{
    TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use serde_json::{Value as Json, value::RawValue};
use tokio::time::{Instant, sleep};

use crate::{
    contract::{Query, Read},
    engine::dead_letters::{self, Sweep},
    error::{BoxError, ParkedKeys, StoreError},
    event::{Event, Raw, Recorded},
    invalid::Invalid,
    known::Run,
    limits,
    load::{Until, bound},
    read_model::{self, Keys, Project, ReadModel, RowFold, read_row, write_row},
    select::{Comparison, Cursor, Filter, Select},
    store::Store,
    stream::{Position, Version},
    table::{Order, Rows},
};

/// How long a read waits for its read model to come to a position, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before it looks whether there is anything to wait for: mostly, it is there before.
const SOON: Duration = Duration::from_millis(20);

impl Store {
    /// The rows of a read model, which a `Runner` keeps.
    pub fn read_model<M: ReadModel>(&self) -> ReadModels<M> {
        ReadModels::new(self.clone())
    }
}

/// The rows of a read model, as they are; or as they were, if a moment is named.
///
/// The past is folded anew from the log; the table is not touched, and need not be there.
pub struct ReadModels<M> {
    store: Store,
    until: Until,
    of: PhantomData<fn() -> M>,
}

impl<M: ReadModel> ReadModels<M> {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, until: Until::default(), of: PhantomData }
    }

    fn with(&self, say: impl FnOnce(&mut Until)) -> Self {
        let mut until = self.until;
        say(&mut until);
        Self { store: self.store.clone(), until, of: PhantomData }
    }

    /// All rows as they were when the log had come so far.
    pub fn at_position(&self, position: Position) -> Self {
        self.with(|until| bound(&mut until.position, position))
    }

    /// All rows as they were known at an instant: made of what was recorded by then.
    pub fn as_of(&self, time: impl Into<SystemTime>) -> Self {
        self.with(|until| bound(&mut until.recorded_by, time.into().into()))
    }

    /// All rows as they were at an instant, as we know today: made of what had happened by then.
    pub fn occurred_by(&self, time: impl Into<SystemTime>) -> Self {
        self.with(|until| bound(&mut until.occurred_by, time.into().into()))
    }

    /// The rows folded from the log when they are read: they need no table and no `Runner`, and are never behind.
    ///
    /// One row reads the events of its stream or its tag; where a function says the keys, and for a list, it reads all
    /// events the model hears of.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let ann = Id::<Account>::from("ann");
    /// store.execute(&ann, Deposit { amount: 100 }).await?;
    /// let balance = store.read_model::<Balance>().live().get(&ann).await?;
    /// assert_eq!(balance.map(|row| row.balance), Some(100));
    /// # Ok(())
    /// # }
    /// ```
    pub fn live(&self) -> Self {
        self.with(|until| until.live = true)
    }

    /// One row.
    pub fn get(&self, key: impl AsRef<str>) -> Get<M> {
        let (store, key, until) = (self.store.clone(), key.as_ref().into(), self.until);
        Get { store, key, after: None, patience: PATIENCE, until, of: PhantomData }
    }

    /// All rows, or those that match; in the order of their keys, byte by byte, unless you say otherwise.
    pub fn list(&self) -> List<M> {
        let (store, until) = (self.store.clone(), self.until);
        List {
            store,
            until,
            filters: vec![],
            by: None,
            order: Order::default(),
            limit: None,
            cursor: None,
            after: None,
            patience: PATIENCE,
            of: PhantomData,
        }
    }

    /// The keys whose rows lack events now, since they wait behind one that could not be processed: see the dead letters of
    /// the read model. Empty if all rows are complete, and where no `Runner` has ever run.
    pub async fn incomplete(&self) -> Result<ParkedKeys, StoreError> {
        let letters = dead_letters::swept(self.store.inner(), Sweep::first_of_each(&M::TABLE.to_string())).await?;
        Ok(ParkedKeys::of(letters.iter().map(|letter| &*letter.key)))
    }

    /// Every event that concerned a row, oldest first, each with the row it led to.
    pub fn history(&self, key: impl AsRef<str>) -> BoxStream<'static, Result<Moment<M>, StoreError>> {
        let (store, until, key) = (self.store.clone(), self.until, key.as_ref().to_owned());
        let mut rows = RowFold::<M>::only(&key);
        let open = {
            let key = key.clone();
            async move { one_row::<M>(&store, &key, until).await }
        };
        stream::once(open)
            .try_flatten()
            .map(move |raw| {
                let raw = raw?;
                let mut moments = vec![];
                if until.takes(&raw) {
                    rows.apply(&raw, |rows, event| {
                        // A copy by serde: rows need not be `Clone`.
                        let row = rows.get(&key).map(|row| read_row(&write_row(row)?)).transpose();
                        moments.push(row.map(|row| (event, row)));
                    })?;
                }
                Ok::<_, StoreError>(stream::iter(moments))
            })
            .try_flatten()
            .boxed()
    }

    /// The rows in memory, to be moved forward along the log: what every question about the past is answered with,
    /// and the fast way to ask at many positions.
    pub fn replay(&self) -> Replay<M> {
        Replay { store: self.store.clone(), until: self.until, rows: RowFold::default(), position: Position(0) }
    }
}

/// An event, and the row it led to: `None` if it deleted it.
pub type Moment<M> = (Recorded<<M as Project>::Event>, Option<M>);

/// A row about to be read.
#[must_use = "nothing is read until it is awaited"]
pub struct Get<M> {
    store: Store,
    key: String,
    after: Option<Position>,
    patience: Duration,
    until: Until,
    of: PhantomData<fn() -> M>,
}

impl<M: ReadModel> Get<M> {
    /// Waits until the row has seen everything up to here: one's own writes. After ten seconds, or
    /// [what was given](Self::within), it gives up with [`StoreError::Behind`]; at once with
    /// [`StoreError::Forked`] if the log does not go so far, and if nothing has built the table or if what this process
    /// runs has stopped.
    ///
    /// A row that lacks an event up to here, since its key waits behind one that could not be processed, is
    /// [`StoreError::Parked`].
    pub fn after(mut self, position: Position) -> Self {
        self.after = Some(position);
        self
    }

    /// How long [`after`](Self::after) waits; ten seconds unless told otherwise. With zero, it looks once.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// As it was after so many events of its stream. For rows whose keys are those of their streams.
    pub fn at(mut self, version: Version) -> Self {
        bound(&mut self.until.version, version);
        self
    }

    /// As it was when the log had come so far.
    pub fn at_position(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// As it was known at an instant: made of what was recorded by then.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// As it was at an instant, as we know today: made of what had happened by then.
    pub fn occurred_by(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.occurred_by, time.into().into());
        self
    }

    async fn run(self) -> Result<Option<M>, StoreError> {
        let Self { store, key, after, patience, until, .. } = self;
        limits::name("row key", &key)?;
        if until == Until::default() {
            let read = || store.inner().rows(Rows::Keys { table: M::TABLE, keys: vec![key.clone()] });
            let found = read_after::<M, _>(&store, after, patience, Some(&key), read).await?;
            return found.first().map(|(_, row)| read_row(row)).transpose();
        }
        if until.version.is_some() && !matches!(M::KEYS, Keys::Stream) {
            let why = format!("the rows of `{}` have no version of their own: use `at_position`", M::NAME);
            return Err(Invalid::Request(why).into());
        }
        let mut rows = RowFold::<M>::only(&key);
        let mut events = one_row::<M>(&store, &key, until).await?;
        while let Some(raw) = events.try_next().await? {
            if until.takes(&raw) {
                rows.apply(&raw, |_, _| {})?;
            }
        }
        Ok(rows.take(&key))
    }
}

impl<M: ReadModel> IntoFuture for Get<M> {
    type Output = Result<Option<M>, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// The events that may concern a row: found by the stream or the tag where the keys come from there, else all.
async fn one_row<M: ReadModel>(
    store: &Store,
    key: &str,
    until: Until,
) -> Result<BoxStream<'static, Result<Recorded<Raw>, StoreError>>, StoreError> {
    let read = Read { query: RowFold::<M>::events_of(key), until: until.last(store).await?, ..Read::default() };
    Ok(store.inner().read(read).await?.events)
}

/// Rows about to be read.
#[must_use = "nothing is read until it is awaited"]
pub struct List<M> {
    store: Store,
    until: Until,
    filters: Vec<(&'static str, Wanted)>,
    by: Option<&'static str>,
    order: Order,
    limit: Option<usize>,
    cursor: Option<Cursor>,
    after: Option<Position>,
    patience: Duration,
    of: PhantomData<fn() -> M>,
}

/// A comparison whose values have not been checked against the column.
enum Wanted {
    Equal(Json),
    In(Vec<Json>),
    Ordered(fn(Json) -> Comparison, Json),
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RowPage<M> {
    /// The rows, each with its key, in the order of the list.
    pub rows: Vec<(String, M)>,
    /// Where the next page begins. `None` if there was no further row when this page was read.
    pub next: Option<Cursor>,
}

/// The rows of a page without a [`List::limit`].
const ROWS_OF_A_PAGE: usize = 100;

impl<M: ReadModel> List<M> {
    fn wanted(mut self, column: &'static str, wanted: Wanted) -> Self {
        self.filters.push((column, wanted));
        self
    }

    /// Only rows whose column equals the value. Null is a value: `Json::Null`, or `None::<i64>`. NaN and the infinities are
    /// null in JSON, and so find the rows that have null.
    ///
    /// Filters add up: a row must pass all of them. The await fails with [`Invalid::Request`] if there is no such column,
    /// if it is `jsonb`, or if it cannot hold the value, and with [`Invalid::TooLarge`] if the list has more than
    /// [`FILTERS`](limits::FILTERS) filters or compares with more than [`COMPARED_VALUES`](limits::COMPARED_VALUES) values. An
    /// instant and a UUID are given as text; a value for a column of `f32` is given as `f64`, as its shortest decimal text
    /// reads: `0.1`, not `0.1_f32`.
    pub fn filter(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Equal(value.into()))
    }

    /// Only rows whose column equals one of the values; no row if there are no values. Null among the values finds null.
    /// Errors as of [`filter`](Self::filter).
    pub fn is_in<T: Into<Json>>(self, column: &'static str, values: impl IntoIterator<Item = T>) -> Self {
        self.wanted(column, Wanted::In(values.into_iter().map(Into::into).collect()))
    }

    /// Only rows whose column is less than the value. A row with null in the column is in no such list. Every store
    /// compares alike: text byte by byte in UTF-8, without regard to language or case; `false` before `true`; UUIDs
    /// byte by byte; -0.0 equals 0.0.
    ///
    /// Errors as of [`filter`](Self::filter), and [`Invalid::Request`] if the value is null, which NaN and the infinities
    /// are in JSON.
    pub fn lt(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::Less, value.into()))
    }

    /// Only rows whose column is less than or equal to the value; see [`lt`](Self::lt).
    pub fn le(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::LessOrEqual, value.into()))
    }

    /// Only rows whose column is greater than the value; see [`lt`](Self::lt).
    pub fn gt(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::Greater, value.into()))
    }

    /// Only rows whose column is greater than or equal to the value; see [`lt`](Self::lt).
    pub fn ge(self, column: &'static str, value: impl Into<Json>) -> Self {
        self.wanted(column, Wanted::Ordered(Comparison::GreaterOrEqual, value.into()))
    }

    /// Only rows whose column is at least `least` and at most `most`; no row if `least` is greater. See [`lt`](Self::lt).
    pub fn between(self, column: &'static str, least: impl Into<Json>, most: impl Into<Json>) -> Self {
        self.ge(column, least).le(column, most)
    }

    /// In the order of a column, null last; rows with the same value in the order of their keys. An index on the column
    /// makes it fast.
    pub fn order_by(mut self, column: &'static str) -> Self {
        self.by = Some(column);
        self
    }

    /// The largest first, and null still last.
    pub fn descending(mut self) -> Self {
        self.order.descending = true;
        self
    }

    /// Leaves out the first rows. They are read all the same, and an event between two reads moves rows across the border,
    /// so that a row is seen twice or not at all: to read on, take [`page`](Self::page).
    pub fn skip(mut self, rows: usize) -> Self {
        self.order.skip = rows;
        self
    }

    /// At most so many.
    pub fn limit(mut self, rows: usize) -> Self {
        bound(&mut self.limit, rows);
        self
    }

    /// Begins after the last row of a page; for [`page`](Self::page) and for the rows themselves.
    ///
    /// A row that does not change between two pages is in exactly one of them, whatever happens to other rows. A row that
    /// changes may move past the cursor or before it, and so be in two pages or in none, unless it keeps its value in the
    /// column of the order. Pages of one moment of the past ([`at_position`](ReadModels::at_position)) have no such rows.
    ///
    /// The await fails with [`Invalid::Request`] if the cursor is of another read model, version, order or set of filters,
    /// if it was changed, or if the list has a [`skip`](Self::skip).
    pub fn from_cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Waits until the rows have seen everything up to here: one's own writes. After ten seconds, or
    /// [what was given](Self::within), it gives up with [`StoreError::Behind`]; at once with
    /// [`StoreError::Forked`] if the log does not go so far, and if nothing has built the table or if what this process
    /// runs has stopped.
    ///
    /// Rows that lack an event up to here, since their keys wait behind one that could not be processed, are
    /// [`StoreError::Parked`], with those keys. A list without this call has them as they are:
    /// [`incomplete`](ReadModels::incomplete) says which.
    pub fn after(mut self, position: Position) -> Self {
        self.after = Some(position);
        self
    }

    /// How long [`after`](Self::after) waits; ten seconds unless told otherwise. With zero, it looks once.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Returns one page, of [`limit`](Self::limit) rows (100 without it), and the cursor for
    /// [`from_cursor`](Self::from_cursor) of the same list. A page costs the same at any depth if the column of
    /// [`order_by`](Self::order_by) has an index; of the past, and of [`live`](ReadModels::live), each page folds the log
    /// again, and in a transaction each page reads all rows that pass the filters by equality.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # for name in ["ann", "bob", "cem"] {
    /// #     store.execute(Id::<Account>::from(name), Deposit { amount: 100 }).await?;
    /// # }
    /// let balances = store.read_model::<Balance>().live();
    /// let mut page = balances.list().ge("balance", 50).limit(2).page().await?;
    /// assert_eq!(page.rows.len(), 2);
    /// while let Some(cursor) = page.next {
    ///     page = balances.list().ge("balance", 50).limit(2).from_cursor(cursor).page().await?;
    /// }
    /// assert_eq!(page.rows.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Fails with [`Invalid::Request`] if the limit is zero; otherwise as the list does.
    pub async fn page(self) -> Result<RowPage<M>, StoreError> {
        let limit = self.limit.unwrap_or(ROWS_OF_A_PAGE);
        if limit == 0 {
            return Err(Invalid::Request("a page of zero rows would have no end".into()).into());
        }
        // One more row says whether there is another page.
        let select = Select { limit: Some(limit.saturating_add(1)), ..self.select()? };
        let mut found = self.found(select.clone()).await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(key, row)| Cursor::after(&select, key, row));
        Ok(RowPage { rows: read_rows(found)?, next })
    }

    /// Returns the number of rows that pass the filters, regardless of the order, the limit, the skip and the cursor. The
    /// database counts; of the past, of [`live`](ReadModels::live) and in a transaction, the rows are read. Fails as the
    /// list does.
    pub async fn count(self) -> Result<u64, StoreError> {
        let select = Select { order: Order::default(), after: None, limit: None, ..self.select()? };
        if self.until != Until::default() {
            return Ok(self.found(select).await?.len() as u64);
        }
        let count = || self.store.inner().count_rows(select.clone());
        read_after::<M, _>(&self.store, self.after, self.patience, None, count).await
    }

    /// Returns whether any row passes the filters, regardless of the order, the limit, the skip and the cursor. Fails as the
    /// list does.
    pub async fn exists(self) -> Result<bool, StoreError> {
        let select = Select { order: Order::default(), after: None, limit: Some(1), ..self.select()? };
        Ok(!self.found(select).await?.is_empty())
    }

    /// The query, if the columns exist and can hold the values, and the cursor is of it.
    fn select(&self) -> Result<Select, StoreError> {
        let filter = |(name, wanted): &(&'static str, Wanted)| {
            let (column, comparison) = match wanted {
                Wanted::Equal(value) => {
                    let (column, value) = read_model::equal::<M>(name, value.clone())?;
                    (column, Comparison::Equal(value))
                }
                Wanted::In(values) => {
                    let (column, _) = read_model::equal::<M>(name, Json::Null)?;
                    let values = values.iter().map(|value| Ok(read_model::equal::<M>(name, value.clone())?.1));
                    (column, Comparison::In(values.collect::<Result<_, StoreError>>()?))
                }
                Wanted::Ordered(comparison, value) => {
                    let (column, value) = read_model::compared::<M>(name, value.clone())?;
                    (column, comparison(value))
                }
            };
            Ok(Filter { column, comparison })
        };
        let filters = self.filters.iter().map(filter).collect::<Result<Vec<_>, StoreError>>()?;
        limits::size("the filters of a list", filters.len(), limits::FILTERS)?;
        let values = filters.iter().map(Filter::values).sum();
        limits::size("the values a list is compared with", values, limits::COMPARED_VALUES)?;
        let order = Order { by: self.by.map(read_model::ordered::<M>).transpose()?, ..self.order };
        let mut select = Select { table: M::TABLE, filters, order, after: None, limit: self.limit };
        select.after = self.cursor.clone().map(|cursor| cursor.sort_key(&select)).transpose()?;
        Ok(select)
    }

    async fn found(&self, select: Select) -> Result<Vec<(String, Box<RawValue>)>, StoreError> {
        if self.until == Until::default() {
            let rows = || self.store.inner().select(select.clone());
            return read_after::<M, _>(&self.store, self.after, self.patience, None, rows).await;
        }
        let mut replay = ReadModels::<M> { store: self.store.clone(), until: self.until, of: PhantomData }.replay();
        replay.finish().await?;
        let mut rows = vec![];
        for key in replay.rows.keys_in_order() {
            if let Some(row) = replay.rows.take(&key) {
                rows.push((key, write_row(&row)?));
            }
        }
        Ok(select.take(select.order.sort(rows, |(_, row)| Ok(row.clone()))?))
    }

    async fn run(self) -> Result<Vec<(String, M)>, StoreError> {
        let select = self.select()?;
        read_rows(self.found(select).await?)
    }
}

fn read_rows<M: ReadModel>(rows: Vec<(String, Box<RawValue>)>) -> Result<Vec<(String, M)>, StoreError> {
    rows.into_iter().map(|(key, row)| Ok((key, read_row(&row)?))).collect()
}

/// Reads from the table of a read model. With a position, waits until the rows, or the row of a key, have every event up to
/// it; without one, until the table is whole.
async fn read_after<'a, M: ReadModel, T>(
    store: &Store,
    after: Option<Position>,
    patience: Duration,
    key: Option<&str>,
    read: impl Fn() -> BoxFuture<'a, Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match after {
        Some(after) => {
            wait::<M>(store, after, patience, key).await?;
            dead_letters::complete(store.inner(), &M::TABLE, after, key).await?;
            read().await
        }
        None => store.read_whole(&M::TABLE, read).await,
    }
}

impl<M: ReadModel> IntoFuture for List<M> {
    type Output = Result<Vec<(String, M)>, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A whole read model in memory, moved forward along the log.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = eventstore::connect("memory:").await?;
/// # store.execute(Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
/// # let fridays = [std::time::UNIX_EPOCH, std::time::SystemTime::now()];
/// let mut balances = store.read_model::<Balance>().replay();
/// for friday in fridays {
///     balances.until(store.position_at(friday).await?).await?;
///     println!("{friday:?}: {}", balances.iter().map(|(_, row)| row.balance).sum::<i64>());
/// }
/// # Ok(())
/// # }
/// ```
pub struct Replay<M> {
    store: Store,
    until: Until,
    rows: RowFold<M>,
    position: Position,
}

impl<M: ReadModel> Replay<M> {
    /// Processes the events up to a position; a moment named before still holds. Going back is
    /// [`Invalid::Request`]: start another replay.
    pub async fn until(&mut self, position: Position) -> Result<(), StoreError> {
        if position < self.position {
            let why = format!("a replay at {} cannot go back to {position}", self.position);
            return Err(Invalid::Request(why).into());
        }
        let last = self.until.last(&self.store).await?;
        self.run(Some(last.map_or(position, |last| last.min(position)))).await
    }

    /// Processes all events up to the moment named before, or to the end of the log.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        let last = self.until.last(&self.store).await?;
        self.run(last).await
    }

    async fn run(&mut self, until: Option<Position>) -> Result<(), StoreError> {
        let read = Read { query: Query::names(M::Event::NAMES), after: self.position, until, ..Read::default() };
        let mut read = self.store.inner().read(read).await?;
        while let Some(raw) = read.events.try_next().await? {
            if self.until.takes(&raw) {
                self.rows.apply(&raw, |_, _| {})?;
            }
            // Event by event: a caller that drops this future and goes on later processes no event twice.
            self.position = raw.position;
        }
        self.position = self.position.max(read.head);
        Ok(())
    }

    /// How far it has come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// One row.
    pub fn get(&self, key: impl AsRef<str>) -> Option<&M> {
        self.rows.get(key.as_ref())
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &M)> {
        self.rows.iter()
    }
}

/// Returns when the read model, or a row of it, has come to a position.
async fn wait<M: ReadModel>(
    store: &Store,
    until: Position,
    patience: Duration,
    key: Option<&str>,
) -> Result<(), StoreError> {
    let projection = M::TABLE.to_string();
    let (start, mut built, mut in_log) = (Instant::now(), false, false);
    loop {
        let shards = store.inner().shards(Some(&projection)).await?;
        let never = shards.is_empty();
        let shards = shards.iter().filter(|(shard, _)| key.is_none_or(|key| shard.has(key)));
        let at = shards.map(|(_, at)| at.position).min().unwrap_or_default();
        if at >= until {
            return Ok(());
        }
        let run = store.run(&projection);
        if run.is_none() && !built && (never || start.elapsed() > SOON.min(patience)) {
            // This process does not run it: then another must have built it, or the wait would be in vain.
            store.inner().rows(Rows::Keys { table: M::TABLE, keys: vec![] }).await?;
            built = true;
        }
        let Run { reason, stopped } = run.unwrap_or_default();
        let reason = match reason.map(BoxError::from) {
            Some(reason) if stopped => return Err(StoreError::Stopped { projection, reason }),
            reason => reason,
        };
        if !in_log {
            in_log = store.reached(until).await?;
        }
        if start.elapsed() >= patience {
            return Err(StoreError::Behind { projection, at, until, reason });
        }
        // It takes an eighth longer than it must.
        let pause = (start.elapsed() / 8).clamp(Duration::from_millis(1), Duration::from_millis(20));
        sleep(pause.min(patience.saturating_sub(start.elapsed()))).await;
    }
}
