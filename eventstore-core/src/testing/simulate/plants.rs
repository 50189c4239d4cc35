//! Bugs that are planted into the world and the nodes of a simulation, which must find them: each is the engine without
//! one of its rules.

use uuid::Uuid;

use super::{run::Commit, world::World};
use crate::process::{Answering, Failure, Process, StoredInstance, Todo, Told, Turn, TurnResult, derived_id};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plant {
    /// G1: a command gets a new id for each attempt.
    FreshIds,
    /// G2: the alternative is chosen from memory; the refusal is not recorded.
    NoMark,
    /// G3: the checkpoint moves, and then the rows are written.
    CheckpointFirst,
    /// G1: the rows and the checkpoint are written, and then the commands are sent.
    StateBeforeSend,
    /// G4: rows are read without checking the owner of the shard.
    UnfencedRead,
    /// E7: the parts of one stored event share their ids.
    IdsWithoutPart,
    /// G2: a node that takes a shard over fires timers that are due before it completes the half-given answers of its
    /// predecessor.
    TimersFirst,
    /// G10: the timers of an instance are not in its row, and outlive it.
    TimersOutlive,
}

/// Returns the operation with the bug, instead of the right one.
pub(super) fn todo(plant: Option<Plant>, todo: Todo, answering: Option<&Answering>) -> Todo {
    let (Todo::Send(sending, mut delivery), Some(answering)) = (todo.clone(), answering) else { return todo };
    match plant {
        Some(Plant::FreshIds) => delivery.id = Uuid::new_v5(&delivery.id, &fresh()),
        Some(Plant::IdsWithoutPart) => {
            let parts = ["saga", delivery.process, &delivery.key, "0", &delivery.place];
            delivery.id = derived_id(answering.trigger().event.id, parts);
        }
        _ => return todo,
    }
    Todo::Send(sending, delivery)
}

fn fresh() -> [u8; 8] {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    static N: AtomicU64 = AtomicU64::new(0);
    N.fetch_add(1, SeqCst).to_be_bytes()
}

/// Performs the operation with the bug, instead of the right one.
pub(super) async fn perform<P: Process>(world: &World<P>, todo: &Todo) -> Result<Told, Failure> {
    match todo {
        Todo::Mark(..) if world.plant == Some(Plant::NoMark) => Ok(Told::Recorded),
        todo => todo.perform(&world.store).await,
    }
}

/// Returns the row to keep, with the bug.
pub(super) fn with_timers<P: Process>(world: &World<P>, mut row: Box<StoredInstance>) -> Box<StoredInstance> {
    if let (Some(Plant::TimersOutlive), true) = (world.plant, row.status.is_over()) {
        row.timers = world.rows.get(&row.key).map_or_else(Vec::new, |before| before.timers.clone());
        row.due = row.timers.iter().filter_map(|timer| timer.next).min();
    }
    row
}

/// Returns the results of turns as if all their commands were accepted, with the bug; else `None`.
pub(super) fn results_before<P: Process>(
    plant: Option<Plant>,
    turns: impl Fn() -> Vec<Turn<P>>,
) -> Option<Vec<TurnResult<P::Event>>> {
    (plant == Some(Plant::StateBeforeSend)).then(|| {
        let all_accepted = |mut turn: Turn<P>| {
            while turn.todo().is_some() {
                turn.told(Told::Recorded);
            }
            turn.result()
        };
        turns().into_iter().map(all_accepted).collect()
    })
}

/// Moves the checkpoint before the rows, with the bug. Returns whether it did.
pub(super) fn checkpoint_first<P: Process>(world: &mut World<P>, epoch: u64, commit: &Commit) -> bool {
    let Commit::Events(to) = commit else { return false };
    if world.plant != Some(Plant::CheckpointFirst) || epoch != world.epoch || world.checkpoint >= *to {
        return false;
    }
    world.checkpoint = *to;
    true
}
