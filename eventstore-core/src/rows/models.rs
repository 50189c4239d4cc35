//! The rows of a read model, as they are or as they were.

use std::{marker::PhantomData, time::SystemTime};

use futures::{
    TryStreamExt,
    stream::{self, BoxStream, StreamExt},
};

use super::{
    get::{Get, one_row},
    list::List,
    replay::Replay,
};
use crate::{
    engine::dead_letters::{self, Sweep},
    error::{ParkedKeys, StoreError},
    event::Recorded,
    load::{Until, bound},
    read_model::{Project, ReadModel, RowFold, read_row, write_row},
    store::Store,
    stream::Position,
};

impl Store {
    /// Returns the rows of a read model, which a `Runner` keeps.
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

    /// All rows as they were at a position of the log.
    pub fn at_position(&self, position: Position) -> Self {
        self.with(|until| bound(&mut until.position, position))
    }

    /// All rows as they were known at an instant: made of the events recorded by then.
    pub fn as_of(&self, time: impl Into<SystemTime>) -> Self {
        self.with(|until| bound(&mut until.recorded_by, time.into().into()))
    }

    /// All rows as they were at an instant, by today's knowledge: made of the events that had happened by then.
    pub fn occurred_by(&self, time: impl Into<SystemTime>) -> Self {
        self.with(|until| bound(&mut until.occurred_by, time.into().into()))
    }

    /// The rows folded from the log when they are read: they need no table and no `Runner`, and are never behind.
    ///
    /// A query for one row reads the events of its stream or its tag. If a function returns the keys, and for a list,
    /// the query reads all events of the model.
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

    /// Returns a query for the row of a key.
    pub fn get(&self, key: impl AsRef<str>) -> Get<M> {
        Get::new(self.store.clone(), key.as_ref().into(), self.until)
    }

    /// Returns a query for all rows, or those that match, ordered by key byte by byte unless told otherwise.
    pub fn list(&self) -> List<M> {
        List::new(self.store.clone(), self.until)
    }

    /// Returns the keys whose rows lack events now, because they wait behind an event that could not be processed: see
    /// the dead letters of the read model. Empty if all rows are complete, and where no `Runner` has ever run.
    pub async fn incomplete(&self) -> Result<ParkedKeys, StoreError> {
        let letters = dead_letters::swept(self.store.inner(), Sweep::first_of_each(&M::TABLE.to_string())).await?;
        Ok(ParkedKeys::of(letters.iter().map(|letter| &*letter.key)))
    }

    /// Returns every event of a row, oldest first, each with the row it led to.
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

    /// Returns the rows in memory, to be moved forward along the log. A replay answers every query about the past, and
    /// is the fast way to query many positions.
    pub fn replay(&self) -> Replay<M> {
        Replay::new(self.store.clone(), self.until)
    }
}

/// An event, and the row it led to: `None` if the event deleted the row.
pub type Moment<M> = (Recorded<<M as Project>::Event>, Option<M>);
