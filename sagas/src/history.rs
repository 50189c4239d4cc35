//! The past of an instance: the events it has answered, its state after each, and what became of each command.

use std::{fmt, time::SystemTime};

use eventstore_core::{
    EventOf, Invalid, Position, Raw, Read, Recorded, Saga, StoreError, Timestamp,
    process::{Answering, HEARD, Mark, Outcome, Process, StoredInstance, Todo, Told, Trigger},
};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use crate::instances::{Sagas, state_of};

/// How many events are read at once.
const AT_ONCE: usize = 16;

/// An event that an instance has answered.
#[derive(Clone)]
#[non_exhaustive]
pub struct AnsweredEvent<S: Saga> {
    /// The event.
    pub event: Recorded<EventOf<S>>,
    /// The state after the event.
    pub state: Option<S>,
    /// The commands of the answer, in the order in which they are sent. Commands of timers are not among them.
    pub commands: Vec<AnsweredCommand>,
}

impl<S: Saga + fmt::Debug> fmt::Debug for AnsweredEvent<S>
where
    EventOf<S>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, state, commands } = self;
        let mut debug = f.debug_struct("AnsweredEvent");
        debug.field("event", event).field("state", state).field("commands", commands).finish()
    }
}

/// A command of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnsweredCommand {
    /// Its place in the answer.
    pub place: String,
    /// The command, as its `Debug` shows it.
    pub command: String,
    /// Its id.
    pub id: Uuid,
    /// What became of it.
    pub status: CommandStatus,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandStatus {
    /// It is recorded; the position of its first event.
    Recorded(Position),
    /// A rule has refused it, in these words, and other commands depend on that.
    Refused(String),
    /// Nothing is recorded for it: a rule has refused it, or it had nothing to do.
    NotRecorded,
}

impl fmt::Display for CommandStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded(position) => write!(f, "recorded at position {position}"),
            Self::Refused(words) => write!(f, "refused: {words}"),
            Self::NotRecorded => f.write_str("nothing recorded"),
        }
    }
}

impl<S: Saga> Sagas<S> {
    /// Returns the events that an instance has answered, in the order of the log, with what the code of this program
    /// answers them with. Nothing is stored for that but the positions of the events: what became of each command is
    /// found in the log, by its id. Empty if there is no such instance, if it was deleted after its end, or if its state is
    /// that of a new instance again and it has no timer: such an instance has no row.
    ///
    /// Costs a read for each event and one for each command. What time-outs of steps did is not shown; see
    /// [`Instance::plan`](crate::Instance::plan). [`Invalid::Request`] if the instance has answered 1,000 events or more:
    /// the first ones are not known any more. [`StoreError::Unreadable`] if this program cannot read an event.
    pub async fn history(&self, key: &str) -> Result<Vec<AnsweredEvent<S>>, StoreError> {
        self.past(key, None).await
    }

    /// Returns the state of an instance as of an instant; `None` if no event had changed it by then. Fails as
    /// [`history`](Self::history) does.
    pub async fn as_of(&self, key: &str, time: impl Into<SystemTime>) -> Result<Option<S>, StoreError> {
        let time = Timestamp::from(time.into());
        let position = self.store.as_ref().position_at(time).await?;
        self.at_position(key, position).await
    }

    /// Returns the state of an instance as of a position; as [`as_of`](Self::as_of).
    pub async fn at_position(&self, key: &str, position: Position) -> Result<Option<S>, StoreError> {
        Ok(self.past(key, Some(position)).await?.pop().and_then(|last| last.state))
    }

    async fn past(&self, key: &str, until: Option<Position>) -> Result<Vec<AnsweredEvent<S>>, StoreError> {
        let Some(row) = self.rows(vec![key.into()]).await?.pop() else { return Ok(vec![]) };
        if row.heard.len() >= HEARD {
            let why = format!("the instance `{key}` of `{}` has answered {HEARD} events or more", S::NAME);
            return Err(Invalid::Request(why).into());
        }
        let heard = row.heard.into_iter().filter(|position| until.is_none_or(|until| *position <= until));
        let read = |position| async move {
            let page = self.store.as_ref().read(Read::at(position)).await?;
            page.events.try_collect::<Vec<_>>().await
        };
        let events: Vec<Vec<Recorded<Raw>>> = stream::iter(heard).map(read).buffered(AT_ONCE).try_collect().await?;
        let process = S::Process::default();
        let (mut state, mut past) = (process.blank(), vec![]);
        for raw in events.iter().flatten() {
            let parts = raw.decode::<EventOf<S>>().map_err(|source| StoreError::unreadable(raw, source))?;
            for (event, part) in parts.into_iter().zip(0..) {
                if !process.keys(&event).iter().any(|one| one == key) {
                    continue;
                }
                let (commands, outcome) = self.answer(&process, &state, key, &event, part).await?;
                state = process.evolve(state, &event, &outcome);
                let mut row = StoredInstance::new(key);
                let unwritable = |reason| StoreError::Unwritable { name: S::NAME.into(), reason };
                process.save(&state, &mut row).map_err(unwritable)?;
                past.push(AnsweredEvent { event, state: state_of(&row)?, commands });
            }
        }
        Ok(past)
    }

    /// Answers an event again, with what the log says of each command. Nothing is sent.
    async fn answer(
        &self,
        process: &S::Process,
        state: &<S::Process as Process>::State,
        key: &str,
        event: &Recorded<EventOf<S>>,
        part: u32,
    ) -> Result<(Vec<AnsweredCommand>, Outcome), StoreError> {
        let script = process.answer(state, event, part, event.recorded_at)?;
        let trigger = Trigger::of(event, part);
        let mut answering = Answering::new(process.name(), key.into(), trigger, script)?;
        let mut commands = vec![];
        while let Some(Todo::Send(sending, delivery)) = answering.todo() {
            let found = self.store.as_ref().find(delivery.id).await?;
            let (status, told) = match found.first() {
                Some(first) if first.stream == delivery.marks() => {
                    let marks = first.decode::<Mark>().map_err(|source| StoreError::unreadable(first, source))?;
                    let refused = marks.into_iter().next().and_then(|mark| mark.data.refused);
                    let status = refused.clone().map_or(CommandStatus::NotRecorded, CommandStatus::Refused);
                    (status, Told::Marked(refused))
                }
                Some(first) => (CommandStatus::Recorded(first.position), Told::Recorded),
                None => (CommandStatus::NotRecorded, Told::Nothing),
            };
            let (place, command) = (delivery.place.clone(), format!("{sending:?}"));
            commands.push(AnsweredCommand { place, command, id: delivery.id, status });
            answering.told(told);
            if answering.marking().is_some() {
                // Other commands depend on this one, and it is not answered yet.
                break;
            }
        }
        Ok((commands, answering.outcome().unwrap_or_default()))
    }
}
