//! Commands of one store on one boundary take turns, so that no command decides on a state that another is about to
//! change.
//!
//! Turns are an optimization. Correctness rests on the versions and conditions of the append, so processes share no
//! lock, and a turn that makes no progress is passed over.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use crate::error::StoreError;

/// How many commands may wait for a turn on one boundary.
const WAITING: usize = 10_000;
/// How long a turn may last before the next command goes past it. The future of a command that is neither polled nor
/// dropped would keep its turn for ever.
const PASSED_OVER: Duration = Duration::from_secs(1);

/// The queues of a store: one for each boundary that has a running command.
#[derive(Default)]
pub(crate) struct Turns {
    hashes: RandomState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the hash of the boundary. A collision makes commands wait without need, and has no other effect.
    queues: HashMap<u64, Queue>,
    /// The last number given to a ticket or an epoch.
    last: u64,
}

/// The turns taken on a boundary, and the commands that wait for one, in order of arrival.
#[derive(Default)]
struct Queue {
    /// Raised when the running commands are passed over: a turn of an earlier epoch is not counted in `running`.
    epoch: u64,
    /// How many turns are taken: one exclusive turn, or any number of shared turns.
    running: usize,
    exclusive: bool,
    /// How many turns have been given.
    given: u64,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    /// Ascending along the queue.
    ticket: u64,
    exclusive: bool,
    /// Receives the epoch of the turn.
    called: oneshot::Sender<u64>,
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Queue {
    /// Whether one more turn can be taken now.
    fn admits(&self, exclusive: bool) -> bool {
        self.running == 0 || !(exclusive || self.exclusive)
    }

    fn give(&mut self, exclusive: bool) {
        self.running += 1;
        self.exclusive = exclusive;
        self.given += 1;
    }

    /// Gives turns to the first waiters, as many as may run at once.
    fn call(&mut self) {
        while self.waiting.front().is_some_and(|first| self.admits(first.exclusive)) {
            let Some(Waiter { exclusive, called, .. }) = self.waiting.pop_front() else { return };
            if called.send(self.epoch).is_ok() {
                self.give(exclusive);
            }
        }
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is used all the same: each change leaves the state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn on each boundary: `true` for an exclusive turn, `false` for one that is shared. Dropping the
    /// result gives the turns back. Fails with [`Busy`](StoreError::Busy) if 10,000 commands wait for a turn already.
    pub(crate) async fn take(
        &self,
        boundaries: impl ExactSizeIterator<Item = (impl Hash, bool)>,
    ) -> Result<Vec<Turn<'_>>, StoreError> {
        let mut turns = Vec::with_capacity(boundaries.len());
        let mut wanted = boundaries.map(|(boundary, exclusive)| (self.hashes.hash_one(boundary), exclusive));
        if wanted.len() == 1 {
            if let Some((key, exclusive)) = wanted.next() {
                turns.push(self.take_one(key, exclusive).await?);
            }
            return Ok(turns);
        }
        // Every command takes its turns in the order of their keys, so no two wait for each other. A key that is wanted
        // twice is taken once.
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort_unstable_by_key(|&(key, exclusive)| (key, !exclusive));
        wanted.dedup_by_key(|(key, _)| *key);
        for (key, exclusive) in wanted {
            turns.push(self.take_one(key, exclusive).await?);
        }
        Ok(turns)
    }

    async fn take_one(&self, key: u64, exclusive: bool) -> Result<Turn<'_>, StoreError> {
        match self.enter(key, exclusive)? {
            Entered::Turn(turn) => Ok(turn),
            Entered::Waiting(waiting) => Ok(waiting.turn().await),
        }
    }

    fn enter(&self, key: u64, exclusive: bool) -> Result<Entered<'_>, StoreError> {
        let mut state = self.state();
        let number = state.number();
        let queue = state.queues.entry(key).or_insert_with(|| Queue { epoch: number, ..Queue::default() });
        if queue.waiting.is_empty() && queue.admits(exclusive) {
            queue.give(exclusive);
            return Ok(Entered::Turn(Turn { turns: self, key, epoch: queue.epoch }));
        }
        if queue.waiting.len() >= WAITING {
            return Err(StoreError::Busy(format!("{WAITING} commands wait for their turn already").into()));
        }
        let (called, call) = oneshot::channel();
        queue.waiting.push_back(Waiter { ticket: number, exclusive, called });
        Ok(Entered::Waiting(Waiting { turns: self, key, ticket: number, call, heard: false }))
    }

    fn give_back(&self, key: u64, epoch: u64) {
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(&key).filter(|queue| queue.epoch == epoch) else { return };
        queue.running -= 1;
        queue.call();
        if queue.running == 0 {
            state.queues.remove(&key);
        }
    }

    fn given(&self, key: u64) -> Option<u64> {
        self.state().queues.get(&key).map(|queue| queue.given)
    }

    /// Revokes the running turns, if no turn has been given since `given` was read, and calls the next waiters.
    fn pass_over(&self, key: u64, given: Option<u64>) {
        let mut state = self.state();
        let epoch = state.number();
        let Some(queue) = state.queues.get_mut(&key).filter(|queue| Some(queue.given) == given) else { return };
        (queue.epoch, queue.running) = (epoch, 0);
        queue.call();
    }
}

enum Entered<'a> {
    Turn(Turn<'a>),
    Waiting(Waiting<'a>),
}

/// A turn on a boundary.
#[must_use = "dropped, it is given back"]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    key: u64,
    epoch: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.give_back(self.key, self.epoch);
    }
}

/// A place in a queue. Dropping it leaves the queue.
struct Waiting<'a> {
    turns: &'a Turns,
    key: u64,
    ticket: u64,
    call: oneshot::Receiver<u64>,
    heard: bool,
}

impl<'a> Waiting<'a> {
    async fn turn(mut self) -> Turn<'a> {
        let (turns, key) = (self.turns, self.key);
        loop {
            let given = turns.given(key);
            match timeout(PASSED_OVER, &mut self.call).await {
                Ok(called) => {
                    self.heard = true;
                    // A queue in which a command waits is not removed, so there is always a call; 0 is no epoch.
                    return Turn { turns, key, epoch: called.unwrap_or_default() };
                }
                Err(_) => turns.pass_over(key, given),
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.heard {
            return;
        }
        let mut state = self.turns.state();
        if let Some(queue) = state.queues.get_mut(&self.key)
            && let Ok(place) = queue.waiting.binary_search_by_key(&self.ticket, |waiter| waiter.ticket)
        {
            queue.waiting.remove(place);
            // Shared turns may have waited behind this one.
            queue.call();
            return;
        }
        drop(state);
        // The waiter was called, and is dropped before it took the turn.
        if let Ok(epoch) = self.call.try_recv() {
            self.turns.give_back(self.key, epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        task::{Context, Poll, Waker},
    };

    use super::*;

    fn alone(boundary: &str) -> impl ExactSizeIterator<Item = (&str, bool)> {
        [(boundary, true)].into_iter()
    }

    fn shared(boundary: &str) -> impl ExactSizeIterator<Item = (&str, bool)> {
        [(boundary, false)].into_iter()
    }

    /// Polls once.
    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    macro_rules! pinned {
        ($($name:ident = $future:expr;)*) => {
            $(let mut $name = Box::pin($future);)*
        };
    }

    fn queues(turns: &Turns) -> usize {
        turns.state().queues.len()
    }

    #[tokio::test]
    async fn c4_turns_come_in_order_and_leave_nothing_behind() {
        let turns = Turns::default();
        let first = turns.take(alone("a")).await.expect("a turn");
        pinned! {
            second = turns.take(alone("a"));
            third = turns.take(alone("a"));
        }
        assert!(poll(&mut second).is_pending() && poll(&mut third).is_pending());
        drop(turns.take(alone("b")).await.expect("a turn on another boundary"));
        drop(first);
        assert!(poll(&mut third).is_pending(), "the second is before it");
        let second = second.await.expect("a turn");
        assert!(poll(&mut third).is_pending());
        drop(second);
        drop(third.await.expect("a turn"));
        assert_eq!(queues(&turns), 0);
    }

    #[tokio::test]
    async fn c4_shared_turns_run_at_once_and_do_not_overtake_an_exclusive_one() {
        let turns = Turns::default();
        let readers = (turns.take(shared("a")).await.expect("a turn"), turns.take(shared("a")).await.expect("a turn"));
        pinned! {
            writer = turns.take(alone("a"));
            late = turns.take(shared("a"));
            later = turns.take(shared("a"));
        }
        assert!(poll(&mut writer).is_pending() && poll(&mut late).is_pending() && poll(&mut later).is_pending());
        drop(readers.0);
        assert!(poll(&mut writer).is_pending());
        drop(readers.1);
        let writer = writer.await.expect("a turn");
        assert!(poll(&mut late).is_pending());
        drop(writer);
        drop((late.await.expect("a turn"), later.await.expect("a turn")));
        // An exclusive waiter that is dropped lets the shared ones behind it go on.
        let reader = turns.take(shared("a")).await.expect("a turn");
        pinned! {
            writer = turns.take(alone("a"));
            late = turns.take(shared("a"));
        }
        assert!(poll(&mut writer).is_pending() && poll(&mut late).is_pending());
        drop(writer);
        drop((reader, late.await.expect("a turn")));
        assert_eq!(queues(&turns), 0);
    }

    #[tokio::test]
    async fn c4_a_boundary_that_is_named_twice_is_taken_once() {
        let turns = Turns::default();
        let both = turns.take([("a", false), ("b", true), ("a", true), ("a", false)].into_iter()).await;
        assert_eq!(both.as_ref().map(Vec::len).ok(), Some(2));
        pinned! { shared = turns.take(shared("a")); }
        assert!(poll(&mut shared).is_pending(), "of two ways, the one alone");
        drop(both);
        drop(shared.await);
        assert_eq!(queues(&turns), 0);
    }

    #[tokio::test]
    async fn c4_a_queue_is_bounded_and_a_dropped_command_makes_room() {
        let turns = Turns::default();
        let first = turns.take(alone("a")).await.expect("a turn");
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(turns.take(alone("a")))).collect();
        assert!(waiting.iter_mut().all(|waiting| poll(waiting).is_pending()));
        let refused = turns.take(alone("a")).await.err();
        assert!(matches!(refused, Some(StoreError::Busy(_))), "{refused:?}");
        drop(waiting.swap_remove(WAITING / 2));
        pinned! { last = turns.take(alone("a")); }
        assert!(poll(&mut last).is_pending(), "there is room for one");
        drop(waiting);
        drop(first);
        drop(last.await.expect("a turn"));
        assert_eq!(queues(&turns), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn c4_a_turn_that_makes_no_progress_is_passed_over() {
        let turns = Turns::default();
        let stuck = turns.take(alone("a")).await.expect("a turn");
        // This waiter is called when the first turn is passed over, and is never polled again.
        pinned! { deaf = turns.take(alone("a")); }
        assert!(poll(&mut deaf).is_pending());
        let past = turns.take(alone("a")).await.expect("a turn, past both");
        // A turn that was passed over is not given back twice.
        drop(stuck);
        drop(deaf);
        pinned! { next = turns.take(alone("a")); }
        assert!(poll(&mut next).is_pending(), "one at a time");
        drop(past);
        drop(next.await.expect("a turn"));
        assert_eq!(queues(&turns), 0);
    }

    #[tokio::test]
    async fn c4_a_waiter_dropped_after_its_call_calls_the_next() {
        let turns = Turns::default();
        let first = turns.take(alone("a")).await.expect("a turn");
        pinned! {
            called = turns.take(alone("a"));
            next = turns.take(alone("a"));
        }
        assert!(poll(&mut called).is_pending() && poll(&mut next).is_pending());
        drop(first);
        drop(called);
        drop(next.await.expect("a turn"));
        assert_eq!(queues(&turns), 0);
    }
}
