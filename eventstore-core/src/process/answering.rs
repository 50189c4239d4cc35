//! One event being answered: what is to be asked of the store next, and what its answer means. No input, no output.

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

/// What is answered: an event, or a timer that an event has armed.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// The event, without what is in it.
    pub event: Recorded<()>,
    /// Which of the events it is that its upcast made of one stored event, from 0.
    pub part: u32,
    /// When the timer is due.
    pub due: Option<Timestamp>,
}

impl Trigger {
    /// The instant that times are counted from.
    pub fn since(&self) -> Timestamp {
        self.due.unwrap_or(self.event.recorded_at)
    }

    /// What the ids of the commands are derived from.
    fn id(&self) -> Uuid {
        self.due.map_or(self.event.id, |due| at(self.event.id, due))
    }
}

/// What is to be asked of the store next.
#[derive(Clone, Debug)]
pub enum Todo {
    /// Send a command; tell [`Told::Recorded`], [`Nothing`](Told::Nothing), [`Refused`](Told::Refused) or
    /// [`Marked`](Told::Marked).
    Send(Sending, Delivery),
    /// Append a mark to the stream of the instance, under the command's id; tell [`Told::Recorded`] or
    /// [`Taken`](Told::Taken).
    Mark(Mark, Delivery),
    /// Look whether the instance was over before its row was forgotten; tell [`Told::Over`].
    LookUp(Delivery),
}

/// One event being answered by one instance of a process.
///
/// All it keeps is how the commands were answered; made again with the same [`known`](Self::known), it says the same.
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
    /// Begins to answer. An answer that is over a limit is refused before anything is sent.
    pub fn new(process: &'static str, key: Arc<str>, trigger: Trigger, script: Script) -> Result<Self, Invalid> {
        script.check()?;
        Ok(Self { process, key, trigger, script, known: Known::new(), marking: None })
    }

    /// Begins where others have stopped.
    pub fn with(mut self, known: Known) -> Self {
        self.known = known;
        self
    }

    /// How the commands were answered so far.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// What is answered.
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }

    /// The mark that is to be recorded next, if one is.
    pub fn marking(&self) -> Option<&Mark> {
        self.marking.as_ref()
    }

    /// The id of the command at a place.
    pub fn command_id(&self, place: &str) -> Uuid {
        let (from, part) = self.script.ids().unwrap_or_else(|| (self.trigger.id(), self.trigger.part));
        derived_id(from, ["saga", self.process, &self.key, &part.to_string(), place])
    }

    /// What of an answer without steps is still to be sent: for tests.
    pub(crate) fn rest(&self) -> Commands {
        self.script.rest(&self.known)
    }

    /// What is to be asked of the store next. None: all is answered, and [`outcome`](Self::outcome) says what follows.
    pub fn todo(&self) -> Option<Todo> {
        let Next::Send(next) = self.script.next(&self.known) else { return None };
        if let Some(mark) = &self.marking {
            return Some(Todo::Mark(mark.clone(), self.delivery(&mark.place)));
        }
        let mut delivery = self.delivery(&next.place);
        delivery.expires = next.within.map(|within| self.trigger.since() + within);
        Some(Todo::Send(next.sending, delivery))
    }

    /// Takes in what came of [`todo`](Self::todo).
    pub fn told(&mut self, told: Told) {
        let Next::Send(next) = self.script.next(&self.known) else { return };
        let refused = match (self.marking.take(), told) {
            (Some(mark), Told::Recorded) => mark.refused,
            // The command is sent again; its answer says which of the two is recorded.
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

    /// What follows, once all is answered.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.script.next(&self.known) {
            Next::Send(_) => None,
            Next::Done(outcome) => Some(*outcome),
        }
    }

    /// Look whether the instance was over before its row was forgotten.
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
