//! The turn of one instance in a batch: the events it answers one after the other, or the timers that are due.
//!
//! Any node processes a batch of one shard so:
//!
//! 1. Read the rows of the instances that the events concern, together with the shard. Stop if the shard is no longer
//!    at the checkpoint, at this epoch and this node's.
//! 2. Make a [`Turn`] of each instance. While a turn has something [to do](Turn::todo), do it and [tell](Turn::told)
//!    the turn the result: the turns concurrently, the operations of a turn in order.
//! 3. Write the [results](Turn::result) of the turns and move the checkpoint in one step, if the shard is still as it
//!    was.
//!
//! Timers go the same way, except the first step: it [claims](StoredInstance::claim) them and stores that before
//! anything is sent, so that either firing or cancelling wins. A half-given answer is completed before any other answer
//! begins, or the two might contradict each other:
//!
//! - A node that has taken a shard over, or that begins a batch again, claims no timers before it has answered all
//!   events that were in the log at that moment.
//! - A timer that was claimed and decides how an instance goes on is answered before the next event of the instance.
//! - An instance with an event that waits as a dead letter claims no timers.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{
    error::{EventError, StoreError},
    event::{NewEvent, Raw, Recorded},
    limits,
    metadata::Metadata,
    process::{
        answering::{Answering, Todo, Trigger},
        instance::{StoredInstance, Timer, TimerId},
        mark::stream_of,
        outcome::Outcome,
        progress::SagaStatus,
        rules::Process,
        script::Script,
        sending::Told,
    },
    stream::{Position, Version},
    timestamp::Timestamp,
};

/// An event that an instance must answer.
#[derive(Clone, Debug)]
pub struct Heard<E> {
    /// The instance.
    pub key: String,
    /// The event.
    pub event: Recorded<E>,
    /// The index of the event among those that an upcast made of one stored event.
    pub part: u32,
}

/// Returns the events that a stored event is decoded as, once for each instance they concern. Fails with [`EventError`]
/// if the event cannot be decoded.
pub fn heard_in<P: Process>(process: &P, event: &Recorded<Raw>) -> Result<Vec<Heard<P::Event>>, EventError> {
    let parts = event.decode::<P::Event>()?;
    let parts = parts.into_iter().zip(0..);
    let all = parts.flat_map(|(event, part)| {
        let keys = process.keys(&event).into_iter();
        keys.map(|key| Heard { key, event: event.clone(), part }).collect::<Vec<_>>()
    });
    Ok(all.collect())
}

/// An item to be answered.
#[derive(Clone, Debug)]
pub enum Item<E> {
    /// An event, and its index among those that an upcast made of one stored event.
    Event(Recorded<E>, u32),
    /// A timer that was claimed, and the event that armed it, if it can be read.
    Timer(TimerId, Option<Recorded<E>>),
    /// An operator retries the instance; with the event that began it.
    Retry(Recorded<E>),
}

/// The terms shared by all turns of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The current instant, by the store's clock.
    pub now: Timestamp,
    /// How long an instance that is over is kept; `None`: for ever.
    pub keep_finished: Option<Duration>,
}

/// The reason why an event or a timer could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parked {
    /// Why.
    pub reason: String,
    /// Whether a later try may succeed, with the same code.
    pub later: bool,
}

impl Parked {
    /// Returns the reason to park the instance whose command failed; `None` if the store is to blame, and the batch
    /// must begin again.
    pub fn of(error: &StoreError) -> Option<Self> {
        let reason = crate::error::Chain(error).to_string();
        (!error.is_retryable()).then_some(Self { reason, later: error.is_conflict() || error.is_newer() })
    }
}

/// The change of an instance's row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Nothing: the row is as it was.
    None,
    /// The row, new or changed.
    Put(Box<StoredInstance>),
    /// The row is deleted: the instance is as one that has had no event.
    Delete,
}

/// The result of a turn.
#[derive(Clone, Debug)]
pub struct TurnResult<E> {
    /// The instance.
    pub key: String,
    /// The change of its row.
    pub change: Change,
    /// The events that wait as dead letters, in their order.
    pub waiting: Vec<(Recorded<E>, u32)>,
    /// Why the first of them waits; `None` if they wait behind an earlier dead letter.
    pub parked: Option<Parked>,
}

/// The turn of one instance in a batch.
pub struct Turn<P: Process> {
    process: Arc<P>,
    key: Arc<str>,
    before: Option<StoredInstance>,
    row: StoredInstance,
    state: P::State,
    /// The status by the state alone.
    status: SagaStatus,
    /// Whether this program cannot read the state: then the row keeps it, and nothing is answered.
    unread: bool,
    /// The stored form of the state of an instance that has had no event.
    blank: Arc<str>,
    queue: VecDeque<Item<P::Event>>,
    answering: Option<Answering>,
    look_up: LookUp,
    /// Whether earlier events of the instance wait as dead letters, so that these events wait behind them.
    waiting: bool,
    parked: Option<Parked>,
    terms: Terms,
}

/// Whether the turn must look up that an instance without a row was not over before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum LookUp {
    Needed,
    Asked,
    Done,
}

impl<P: Process> Clone for Turn<P> {
    fn clone(&self) -> Self {
        Self {
            process: self.process.clone(),
            key: self.key.clone(),
            before: self.before.clone(),
            row: self.row.clone(),
            state: self.state.clone(),
            status: self.status,
            unread: self.unread,
            blank: self.blank.clone(),
            queue: self.queue.clone(),
            answering: self.answering.clone(),
            look_up: self.look_up,
            waiting: self.waiting,
            parked: self.parked.clone(),
            terms: self.terms,
        }
    }
}

impl<P: Process> Turn<P> {
    /// Returns the turn of one instance, given its row. `waiting`: whether earlier events of the instance wait as dead
    /// letters.
    pub fn new(
        process: &Arc<P>,
        key: &str,
        before: Option<StoredInstance>,
        items: impl IntoIterator<Item = Item<P::Event>>,
        waiting: bool,
        terms: Terms,
    ) -> Self {
        let mut blank = StoredInstance::new(key);
        let state = process.blank();
        // If the default cannot be written, the error is reported when a state is written.
        let _ = process.save(&state, &mut blank);
        let look_up = if before.is_none() { LookUp::Needed } else { LookUp::Done };
        let status = guarded(|| process.status(&state));
        let mut turn = Self {
            process: process.clone(),
            key: key.into(),
            row: before.clone().unwrap_or_else(|| blank.clone()),
            before,
            state,
            status: *status.as_ref().unwrap_or(&SagaStatus::Running),
            unread: false,
            blank: blank.state.into(),
            queue: items.into_iter().collect(),
            answering: None,
            look_up,
            waiting,
            parked: None,
            terms,
        };
        if let (None, Err(reason)) = (&turn.before, status) {
            turn.parked = Some(Parked { reason, later: false });
        }
        if turn.before.is_some() {
            if !turn.queue.iter().any(|item| matches!(item, Item::Event(..))) {
                turn.row.tried();
            }
            match open(&**process, &turn.row) {
                Ok((state, status)) => (turn.state, turn.status) = (state, status),
                Err(Unreadable { reason, later }) => {
                    turn.unread = true;
                    while matches!(turn.queue.front(), Some(Item::Timer(..) | Item::Retry(_))) {
                        turn.park(reason.clone(), later);
                    }
                    turn.parked = Some(Parked { reason, later });
                }
            }
        }
        turn.go_on();
        turn
    }

    /// Returns the turns of a batch of events, given the rows of their instances and the keys that wait.
    pub fn all(
        process: &Arc<P>,
        events: Vec<Heard<P::Event>>,
        mut rows: HashMap<String, StoredInstance>,
        waiting: impl Fn(&str) -> bool,
        terms: Terms,
    ) -> Vec<Self> {
        let mut order: Vec<String> = vec![];
        let mut items: HashMap<String, Vec<Item<P::Event>>> = HashMap::new();
        for Heard { key, event, part } in events {
            let items = items.entry(key.clone()).or_insert_with(|| {
                order.push(key);
                vec![]
            });
            items.push(Item::Event(event, part));
        }
        let turn = |key: String| {
            let items = items.remove(&key).unwrap_or_default();
            Self::new(process, &key, rows.remove(&key), items, waiting(&key), terms)
        };
        order.into_iter().map(turn).collect()
    }

    /// Returns the key of the instance.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the answer that is being given, if there is one.
    pub fn answering(&self) -> Option<&Answering> {
        self.answering.as_ref()
    }

    /// Whether the turn has nothing more to do, and so has a result.
    pub fn is_over(&self) -> bool {
        self.answering.is_none()
    }

    /// Returns the next operation; `None` if the turn is over.
    pub fn todo(&self) -> Option<Todo> {
        let answering = self.answering.as_ref()?;
        match self.look_up {
            LookUp::Asked => Some(answering.look_up()),
            _ => answering.todo(),
        }
    }

    /// Takes the result of the operation that [`todo`](Self::todo) returned.
    pub fn told(&mut self, told: Told) {
        match told {
            Told::Over(over) => {
                self.look_up = LookUp::Done;
                if over {
                    self.answering = None;
                    self.queue.clear();
                }
            }
            told => {
                if let Some(answering) = &mut self.answering {
                    answering.told(told);
                }
            }
        }
        self.go_on();
    }

    /// Notes that the operation failed, and the instance is to blame.
    pub fn failed(&mut self, parked: Parked) {
        self.answering = None;
        if self.look_up == LookUp::Asked {
            self.look_up = LookUp::Needed;
        }
        self.park(parked.reason, parked.later);
        self.go_on();
    }

    /// Returns the result of the turn, once it is over.
    pub fn result(mut self) -> TurnResult<P::Event> {
        let waiting = self.queue.drain(..).filter_map(|item| match item {
            Item::Event(event, part) => Some((event, part)),
            Item::Timer(..) | Item::Retry(_) => None,
        });
        let waiting: Vec<_> = waiting.collect();
        let reason = self.parked.as_ref().map(|parked| parked.reason.clone());
        if self.parked.is_some() || self.waiting {
            self.row.park();
            self.row.error = reason.or(self.row.error);
        } else {
            self.stand();
        }
        let row = self.row;
        let nothing = row.status == SagaStatus::Running
            && *row.state == *self.blank
            && row.plan.is_none()
            && row.timers.is_empty();
        let change = match self.before {
            Some(before) if before == row => Change::None,
            None if nothing => Change::None,
            Some(_) if nothing => Change::Delete,
            _ => Change::Put(Box::new(row)),
        };
        TurnResult { key: self.key.to_string(), change, waiting, parked: self.parked }
    }

    /// Returns why an event or a timer could not be answered; for tests.
    pub(crate) fn trouble(&self) -> Option<&str> {
        let timers = self.row.timers.iter().filter_map(|timer| timer.error.as_deref());
        self.parked.iter().map(|parked| &*parked.reason).chain(timers).next()
    }

    /// Hashes all that decides what this turn does next.
    pub(crate) fn digest(&self, hasher: &mut impl Hasher) {
        self.row.hash(hasher);
        (self.look_up, self.waiting, &self.parked).hash(hasher);
        for item in &self.queue {
            match item {
                Item::Event(event, part) => (0, event.position, *part).hash(hasher),
                Item::Timer(id, _) => (1, id).hash(hasher),
                Item::Retry(_) => 2.hash(hasher),
            }
        }
        if let Some(answering) = &self.answering {
            (answering.known(), answering.marking()).hash(hasher);
        }
    }

    /// Calls the user's code. A panic in it becomes an error with its text.
    fn guarded<T, E: std::fmt::Display>(&self, call: impl FnOnce(&P) -> Result<T, E>) -> Result<T, String> {
        guarded(|| call(&self.process).map_err(|error| error.to_string())).flatten()
    }

    /// Parks the first item of the queue.
    fn park(&mut self, reason: String, later: bool) {
        if let Some(Item::Timer(id, _)) = self.queue.front() {
            let (id, now) = (id.clone(), self.terms.now);
            let decides = self.row.timer(&id).is_some_and(|timer| self.process.decides(&self.state, timer).is_some());
            if decides && self.queue.iter().any(|item| matches!(item, Item::Event(..))) {
                self.parked = Some(Parked { reason: reason.clone(), later });
            }
            if let Some(timer) = self.row.timer_mut(&id) {
                let seconds = 1_u64 << timer.fired.saturating_sub(1).min(9);
                timer.next = later.then(|| now + Duration::from_secs(seconds.min(300)));
                timer.error = Some(reason.clone());
            }
            self.row.error = Some(reason);
            self.stand();
            self.queue.pop_front();
            return;
        }
        if let Some(Item::Retry(_)) = self.queue.front() {
            self.queue.pop_front();
            self.row.error = Some(reason);
            return;
        }
        self.parked = Some(Parked { reason, later });
    }

    /// Sets the status of the instance, and when it is due.
    fn stand(&mut self) {
        if !self.unread {
            self.row.stand(self.status, self.terms.keep_finished);
        } else if self.row.timers.iter().any(|timer| timer.next.is_none()) {
            self.row.park();
        }
    }

    /// Goes on until the turn has something to do, or is over.
    fn go_on(&mut self) {
        while self.parked.is_none() && !self.waiting {
            let outcome = match &self.answering {
                Some(_) if self.look_up == LookUp::Asked => return,
                // The commands after the end are the user's code.
                Some(answering) => match guarded(|| answering.outcome()) {
                    Ok(None) => return,
                    Ok(Some(outcome)) => Some(outcome),
                    Err(reason) => {
                        self.answering = None;
                        self.park(reason, false);
                        continue;
                    }
                },
                None => None,
            };
            match outcome {
                Some(outcome) => match self.finish(&outcome) {
                    Ok(()) => _ = self.queue.pop_front(),
                    Err(reason) => self.park(reason, false),
                },
                None if self.queue.is_empty() => return,
                None => {
                    if let Err(reason) = self.begin() {
                        self.park(reason, false);
                    }
                }
            }
        }
    }

    /// Begins to answer the next item, or passes it over. Fails with the reason if the user's code panics or fails.
    fn begin(&mut self) -> Result<(), String> {
        let over = self.status.is_over();
        if let (Some(Item::Event(..)), Some(claimed)) = (self.queue.front(), self.claimed()) {
            self.queue.push_front(Item::Timer(claimed, None));
        }
        let Some(item) = self.queue.front() else { return Ok(()) };
        let may_be_over = match item {
            Item::Event(event, _) if self.look_up == LookUp::Needed => self.process.may_be_over(event),
            _ => false,
        };
        let now = self.terms.now;
        let (script, event, part, due) = match item {
            Item::Event(..) if over => {
                self.queue.pop_front();
                return Ok(());
            }
            Item::Event(event, part) => {
                let script = self.guarded(|process| process.answer(&self.state, event, *part, now))?;
                if script.is_none() && self.is_silent(event)? {
                    self.queue.pop_front();
                    return Ok(());
                }
                (script, event.with(()), *part, None)
            }
            Item::Timer(id, event) => {
                let Some(timer) = self.row.timer(id) else {
                    self.queue.pop_front();
                    return Ok(());
                };
                let script = self.guarded(|process| process.fire(&self.state, timer, event.as_ref(), now))?;
                let gone =
                    || format!("the code says nothing at `{}` any more, where it said {}", timer.place, timer.was);
                let event = event.as_ref().map_or_else(|| self.armed(timer), |event| event.with(()));
                (script.ok_or_else(gone)?, event, timer.part, Some(timer.due))
            }
            Item::Retry(event) => {
                let Some(script) = self.guarded(|process| process.retry(&self.state, now))? else {
                    self.queue.pop_front();
                    return Ok(());
                };
                (script, event.with(()), 0, None)
            }
        };
        let trigger = Trigger { event, part, due };
        let answering = self.answering_of(trigger, script)?;
        self.answering = Some(answering);
        self.look_up = if may_be_over { LookUp::Asked } else { LookUp::Done };
        Ok(())
    }

    /// Returns the next timer that was claimed before and decides how the instance goes on: the node that claimed it
    /// may have given half of the answer.
    fn claimed(&self) -> Option<TimerId> {
        let claimed = |timer: &&Timer| timer.fired > 0 && self.process.decides(&self.state, timer).is_some();
        self.row.timers.iter().filter(claimed).min_by_key(|timer| timer.due).map(Timer::id)
    }

    /// Returns the event that armed a timer, as far as it is known without reading it.
    fn armed(&self, timer: &Timer) -> Recorded<()> {
        let correlation_id = self.process.decides(&self.state, timer).unwrap_or_default();
        let metadata = Metadata { correlation_id, ..Metadata::default() };
        let data = Raw { name: "".into(), tags: vec![], body: vec![] };
        let new = NewEvent { id: timer.event, schema: 1, occurred_at: None, metadata, data };
        new.recorded(stream_of(self.process.name(), &self.key), Version(0), Position(0), timer.due).with(())
    }

    fn answering_of(&self, trigger: Trigger, script: Script) -> Result<Answering, String> {
        Answering::new(self.process.name(), self.key.clone(), trigger, script).map_err(|error| error.to_string())
    }

    /// Whether an event whose answer is empty leaves the instance unchanged.
    fn is_silent(&self, event: &Recorded<P::Event>) -> Result<bool, String> {
        if event.metadata.causation_id.is_some_and(|cause| self.row.awaits(cause)) {
            return Ok(false);
        }
        let mut row = StoredInstance::new(&self.key);
        self.guarded(|process| {
            let state = process.evolve(self.state.clone(), event, &Outcome::default());
            process.save(&state, &mut row)
        })?;
        Ok(row.state == self.row.state && row.plan == self.row.plan)
    }

    /// Applies an answered item to the instance. Fails with the reason if the user's code panics or fails, or if the
    /// instance is over a limit.
    fn finish(&mut self, outcome: &Outcome) -> Result<(), String> {
        let (Some(item), Some(answering)) = (self.queue.front(), self.answering.take()) else { return Ok(()) };
        let mut row = self.row.clone();
        let trigger = answering.trigger();
        let mut before = self.process.before(&self.row, &self.blank);
        let state = self.state.clone();
        let state = match item {
            Item::Event(event, _) => {
                if let Some(cause) = event.metadata.causation_id {
                    row.answered(cause);
                }
                row.hear(event.position, event.recorded_at);
                self.guarded(|process| Ok::<_, EventError>(process.evolve(state, event, outcome)))?
            }
            Item::Timer(id, _) => {
                before = row.timer(id).and_then(|timer| timer.state.clone());
                row.remove_timer(id);
                row.changed_at = row.changed_at.max(self.terms.now);
                self.guarded(|process| Ok::<_, EventError>(process.fired(state, outcome)))?
            }
            Item::Retry(_) => self.guarded(|process| Ok::<_, EventError>(process.fired(state, outcome)))?,
        };
        self.guarded(|process| process.save(&state, &mut row))?;
        let status = match self.status {
            SagaStatus::Cancelled => self.status,
            _ => self.guarded(|process| Ok::<_, EventError>(process.status(&state)))?,
        };
        let armed = TimerId::new(trigger.event.id, trigger.part);
        row.change(&outcome.timers, &armed, trigger.since(), before.as_ref(), |place| answering.command_id(place));
        let parked = self.process.parked(&state);
        if parked.is_some() || outcome.refused.is_some() || row.status == SagaStatus::Parked {
            row.error = parked.or_else(|| outcome.refused.clone());
        }
        let size = |what, size, limit| limits::size(what, size, limit).map_err(|error| error.to_string());
        size("the timers of an instance", row.timers.len(), limits::TIMERS)?;
        size("the state and the timers of an instance", row.bytes(), limits::INSTANCE_BYTES)?;
        (self.row, self.state, self.status) = (row, state, status);
        self.stand();
        Ok(())
    }
}

/// Why this program cannot read the state of an instance.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// Why.
    pub reason: String,
    /// Whether a later release can read the state.
    pub later: bool,
}

/// Returns the state of an instance, and the status by the state alone.
pub fn open<P: Process>(process: &P, row: &StoredInstance) -> Result<(P::State, SagaStatus), Unreadable> {
    let told = |reason| format!("the state of the instance cannot be read: {reason}");
    let opened = guarded(|| process.open(row)).map_err(|reason| Unreadable { reason: told(reason), later: false })?;
    let state = opened.map_err(|error| {
        let later = matches!(error, EventError::Schema(..));
        Unreadable { reason: told(error.to_string()), later }
    })?;
    if row.status == SagaStatus::Cancelled {
        return Ok((state, row.status));
    }
    let status = guarded(|| process.status(&state)).map_err(|reason| Unreadable { reason, later: false })?;
    Ok((state, status))
}

/// Calls the user's code. A panic in it becomes an error with its text.
fn guarded<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| panicked(&*panic))
}

/// Returns the message of a panic in the user's code.
pub fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}
