//! A question for one row.

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

/// Returns the events that may concern a row: by the stream or the tag if the key is made of it, else all events.
pub(super) async fn one_row<M: ReadModel>(
    store: &Store,
    key: &str,
    until: Until,
) -> Result<BoxStream<'static, Result<Recorded<Raw>, StoreError>>, StoreError> {
    let read = Read { query: RowFold::<M>::events_of(key), until: until.last(store).await?, ..Read::default() };
    Ok(store.inner().read(read).await?.events)
}
