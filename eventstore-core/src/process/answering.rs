//! The answer to one event as it is given: the next operation on the store, and the meaning of its result. No input, no
//! output.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    event::Recorded,
    invalid::Invalid,
    process::{
        commands::Commands,
        derived_id::{at, derived_id},
        mark::Mark,
        outcome::{Next, Outcome},
        script::Script,
        sending::{Delivery, Sending, Told},
        walk::{Answer, Known},
    },
    timestamp::Timestamp,
};

/// The event that is answered, or the timer that an event has armed.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// The event, without its data.
    pub event: Recorded<()>,
    /// The index of the event among those that an upcast made of one stored event, from 0.
    pub part: u32,
    /// When the timer is due; `None` for an event.
    pub due: Option<Timestamp>,
}

impl Trigger {
    /// Returns the trigger of an event.
    pub fn of<E>(event: &Recorded<E>, part: u32) -> Self {
        Self { event: event.with(()), part, due: None }
    }

    /// Returns the instant that times are counted from.
    pub fn since(&self) -> Timestamp {
        self.due.unwrap_or(self.event.recorded_at)
    }

    /// Returns the id that the ids of the commands are derived from.
    fn id(&self) -> Uuid {
        self.due.map_or(self.event.id, |due| at(self.event.id, due))
    }
}

/// The next operation on the store.
#[derive(Clone, Debug)]
pub enum Todo {
    /// Send a command; tell [`Told::Recorded`], [`Nothing`](Told::Nothing), [`Refused`](Told::Refused) or
    /// [`Marked`](Told::Marked).
    Send(Sending, Delivery),
    /// Append a mark to the stream of the instance, under the command's id; tell [`Told::Recorded`] or
    /// [`Taken`](Told::Taken).
    Mark(Mark, Delivery),
    /// Look up whether the instance was over before its row was deleted; tell [`Told::Over`].
    LookUp(Delivery),
}

/// The answer of one instance of a process to one event or timer, as it is given.
///
/// It keeps only the results of the commands; made again with the same [`known`](Self::known), it goes on the same way.
#[derive(Clone)]
pub struct Answering {
    process: &'static str,
    key: Arc<str>,
    trigger: Trigger,
    script: Script,
    known: Known,
    marking: Option<Mark>,
}

impl Answering {
    /// Begins an answer. Fails with [`Invalid`] if the answer is over a limit, before anything is sent.
    pub fn new(process: &'static str, key: Arc<str>, trigger: Trigger, script: Script) -> Result<Self, Invalid> {
        script.check()?;
        Ok(Self { process, key, trigger, script, known: Known::new(), marking: None })
    }

    /// Begins with results that are known already.
    pub fn with(mut self, known: Known) -> Self {
        self.known = known;
        self
    }

    /// Returns the results of the commands so far.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Returns the event or timer that is answered.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// Returns the mark to be recorded next, if there is one.
    pub fn marking(&self) -> Option<&Mark> {
        self.marking.as_ref()
    }

    /// Returns the id of the command at a place.
    pub fn command_id(&self, place: &str) -> Uuid {
        let (from, part) = self.script.ids().unwrap_or_else(|| (self.trigger.id(), self.trigger.part));
        derived_id(from, ["saga", self.process, &self.key, &part.to_string(), place])
    }

    /// Returns the commands still to be sent of an answer without steps; for tests.
    pub(crate) fn rest(&self) -> Commands {
        self.script.rest(&self.known)
    }

    /// Returns the next operation on the store; `None` if the answer is complete, and [`outcome`](Self::outcome)
    /// returns its outcome.
    pub fn todo(&self) -> Option<Todo> {
        let Next::Send(next) = self.script.next(&self.known) else { return None };
        if let Some(mark) = &self.marking {
            return Some(Todo::Mark(mark.clone(), self.delivery(&mark.place)));
        }
        let mut delivery = self.delivery(&next.place);
        delivery.expires = next.within.map(|within| self.trigger.since() + within);
        Some(Todo::Send(next.sending, delivery))
    }

    /// Takes the result of the operation that [`todo`](Self::todo) returned.
    pub fn told(&mut self, told: Told) {
        let Next::Send(next) = self.script.next(&self.known) else { return };
        let refused = match (self.marking.take(), told) {
            (Some(mark), Told::Recorded) => mark.refused,
            // The command is sent again; its result shows whether the command or the mark is recorded.
            (Some(_), _) | (None, Told::Taken | Told::Over(_)) => return,
            (None, Told::Recorded) => None,
            (None, Told::Marked(refused)) => refused,
            (None, Told::Nothing) if !next.guarded => None,
            (None, Told::Refused(words)) if !next.guarded => Some(words),
            (None, Told::Nothing) => return self.marking = Some(Mark { place: next.place, refused: None }),
            (None, Told::Refused(words)) => {
                return self.marking = Some(Mark { place: next.place, refused: Some(words) });
            }
        };
        self.known.insert(next.place, refused.map_or(Answer::Accepted, Answer::Refused));
    }

    /// Returns the outcome, once the answer is complete.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.script.next(&self.known) {
            Next::Send(_) => None,
            Next::Done(outcome) => Some(*outcome),
        }
    }

    /// Returns the operation that looks up whether the instance was over before its row was deleted.
    pub(super) fn look_up(&self) -> Todo {
        Todo::LookUp(self.delivery(""))
    }

    fn delivery(&self, place: &str) -> Delivery {
        Delivery {
            id: self.command_id(place),
            process: self.process,
            key: self.key.clone(),
            place: place.to_owned(),
            event: self.trigger.event.clone(),
            expires: None,
            step: self.script.step(place),
        }
    }
}
