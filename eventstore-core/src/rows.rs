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
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::{
    error::{BoxError, StoreError},
    event::{Event, Raw, Recorded},
    handle::Store,
    invalid::Invalid,
    letters::{self, ParkedKeys, Sweep},
    limits,
    load::{Until, bound},
    read_model::{self, Keys, Project, ReadModel, RowFold, read_row, write_row},
    runs::Run,
    store::{Order, Query, Read, Rows},
    stream::{Position, Version},
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
            equal: vec![],
            by: None,
            order: Order::default(),
            limit: None,
            after: None,
            patience: PATIENCE,
            of: PhantomData,
        }
    }

    /// The keys whose rows lack events now, since they wait behind one that could not be processed: see the dead letters of
    /// the read model. Empty if all rows are complete, and where no `Runner` has ever run.
    pub async fn incomplete(&self) -> Result<ParkedKeys, StoreError> {
        let letters = letters::swept(self.store.inner(), Sweep::first_of_each(&M::TABLE.to_string())).await?;
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
            let found = match after {
                Some(after) => {
                    wait::<M>(&store, after, patience, Some(&key)).await?;
                    letters::complete(store.inner(), &M::TABLE, after, Some(&key)).await?;
                    read().await?
                }
                None => store.read_whole(&M::TABLE, read).await?,
            };
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
    equal: Vec<(&'static str, Json)>,
    by: Option<&'static str>,
    order: Order,
    limit: Option<usize>,
    after: Option<Position>,
    patience: Duration,
    of: PhantomData<fn() -> M>,
}

impl<M: ReadModel> List<M> {
    /// Only rows with this value in this column.
    pub fn filter(mut self, column: &'static str, value: impl Into<Json>) -> Self {
        self.equal.push((column, value.into()));
        self
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

    /// Without so many of the first. What is skipped is read, and what is recorded between two pages moves rows from
    /// one to the other: to go through all rows of a moment, say the same [`at_position`](ReadModels::at_position).
    pub fn skip(mut self, rows: usize) -> Self {
        self.order.skip = rows;
        self
    }

    /// At most so many.
    pub fn limit(mut self, rows: usize) -> Self {
        bound(&mut self.limit, rows);
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

    async fn run(self) -> Result<Vec<(String, M)>, StoreError> {
        let Self { store, until, equal, by, mut order, limit, after, patience, .. } = self;
        let equal = equal.into_iter().map(|(column, value)| read_model::equal::<M>(column, value));
        let equal = equal.collect::<Result<Vec<_>, _>>()?;
        order.by = by.map(read_model::ordered::<M>).transpose()?;
        if until == Until::default() {
            let rows = Rows::Where { table: M::TABLE, equal, order, limit };
            let read = || store.inner().rows(rows.clone());
            let found = match after {
                Some(after) => {
                    wait::<M>(&store, after, patience, None).await?;
                    letters::complete(store.inner(), &M::TABLE, after, None).await?;
                    read().await?
                }
                None => store.read_whole(&M::TABLE, read).await?,
            };
            return found.into_iter().map(|(key, row)| Ok((key, read_row(&row)?))).collect();
        }
        let mut replay = ReadModels::<M> { store, until, of: PhantomData }.replay();
        replay.finish().await?;
        let mut rows = vec![];
        for key in replay.rows.keys_in_order() {
            let Some(row) = replay.rows.take(&key) else { continue };
            let written = if equal.is_empty() { None } else { Some(write_row(&row)?) };
            if written.is_none_or(|written| equal.iter().all(|(column, value)| column.has(&written, value))) {
                rows.push((key, row));
            }
        }
        let rows = order.sort(rows, |(_, row)| write_row(row))?;
        Ok(rows.into_iter().skip(order.skip).take(limit.unwrap_or(usize::MAX)).collect())
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
    /// Takes in the events up to a position; a moment named before still holds. Going back is
    /// [`Invalid::Request`]: start another replay.
    pub async fn until(&mut self, position: Position) -> Result<(), StoreError> {
        if position < self.position {
            let why = format!("a replay at {} cannot go back to {position}", self.position);
            return Err(Invalid::Request(why).into());
        }
        let last = self.until.last(&self.store).await?;
        self.run(Some(last.map_or(position, |last| last.min(position)))).await
    }

    /// Takes in all events up to the moment named before, or to the end of the log.
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
            // Event by event: whoever drops this future and goes on later takes no event in twice.
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
