//! The processor of a cron schedule. It follows no events. Its one row, `cron:interest`, has the next tick.
//!
//! That a tick is run is stored before anything is sent, in a transaction that has locked the shard. The ids of the
//! commands are made of the name and the instant of the tick: a crash sends the same commands again, and each is
//! recorded once.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use async_trait::async_trait;
use eventstore_core::{
    EventStore, Invalid, Metadata, NewEvent, Position, Query, Raw, Recorded, Store, StoreError, Timestamp, Transaction,
    Version, derived_id,
    engine::interned,
    process::{Answering, Failure as SendFailure, Script, Trigger, panicked, stream_of},
};
use eventstore_engine::{
    DecodedPage, Failure, Halt, InstanceStorage, Parked, Part, Processor, Queue, Reads, Remembered,
};
use uuid::{Builder, Uuid};

use super::{
    plan::Plan,
    schedule::{Schedule, Tick},
    step::{Step, answered, planned, step},
};
use crate::{
    due::{LOOK, until},
    scheduled::{
        change::{prepare, read, wanted, written},
        names::CRON,
        table::{Answer, Row, TABLE},
    },
};

/// Runs a schedule.
pub struct CronProcessor<S> {
    schedule: S,
    store: Store,
    plan: Result<Plan, Invalid>,
    key: String,
    /// The expression and the time zone.
    cron: String,
}

impl<S: Schedule> CronProcessor<S> {
    pub fn new(schedule: S, store: Store) -> Self {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
        let plan = match S::NAME.is_empty() || S::NAME.len() > 200 || !S::NAME.bytes().all(plain) {
            true => {
                let reason = "may only be called with 1 to 200 of a-z, 0-9, `_` and `.`".into();
                Err(Invalid::Schedule { name: S::NAME.into(), reason })
            }
            false => Plan::new(S::NAME, S::CRON, S::ZONE),
        };
        let (key, cron) = (format!("{CRON}{}", S::NAME), format!("{} {}", S::CRON, S::ZONE));
        Self { schedule, store, plan, key, cron }
    }

    /// Stores another row in the place of the one that was seen, unless it was changed meanwhile. Returns whether it
    /// was stored.
    async fn put(&self, tick: &eventstore_engine::Tick<'_>, seen: Option<&Row>, row: Row) -> Result<bool, Halt> {
        let (mut transaction, _) = tick.fence.open().await?;
        // An operator changes the row under this lock alone.
        transaction.hold(vec![], None).await?;
        let there = read(transaction.rows(wanted(&self.key)).await?)?;
        if there.as_ref() != seen {
            transaction.rollback().await?;
            return Ok(false);
        }
        transaction.write(written(vec![(self.key.clone(), row)])?).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Sends the commands of a tick.
    async fn run(&self, at: Timestamp, now: Timestamp) -> Answer {
        let tick = Tick { at, late: now - at };
        let commands = catch_unwind(AssertUnwindSafe(|| self.schedule.tick(&tick)));
        let commands = match commands {
            Ok(commands) if commands.has_timers() => {
                return Answer::Failed("a tick has no timers: have it send a command that schedules another".into());
            }
            Ok(commands) => commands,
            Err(panic) => return Answer::Failed(panicked(&*panic)),
        };
        let (process, key) = (process(S::NAME), at.to_string());
        let trigger = Trigger { event: event(process, &key, at), part: 0, due: None };
        let mut answering = match Answering::new(process, key.into(), trigger, Script::commands(commands)) {
            Ok(answering) => answering,
            Err(invalid) => return Answer::Failed(invalid.to_string()),
        };
        while let Some(todo) = answering.todo() {
            match todo.perform(&self.store).await {
                Ok(told) => answering.told(told),
                Err(SendFailure::Parked(parked)) => return Answer::Failed(parked.reason),
                Err(SendFailure::Store(error)) => return Answer::Outage(error.to_string()),
            }
        }
        match answering.outcome().and_then(|outcome| outcome.refused) {
            Some(words) => Answer::Refused(words),
            None => Answer::Done(None),
        }
    }
}

/// Returns the name of the process that sends the commands of a schedule: a part of their ids and of their actor.
fn process(name: &'static str) -> &'static str {
    interned(format!("cron.{name}"))
}

/// Returns what the commands of a tick answer. It is no event of the log: its id is the tick's, and begins the
/// conversation.
fn event(process: &str, key: &str, at: Timestamp) -> Recorded<()> {
    let id = tick_id(process, at);
    let mut metadata = Metadata::default();
    (metadata.command_id, metadata.correlation_id) = (id, id);
    let data = Raw { name: "".into(), tags: vec![], body: vec![] };
    let new = NewEvent { id, schema: 1, occurred_at: None, metadata, data };
    new.recorded(stream_of(process, key), Version(0), Position(0), at).with(())
}

/// Returns the id of a tick, the same on every node. It sorts by the instant.
fn tick_id(process: &str, at: Timestamp) -> Uuid {
    let millis = u64::try_from(at.as_micros().div_euclid(1_000)).unwrap_or(0);
    let from = Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid();
    derived_id(from, [process, &at.as_micros().to_string()])
}

#[async_trait]
impl<S: Schedule> Processor for CronProcessor<S> {
    fn name(&self) -> String {
        self.key.clone()
    }

    fn query(&self) -> Query {
        Query::default()
    }

    fn reads(&self) -> Reads {
        Reads::default()
    }

    fn instances(&self) -> Option<InstanceStorage> {
        Some(InstanceStorage::Row(TABLE, self.key.clone()))
    }

    async fn prepare(&self, store: &dyn EventStore) -> Result<(), Failure> {
        if let Err(invalid) = &self.plan {
            return Err(Failure::program(StoreError::from(invalid.clone())));
        }
        Ok(prepare(store).await?)
    }

    fn decode(&self, _: &DecodedPage, _: Range<usize>) {}

    async fn process(
        &self,
        _: &mut dyn Transaction,
        _: &Part<'_>,
        _: Option<&mut Remembered>,
    ) -> Result<Vec<(Queue, usize)>, Failure> {
        Ok(vec![])
    }

    fn ticks(&self) -> bool {
        true
    }

    async fn is_due(&self, _: &Parked) -> Result<bool, StoreError> {
        let Ok(plan) = &self.plan else { return Ok(false) };
        let store = self.store.as_ref();
        let now = store.time().await?;
        let there = match store.rows(wanted(&self.key)).await {
            Err(StoreError::NotBuilt { .. }) => return Ok(true),
            there => read(there?)?,
        };
        Ok(!matches!(step(there.as_ref(), plan, &self.cron, S::MISSED, now), Step::Wait(_)))
    }

    async fn tick(&self, tick: &eventstore_engine::Tick<'_>) -> Result<Duration, Halt> {
        let Ok(plan) = &self.plan else { return Ok(LOOK) };
        if !tick.shard.has(&self.key) {
            return Ok(LOOK);
        }
        let now = self.store.as_ref().time().await?;
        let there = match read(self.store.as_ref().rows(wanted(&self.key)).await?) {
            Ok(there) => there,
            Err(error) => {
                tracing::debug!(schedule = S::NAME, %error, "a later release has its tick");
                return Ok(LOOK);
            }
        };
        match (step(there.as_ref(), plan, &self.cron, S::MISSED, now), there) {
            (Step::Wait(due), _) => {
                return Ok(due.map_or(LOOK, |due| until(now, due)).clamp(Duration::from_millis(1), LOOK));
            }
            (Step::Plan(at), there) => {
                let row = planned(&self.key, S::NAME, &self.cron, at, now);
                self.put(tick, there.as_ref(), row).await?;
            }
            (Step::Run(at), there) => {
                let Some(seen) = there else { return Ok(LOOK) };
                let mut claimed = seen.clone();
                claimed.at = at.as_micros();
                claimed.claim(now);
                if !self.put(tick, Some(&seen), claimed.clone()).await? {
                    return Ok(LOOK);
                }
                let answer = self.run(at, now).await;
                if let Answer::Failed(reason) = &answer {
                    tracing::debug!(schedule = S::NAME, reason, "a tick has failed");
                }
                let mut row = claimed.clone();
                answered(&mut row, answer, plan, &self.cron, self.store.as_ref().time().await?);
                self.put(tick, Some(&claimed), row).await?;
            }
        }
        Ok(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected ids come from another implementation (SHA-1 of Python's hashlib).
    #[test]
    fn m4_the_id_of_a_tick_is_the_same_in_every_release() {
        let at = Timestamp::from_micros(1_700_000_000_123_999);
        assert_eq!(tick_id("cron.interest", at).to_string(), "018bcfe5-687b-7000-befc-1f8a061eabe7");
    }
}
