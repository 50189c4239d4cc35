//! A query for one row.

use std::{
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use futures::{TryStreamExt, future::BoxFuture, stream::BoxStream};

use super::after::{PATIENCE, read_after};
use crate::{
    contract::Read,
    error::StoreError,
    event::{Raw, Recorded},
    invalid::Invalid,
    limits,
    load::{Until, bound},
    read_model::{Keys, ReadModel, RowFold, read_row},
    store::Store,
    stream::{Position, Version},
    table::Rows,
};

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
    pub(super) fn new(store: Store, key: String, until: Until) -> Self {
        Self { store, key, after: None, patience: PATIENCE, until, of: PhantomData }
    }

    /// Waits until the row has every event up to the position, so that a caller reads its own writes. Fails with
    /// [`StoreError::Behind`] after ten seconds, or [the time given](Self::within); and at once with
    /// [`StoreError::Forked`] if the log ends before the position, with [`StoreError::NotBuilt`] if nothing has built
    /// the table, and with [`StoreError::Stopped`] if this process has given the read model up.
    ///
    /// Fails with [`StoreError::Parked`] if the row lacks an event up to the position, because its key waits behind an
    /// event that could not be processed.
    pub fn after(mut self, position: Position) -> Self {
        self.after = Some(position);
        self
    }

    /// How long [`after`](Self::after) waits; ten seconds unless told otherwise. With zero, the read checks once.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The row as it was after this many events of its stream. The await fails with [`Invalid::Request`] unless the
    /// keys of the rows are those of their streams.
    pub fn at(mut self, version: Version) -> Self {
        bound(&mut self.until.version, version);
        self
    }

    /// The row as it was at a position of the log.
    pub fn at_position(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// The row as it was known at an instant: made of the events recorded by then.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// The row as it was at an instant, by today's knowledge: made of the events that had happened by then.
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

/// Returns the events that may concern a row: by the stream or the tag if the key is made of it, else all events.
pub(super) async fn one_row<M: ReadModel>(
    store: &Store,
    key: &str,
    until: Until,
) -> Result<BoxStream<'static, Result<Recorded<Raw>, StoreError>>, StoreError> {
    let read = Read { query: RowFold::<M>::events_of(key), until: until.last(store).await?, ..Read::default() };
    Ok(store.inner().read(read).await?.events)
}
