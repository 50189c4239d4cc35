//! `MoneyTransfer::when(&t1, Requested(order)).then(send(…))`: tests the answers of a saga or a reactor without a
//! store.

use std::{fmt, fmt::Debug, sync::Arc};

use uuid::Uuid;

use super::{compare, decoded};
use crate::{
    event::Recorded,
    metadata::Metadata,
    process::{
        Answering, Change, Commands, EventOf, Item, Process, React, Reacting, Reactor, Saga, SagaStatus, Stateless,
        StoredInstance, Terms, Timer, Todo, Told, Trigger, Turn,
    },
    stream::{Position, StreamId},
    timestamp::Timestamp,
};

/// Tests the answers of one instance of a saga that implements [`React`].
pub trait When: Saga + React {
    /// Returns the answer to an event in a stream, as the first event of the instance.
    fn when(stream: impl Into<StreamId>, event: impl Into<EventOf<Self>>) -> Said<Self::Process> {
        Hearing::new(Self::Process::default()).when(stream, event)
    }

    /// Gives an earlier event in a stream, whose commands were all accepted.
    fn given(stream: impl Into<StreamId>, event: impl Into<EventOf<Self>>) -> Hearing<Self::Process> {
        Hearing::new(Self::Process::default()).given(stream, event)
    }
}

impl<S: Saga<Process = Reacting<S>> + React> When for S where Reacting<S>: Process {}

/// Tests the answers of a reactor: `reacting(Greet).when(&customer, Joined { … }).then(…)`.
pub fn reacting<R: Reactor>(reactor: R) -> Hearing<Stateless<R>> {
    Hearing::new(Stateless(reactor))
}

/// An instance with its earlier events.
pub struct Hearing<P: Process> {
    process: Arc<P>,
    key: Option<String>,
    row: Option<StoredInstance>,
    heard: Vec<Recorded<P::Event>>,
    now: Timestamp,
}

impl<P: Process> Hearing<P> {
    fn new(process: P) -> Self {
        Self { process: Arc::new(process), key: None, row: None, heard: vec![], now: Timestamp::default() }
    }

    /// Returns the answer to an event in a stream.
    #[track_caller]
    pub fn when(mut self, stream: impl Into<StreamId>, event: impl Into<P::Event>) -> Said<P> {
        let position = Position(self.heard.len() as u64 + 1);
        let metadata = Metadata { correlation_id: Uuid::from_u128(1), ..Metadata::default() };
        let event = decoded(stream.into(), position, self.now, metadata, &event.into());
        self.heard.push(event.clone());
        let keys = self.process.keys(&event);
        let key = self.key.clone().or_else(|| keys.first().cloned());
        match key.filter(|key| keys.contains(key)) {
            Some(key) => {
                self.key = Some(key);
                self.says(Some(Item::Event(event, 0)))
            }
            // The event concerns no instance, or another one.
            None => self.says(None),
        }
    }

    /// Gives another earlier event, whose commands were all accepted.
    #[track_caller]
    pub fn given(self, stream: impl Into<StreamId>, event: impl Into<P::Event>) -> Self {
        self.when(stream, event).accepted_all()
    }

    /// Returns the answer when the timer of this name is due. Panics if there is none.
    #[track_caller]
    pub fn when_due(self, timer: &str) -> Said<P> {
        self.fires(&format!("no timer is called `{timer}`"), |armed| armed.name.as_deref() == Some(timer))
    }

    /// Returns the answer when the timer that is due first is due. Panics if there is none.
    #[track_caller]
    pub fn when_next_due(self) -> Said<P> {
        self.fires("no timer is armed", |_| true)
    }

    #[track_caller]
    fn fires(mut self, none: &str, wanted: impl Fn(&Timer) -> bool) -> Said<P> {
        let timers = self.row.iter_mut().flat_map(|row| &mut row.timers).filter(|timer| timer.fired == 0);
        let Some(timer) = timers.filter(|timer| wanted(timer)).min_by_key(|timer| timer.due) else {
            let armed = self.row.iter().flat_map(|row| &row.timers);
            let armed: Vec<_> = armed.map(|timer| timer.name.as_deref().unwrap_or(&timer.was)).collect();
            panic!("{none}; armed: [{}]", armed.join(", "));
        };
        timer.fired += 1;
        self.now = self.now.max(timer.due);
        let (id, event) = (timer.id(), timer.event);
        let event = self.heard.iter().find(|heard| heard.id == event).cloned();
        self.says(Some(Item::Timer(id, event)))
    }

    #[track_caller]
    fn says(self, item: Option<Item<P::Event>>) -> Said<P> {
        let key = self.key.clone().unwrap_or_default();
        let answering = item.as_ref().and_then(|item| self.answering(&key, item));
        let terms = Terms { now: self.now, keep_finished: None };
        let mut turn = Turn::new(&self.process, &key, self.row.clone(), item, false, terms);
        if let Some(Todo::LookUp(_)) = turn.todo() {
            turn.told(Told::Over(false));
        }
        sound(&turn);
        Said { hearing: self, turn, answering, told: vec![] }
    }

    /// Returns the answer alone, without its effect on the row.
    #[track_caller]
    fn answering(&self, key: &str, item: &Item<P::Event>) -> Option<Answering> {
        let state = self.state();
        let (event, part, due, script) = match item {
            Item::Event(..) if self.process.status(&state).is_over() => return None,
            Item::Event(event, part) => {
                let script = self.process.answer(&state, event, *part, self.now);
                (event, *part, None, script.unwrap_or_else(|error| panic!("it cannot be answered: {error}")))
            }
            Item::Timer(id, event) => {
                let timer = self.row.as_ref()?.timer(id)?;
                let script = self.process.fire(&state, timer, event.as_ref(), self.now);
                let script = script.unwrap_or_else(|error| panic!("it cannot be answered: {error}"))?;
                (event.as_ref()?, timer.part, Some(timer.due), script)
            }
            Item::Retry(_) => return None,
        };
        let trigger = Trigger { event: event.with(()), part, due };
        let answering = Answering::new(self.process.name(), key.into(), trigger, script);
        Some(answering.unwrap_or_else(|error| panic!("it cannot be answered: {error}")))
    }

    #[track_caller]
    fn state(&self) -> P::State {
        match &self.row {
            Some(row) => self.process.open(row).unwrap_or_else(|error| panic!("its state cannot be read: {error}")),
            None => self.process.blank(),
        }
    }

    /// Expects the instance to be over.
    #[track_caller]
    pub fn then_over(self) -> Self {
        assert!(self.status().is_some_and(SagaStatus::is_over), "it is not over: {:?}", self.state_text());
        self
    }

    /// Expects this state of the instance.
    #[track_caller]
    pub fn then_state(self, expected: P::State) -> Self
    where
        P::State: Debug + PartialEq,
    {
        let state = self.state();
        compare(&expected, &state);
        self
    }

    fn status(&self) -> Option<SagaStatus> {
        self.row.as_ref().map(|row| row.status)
    }

    fn state_text(&self) -> &str {
        self.row.as_ref().map_or("it has heard nothing", |row| &row.state)
    }
}

/// An answer, to be compared with the expected answer.
#[must_use = "nothing is compared until `then`"]
pub struct Said<P: Process> {
    hearing: Hearing<P>,
    turn: Turn<P>,
    /// The same answer, with the results that the test has given so far.
    answering: Option<Answering>,
    told: Vec<Told>,
}

impl<P: Process> Said<P> {
    /// Expects these commands, alternatives and timers. From here on, all of them are accepted.
    #[track_caller]
    pub fn then(self, expected: Commands) -> Hearing<P> {
        compare(&expected, &self.rest());
        self.accepted_all()
    }

    /// Expects an empty answer.
    #[track_caller]
    pub fn then_nothing(self) -> Hearing<P> {
        self.then(Commands::none())
    }

    /// Expects the instance to be over afterwards, with any answer.
    #[track_caller]
    pub fn then_over(self) -> Hearing<P> {
        self.accepted_all().then_over()
    }

    /// Refuses the next command to this stream, and accepts those before it: the rest of the answer is then compared.
    #[track_caller]
    pub fn refused(self, stream: impl Into<StreamId>) -> Self {
        self.answered(&stream.into(), || Told::Refused("refused by the test".into()))
    }

    /// Accepts the next command to this stream and those before it: the rest of the answer is then compared.
    #[track_caller]
    pub fn accepted(self, stream: impl Into<StreamId>) -> Self {
        self.answered(&stream.into(), || Told::Recorded)
    }

    #[track_caller]
    fn answered(mut self, stream: &StreamId, told: impl Fn() -> Told) -> Self {
        let mut meant = false;
        while let Some(todo) = self.answering.as_ref().and_then(Answering::todo) {
            let sent = matches!(&todo, Todo::Send(..));
            if meant && sent {
                break;
            }
            let this = matches!(&todo, Todo::Send(sending, _) if sending.stream() == Some(stream));
            meant |= this;
            let told = if this { told() } else { Told::Recorded };
            self.told.push(told.clone());
            if let Some(answering) = &mut self.answering {
                answering.told(told);
            }
        }
        assert!(meant, "nothing more is sent to {stream}");
        self
    }

    #[track_caller]
    fn accepted_all(mut self) -> Hearing<P> {
        let mut told = self.told.into_iter();
        while self.turn.todo().is_some() {
            self.turn.told(told.next().unwrap_or(Told::Recorded));
        }
        sound(&self.turn);
        match self.turn.result().change {
            Change::None => {}
            Change::Put(row) => self.hearing.row = Some(*row),
            Change::Delete => self.hearing.row = None,
        }
        self.hearing
    }

    /// Returns the rest of the answer.
    fn rest(&self) -> Commands {
        self.answering.as_ref().map_or_else(Commands::none, Answering::rest)
    }
}

#[track_caller]
fn sound<P: Process>(turn: &Turn<P>) {
    if let Some(reason) = turn.trouble() {
        panic!("it cannot be answered: {reason}");
    }
}

impl<P: Process> Debug for Said<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rest().fmt(f)
    }
}
