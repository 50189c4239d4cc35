//! Lets a runner run sagas and reactors.

use std::sync::Arc;

use eventstore_core::{
    Reactor, Saga, StartFrom,
    process::{Process, Stateless},
};
use eventstore_engine::Runner;

use crate::{answers::Answers, table::table};

/// How many instances of a shard may be parked: a service that cannot be reached may park many.
const MAX_PARKED: usize = 10_000;

/// How many events a shard answers until it moves its checkpoint. Each answer is a command, which a crash repeats: with
/// batches as large as those of a read model, a node that is killed every few seconds never completes one.
const BATCH: usize = 250;

/// Sagas and reactors, as methods of [`Runner`].
pub trait RunProcesses {
    /// Runs a saga: each event is answered once for each instance that it concerns, whatever crashes, on any number of
    /// nodes. On a log that has events already, say where the saga begins: [`Saga::FROM`], or [`Runner::from_now`],
    /// [`Runner::from_beginning`] or [`Runner::from`]. An instance that is over is deleted after 7 days. A batch has up
    /// to 250 events, unless [`Runner::batch`] says otherwise.
    fn saga<S: Saga>(self) -> Self;

    /// Runs a reactor; as [`saga`](Self::saga), without a state.
    fn reactor<R: Reactor>(self, reactor: R) -> Self;
}

impl RunProcesses for Runner {
    fn saga<S: Saga>(self) -> Self {
        run(self, S::Process::default(), S::FROM)
    }

    fn reactor<R: Reactor>(self, reactor: R) -> Self {
        run(self, Stateless(reactor), R::FROM)
    }
}

fn run<P: Process>(runner: Runner, process: P, start: Option<StartFrom>) -> Runner {
    let store = runner.store().clone();
    let table = table(process.name());
    let process = Arc::new(process);
    let answers = Answers { process, store, table, start };
    runner.with(answers).max_parked(MAX_PARKED).batch(BATCH)
}
