//! Stores a command that is executed at an instant.

use std::time::{Duration, SystemTime};

use eventstore_core::{
    Aggregate, Command, Decide, EventError, Id, Invalid, Metadata, Recorded, Store, StoreError, StreamId, Timestamp,
    Tx, limits, slot,
};
use futures::future::BoxFuture;
use uuid::Uuid;

use super::{
    change::{Place, prepare},
    list::ScheduledCommands,
    names::{SCHEDULED_FOR, check_id, check_not_cron},
    table::{Row, ScheduledStatus, command_id},
    unschedule::Unscheduling,
};

/// Scheduled commands, as methods of [`Store`] and of [`Tx`].
pub trait ScheduleCommands {
    /// Schedules a command to an aggregate: `.await` what it returns, after `.at(instant)` or `.after(time)`. A
    /// program whose runner [executes](crate::RunScheduled::executes) such commands then executes it once, and not
    /// before its instant. In a [`Tx`], it is scheduled when the transaction is committed, or not at all.
    ///
    /// ```
    /// use std::time::Duration;
    /// use eventstore::prelude::*;
    /// use serde::{Deserialize, Serialize};
    ///
    /// # #[derive(Event, Clone)]
    /// # enum AccountEvent { Closed }
    /// # #[derive(Aggregate)]
    /// # struct Account;
    /// # impl Evolve for Account { type Event = AccountEvent; fn evolve(&mut self, _: AccountEvent) {} }
    /// #[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
    /// #[command(name = "account.close")]
    /// struct Close {}
    /// # impl Decide<Close> for Account {
    /// #     fn decide(&self, _: Close) -> Decision<Self> { Ok(vec![AccountEvent::Closed]) }
    /// # }
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let ann = Id::<Account>::from("ann");
    /// let scheduled = store.schedule(&ann, Close {}).after(Duration::from_secs(86_400)).id("close-ann").await?;
    /// assert_eq!(scheduled.id, "close-ann");
    /// # Ok(())
    /// # }
    /// ```
    fn schedule<A, C>(&self, target: &Id<A>, command: C) -> Scheduling<'_, C>
    where
        A: Aggregate + Decide<C>,
        C: Command;

    /// Cancels a scheduled command: `.await` what it returns. Of cancelling and executing the command exactly one
    /// happens, and the result says which. In a [`Tx`], it is cancelled when the transaction is committed.
    fn unschedule(&self, id: &str) -> Unscheduling<'_>;

    /// Returns the scheduled commands, to look at them; in a [`Tx`], those that are committed.
    fn scheduled(&self) -> ScheduledCommands;
}

impl ScheduleCommands for Store {
    fn schedule<A, C>(&self, target: &Id<A>, command: C) -> Scheduling<'_, C>
    where
        A: Aggregate + Decide<C>,
        C: Command,
    {
        Scheduling::new(Place::Store(self.beneath()), target, command)
    }

    fn unschedule(&self, id: &str) -> Unscheduling<'_> {
        Unscheduling::new(Place::Store(self.beneath()), id)
    }

    fn scheduled(&self) -> ScheduledCommands {
        ScheduledCommands::new(self.beneath())
    }
}

impl ScheduleCommands for Tx {
    fn schedule<A, C>(&self, target: &Id<A>, command: C) -> Scheduling<'_, C>
    where
        A: Aggregate + Decide<C>,
        C: Command,
    {
        Scheduling::new(Place::Tx(self), target, command)
    }

    fn unschedule(&self, id: &str) -> Unscheduling<'_> {
        Unscheduling::new(Place::Tx(self), id)
    }

    fn scheduled(&self) -> ScheduledCommands {
        ScheduledCommands::new(self.outer().beneath())
    }
}

/// A command about to be scheduled: say when, and `.await` it. Without a word on when, it is due at once.
///
/// A schedule is known by its id. The same id for the same target, command and instant (or time, with
/// [`after`](Self::after)) is the same schedule, and nothing is stored again, also after it was executed. For anything
/// else it is [`StoreError::Reused`], unless [`replace`](Self::replace) is said. An id is free again once its schedule
/// was cancelled, and seven days after the command was executed or refused.
///
/// Fails with [`StoreError::Invalid`] if the id or the key of the target breaks the rules for names, or if the command
/// has more than 1 MiB of JSON; with [`StoreError::Unwritable`] if the command cannot be written and read back. After
/// [`StoreError::Unknown`] repeat the call, with the same [`id`](Self::id).
#[must_use = "nothing is scheduled until it is awaited"]
pub struct Scheduling<'a, C> {
    place: Place<'a>,
    stream: StreamId,
    command: C,
    when: When,
    id: Option<String>,
    actor: Option<String>,
    correlation: Option<Uuid>,
    causation: Option<Uuid>,
    replace: bool,
}

#[derive(Clone, Copy)]
enum When {
    At(Timestamp),
    After(Duration),
}

/// The result of [`schedule`](ScheduleCommands::schedule).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scheduled {
    /// The id of the schedule.
    pub id: String,
    /// When the command is due.
    pub due: Timestamp,
}

impl<'a, C: Command> Scheduling<'a, C> {
    fn new<A: Aggregate + Decide<C>>(place: Place<'a>, target: &Id<A>, command: C) -> Self {
        let (when, stream) = (When::After(Duration::ZERO), StreamId::new(A::NAME, target.key()));
        let (id, actor, correlation, causation) = Default::default();
        Self { place, stream, command, when, id, actor, correlation, causation, replace: false }
    }

    /// When the command is due: a `Timestamp`, `SystemTime`, or one of chrono, jiff or time. A past instant is due at
    /// once.
    pub fn at(mut self, instant: impl Into<SystemTime>) -> Self {
        self.when = When::At(instant.into().into());
        self
    }

    /// How long after now, by the clock of the store, the command is due. A call that is repeated with the same id and
    /// the same time is the same schedule, which is due when the first call said.
    pub fn after(mut self, time: Duration) -> Self {
        self.when = When::After(time);
        self
    }

    /// The id of the schedule: 1 to 512 bytes without control characters. By default a UUIDv7.
    pub fn id(mut self, id: impl ToString) -> Self {
        self.id = Some(id.to_string());
        self
    }

    /// Who asks: the actor of the events.
    pub fn by(mut self, actor: impl ToString) -> Self {
        self.actor = Some(actor.to_string());
        self
    }

    /// The conversation the events belong to; by default they start one.
    pub fn correlation(mut self, id: Uuid) -> Self {
        self.correlation = Some(id);
        self
    }

    /// The event that the command answers; the new events continue its conversation.
    pub fn caused_by<T>(mut self, event: &Recorded<T>) -> Self {
        (self.causation, self.correlation) = (Some(event.id), Some(event.metadata.correlation_id));
        self
    }

    /// Replaces another schedule with the same id that has not been executed yet. One that a node has tried to execute
    /// is not replaced, but [`StoreError::Reused`]: [unschedule](ScheduleCommands::unschedule) it first. One that is
    /// over is replaced, unless it is the same.
    pub fn replace(mut self) -> Self {
        self.replace = true;
        self
    }

    async fn run(self) -> Result<Scheduled, StoreError> {
        let id = self.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        check_id(&id)?;
        check_not_cron(&id)?;
        let new = self.row(&id, self.place.store().as_ref().time().await?)?;
        let at = new.at();
        match self.place.change(&id, |there| self.arm(there, new.clone())).await {
            Err(StoreError::NotBuilt { .. }) => {}
            due => return Ok(Scheduled { due: due?.unwrap_or(at), id }),
        }
        match &self.place {
            Place::Store(store) => prepare(store.as_ref()).await?,
            Place::Tx(_) => {
                let why = "there is no table of scheduled commands yet, and none is made in a transaction: call \
                           `store.scheduled().prepare()` before it begins";
                return Err(Invalid::Request(why.into()).into());
            }
        }
        let due = self.place.change(&id, |there| self.arm(there, new)).await?;
        Ok(Scheduled { due: due.unwrap_or(at), id })
    }

    /// Decides what becomes of the row that is there. Returns the row to be written, or when the same schedule is due.
    fn arm(&self, there: Option<Row>, new: Row) -> Result<(Option<Row>, Option<Timestamp>), StoreError> {
        use ScheduledStatus::{Cancelled, Fired, Refused, Waiting};
        let Some(there) = there else { return Ok((Some(new), None)) };
        if there.status != Cancelled && self.is(&there, &new) {
            return Ok((None, Some(there.at())));
        }
        let replaced = match there.status {
            Cancelled => true,
            Waiting => self.replace && !there.claimed,
            Fired | Refused => self.replace,
            _ => false,
        };
        if replaced {
            return Ok((Some(new), None));
        }
        let stream = there.stream().unwrap_or_else(|| self.stream.clone());
        Err(StoreError::Reused { command: there.command_id, stream })
    }

    /// Whether a row is of the same schedule. The command is compared as this program reads it, so that a later release
    /// may ask again for what an earlier one has scheduled.
    fn is(&self, there: &Row, new: &Row) -> bool {
        let when = there.at == new.at || there.delay.is_some() && there.delay == new.delay;
        let target = (&there.target, &there.command) == (&new.target, &new.command);
        let same = || C::decode(there.version, there.body.as_bytes()).is_ok_and(|command| command == self.command);
        when && target && same()
    }

    /// Returns the row of the schedule. Fails if what was said breaks a rule.
    fn row(&self, id: &str, now: Timestamp) -> Result<Row, StoreError> {
        limits::name("key", self.stream.key())?;
        if self.stream.key() == "$every" {
            return Err(Invalid::name("key", "$every", "is reserved for the decisions of `every`").into());
        }
        let (at, delay) = match self.when {
            When::At(at) => (at, None),
            When::After(time) => (now + time, Some(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))),
        };
        let mut metadata = Metadata::default();
        metadata.actor.clone_from(&self.actor);
        metadata.extra.insert(SCHEDULED_FOR.into(), at.to_string().into());
        metadata.to_json()?;
        if self.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
            return Err(Invalid::Metadata("the actor has a character U+0000".into()).into());
        }
        let row = Row {
            slot: slot(id),
            category: self.stream.category().into(),
            target: self.stream.to_string(),
            command: C::NAME.into(),
            version: C::VERSION,
            command_id: command_id(at),
            body: self.body()?,
            at: at.as_micros(),
            delay,
            // A past instant is no earlier than now, so that what was scheduled before it is not kept waiting.
            due: Some(at.max(now).as_micros()),
            status: ScheduledStatus::Waiting,
            claimed: false,
            attempts: 0,
            actor: self.actor.clone(),
            correlation: self.correlation,
            causation: self.causation,
            asked_at: now.as_micros(),
            changed_at: now.as_micros(),
            position: None,
            error: None,
            cron: None,
        };
        Ok(row)
    }

    /// Returns the command as it is stored. Fails if it cannot be written, or not be read back.
    fn body(&self) -> Result<String, StoreError> {
        let unwritable = |reason| StoreError::Unwritable { name: C::NAME.into(), reason };
        let body = self.command.encode().map_err(unwritable)?;
        if body.len() > limits::INSTANCE_BYTES {
            let what = "the body of a scheduled command";
            return Err(Invalid::TooLarge { what, size: body.len(), limit: limits::INSTANCE_BYTES }.into());
        }
        let one_way = |error: &dyn ToString| unwritable(EventError::OneWay(error.to_string()));
        C::decode(C::VERSION, &body).map_err(|error| one_way(&error))?;
        String::from_utf8(body).map_err(|error| one_way(&error))
    }
}

impl<'a, C: Command> IntoFuture for Scheduling<'a, C> {
    type Output = Result<Scheduled, StoreError>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
