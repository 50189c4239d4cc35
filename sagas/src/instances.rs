//! Looks at the instances of a saga.

use std::{collections::BTreeMap, marker::PhantomData};

use eventstore_core::{
    Comparison, DeadLetter, Filter, Order, Position, Rows, Saga, SagaStatus, Select, Store, StoreError, Timestamp,
    engine::{Sweep, swept},
    process::{Progress, StoredInstance, Timer},
};
use eventstore_engine::record::{dead_letters, if_built};

use crate::table::{self, STATUS};

/// The instances of the sagas of a store.
pub trait SagaInstances {
    /// Returns the instances of a saga.
    fn sagas<S: Saga>(&self) -> Sagas<S>;
}

impl SagaInstances for Store {
    fn sagas<S: Saga>(&self) -> Sagas<S> {
        Sagas { store: self.clone(), actor: None, saga: PhantomData }
    }
}

/// The instances of a saga.
pub struct Sagas<S> {
    pub(crate) store: Store,
    /// The actor that events of interventions name.
    pub(crate) actor: Option<String>,
    saga: PhantomData<fn() -> S>,
}

/// An instance of a saga.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Instance<S> {
    /// Its key.
    pub key: String,
    /// Its state; `None` while its first event waits as a dead letter.
    pub state: Option<S>,
    /// Its status. `Parked` while an event of it waits as a dead letter.
    pub status: SagaStatus,
    /// When its first event was recorded.
    pub started_at: Timestamp,
    /// When the last event that changed it was recorded.
    pub changed_at: Timestamp,
    /// The position of that event.
    pub position: Position,
    /// When a timer fires next, or when the instance is deleted.
    pub due: Option<Timestamp>,
    /// Its steps, of a saga with steps: each with what has become of it.
    pub plan: Option<Progress>,
    /// Its timers.
    pub timers: Vec<Timer>,
    /// The last refusal, or why it is parked.
    pub error: Option<String>,
}

impl<S: Saga> Sagas<S> {
    /// Returns an instance; `None` if no event has changed it, or if it was deleted after its end. [`StoreError::Row`] if
    /// this program cannot read its state.
    pub async fn get(&self, key: &str) -> Result<Option<Instance<S>>, StoreError> {
        let row = self.rows(vec![key.into()]).await?.into_iter().next();
        let parked = self.letter(key).await?;
        if row.is_none() && parked.is_none() {
            return Ok(None);
        }
        instance(row.unwrap_or_else(|| StoredInstance::new(key)), parked.as_ref()).map(Some)
    }

    /// Returns the instances with a status, at most `limit`, in the order of their keys. Fails as [`get`](Self::get)
    /// does.
    pub async fn list(&self, status: SagaStatus, limit: usize) -> Result<Vec<Instance<S>>, StoreError> {
        let parked = self.parked().await?;
        let mut found = BTreeMap::new();
        if status == SagaStatus::Parked {
            let keys: Vec<_> = parked.keys().take(limit).cloned().collect();
            found.extend(keys.iter().map(|key| (key.clone(), StoredInstance::new(key))));
            found.extend(self.rows(keys).await?.into_iter().map(|row| (row.key.clone(), row)));
        }
        // Some of the rows may be those of instances that are parked, which have another status.
        let filters = vec![Filter { column: STATUS, comparison: Comparison::Equal(table::status(status)) }];
        let limit_of_rows = Some(limit.saturating_add(parked.len()));
        let table = table::table(S::NAME);
        let select = Select { table, filters, order: Order::default(), after: None, limit: limit_of_rows };
        for (key, row) in if_built(self.store.as_ref().select(select).await)? {
            if status == SagaStatus::Parked || !parked.contains_key(&key) {
                found.insert(key.clone(), table::read(&table, &key, &row)?);
            }
        }
        found.into_iter().take(limit).map(|(key, row)| instance(row, parked.get(&key))).collect()
    }

    /// Reads rows; none if the saga never ran.
    pub(crate) async fn rows(&self, keys: Vec<String>) -> Result<Vec<StoredInstance>, StoreError> {
        let table = table::table(S::NAME);
        let rows = if_built(self.store.as_ref().rows(Rows::Keys { table, keys }).await)?;
        rows.iter().map(|(key, row)| table::read(&table, key, row)).collect()
    }

    /// Returns the first event that waits of an instance, if it is parked. Letters that were skipped come before it.
    pub(crate) async fn letter(&self, key: &str) -> Result<Option<DeadLetter>, StoreError> {
        let letters = swept(self.store.as_ref(), Sweep::all_of(S::NAME, key, usize::MAX)).await?;
        Ok(letters.into_iter().find(waits))
    }

    /// Returns the first event that waits of each instance that is parked.
    async fn parked(&self) -> Result<BTreeMap<String, DeadLetter>, StoreError> {
        let letters = dead_letters::first(self.store.as_ref(), S::NAME).await?;
        Ok(letters.into_iter().filter(waits).map(|letter| (letter.key.clone(), letter)).collect())
    }
}

pub(crate) fn waits(letter: &DeadLetter) -> bool {
    letter.skipped.is_none() && !letter.whole_stream
}

/// Returns the state of an instance; `None` if no event has begun it.
pub(crate) fn state_of<S: Saga>(row: &StoredInstance) -> Result<Option<S>, StoreError> {
    match S::decode(row.version, row.state.as_bytes()) {
        Ok(state) => Ok(Some(state)),
        // So it is written for a saga with steps that has not begun.
        Err(_) if row.plan.is_none() && matches!(&*row.state, "" | "null") => Ok(None),
        Err(reason) => Err(StoreError::Row { table: format!("{}.saga", S::NAME), reason: reason.into() }),
    }
}

fn instance<S: Saga>(row: StoredInstance, parked: Option<&DeadLetter>) -> Result<Instance<S>, StoreError> {
    let state = state_of(&row)?;
    let StoredInstance { key, started_at, changed_at, position, due, plan, timers, .. } = row;
    let (status, error) = match parked {
        Some(letter) => (SagaStatus::Parked, Some(letter.error.clone())),
        None => (row.status, row.error),
    };
    Ok(Instance { key, state, status, started_at, changed_at, position, due, plan, timers, error })
}
