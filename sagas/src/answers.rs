//! A process and how it is run; runs the operations of the turns of its instances.

use std::{sync::Arc, time::Duration};

use eventstore_core::{
    StartFrom, Store, StoreError, Table,
    process::{Failure, Process, Terms, Turn, TurnResult},
};
use futures::{StreamExt, stream};

/// How many instances of a process are answered at once.
const AT_ONCE: usize = 64;
/// How long an instance that is over is kept.
pub const KEEP_FINISHED: Duration = Duration::from_secs(7 * 86_400);

/// Answers the events of a process.
pub struct Answers<P: Process> {
    pub process: Arc<P>,
    pub store: Store,
    pub table: Table,
    pub start: Option<StartFrom>,
}

impl<P: Process> Answers<P> {
    pub fn terms(&self) -> Terms {
        Terms { now: self.store.as_ref().now(), keep_finished: Some(KEEP_FINISHED) }
    }
}

/// Runs the operations of turns, 64 turns side by side, those of a turn in order. Fails if the store cannot be used
/// now: the caller begins the batch again, with the same ids.
pub async fn perform<P: Process>(store: &Store, turns: Vec<Turn<P>>) -> Result<Vec<TurnResult<P::Event>>, StoreError> {
    let run = async |mut turn: Turn<P>| {
        while let Some(todo) = turn.todo() {
            match todo.perform(store).await {
                Ok(told) => turn.told(told),
                Err(Failure::Parked(parked)) => turn.failed(parked),
                Err(Failure::Store(error)) => return Err(error),
            }
        }
        Ok(turn.result())
    };
    let results: Vec<_> = stream::iter(turns).map(run).buffered(AT_ONCE).collect().await;
    results.into_iter().collect()
}
