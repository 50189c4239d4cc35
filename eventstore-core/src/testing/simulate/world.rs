//! The world of a simulation: a log, the rows of a process, the owner of its shard, and a clock.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    fmt::Debug,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use uuid::Uuid;

use crate::{
    aggregate::Decider,
    clock::Clock,
    event::{Event, Raw, Recorded},
    memory::MemoryStore,
    process::{Change, Parked, Process, SagaStatus, StoredInstance, TimerId, TurnResult},
    store::Store,
    stream::{Position, StreamId},
    target::Target,
    timestamp::Timestamp,
};

/// The subject of a check: the log, and the instances of the process so far.
pub struct World<P: Process> {
    memory: MemoryStore,
    pub(super) store: Store,
    pub(super) process: Arc<P>,
    clock: Clock,
    pub(super) rows: BTreeMap<String, StoredInstance>,
    /// The events that wait as dead letters, by instance.
    pub(super) letters: BTreeMap<String, Letters<P::Event>>,
    pub(super) checkpoint: Position,
    pub(super) epoch: u64,
    /// A hash of the log.
    hash: DefaultHasher,
    hashed: usize,
    /// Messages to services that were recorded since the list was last taken.
    pub(super) messages: Vec<Recorded<Raw>>,
    #[cfg(test)]
    pub(super) plant: Option<super::plants::Plant>,
}

/// The dead letters of an instance.
#[derive(Clone)]
pub(super) struct Letters<E> {
    pub(super) events: Vec<(Recorded<E>, u32)>,
    pub(super) retry_at: Option<Timestamp>,
    pub(super) attempts: u32,
    pub(super) reason: String,
}

/// The instant at which every run begins: 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000_000;

#[track_caller]
fn decode<E: Event>(event: &Recorded<Raw>) -> Vec<Recorded<E>> {
    event.decode().unwrap_or_else(|error| panic!("{} cannot be read: {error}", event.data.name))
}

/// Returns the output of a future of the store in memory, which never waits.
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::task::unconstrained(future).now_or_never().expect("a store in memory answers at once")
}

impl<P: Process> World<P> {
    pub(super) fn new(process: &Arc<P>) -> Self {
        let clock = Clock::stopped_at(Timestamp::from_micros(START));
        let memory = MemoryStore::with_clock(&clock);
        Self {
            store: memory.clone().into(),
            memory,
            process: process.clone(),
            clock,
            rows: BTreeMap::new(),
            letters: BTreeMap::new(),
            checkpoint: Position(0),
            epoch: 1,
            hash: DefaultHasher::new(),
            hashed: 0,
            messages: vec![],
            #[cfg(test)]
            plant: None,
        }
    }

    /// Returns a copy of the world, which goes on by itself.
    pub(super) fn fork(&self) -> Self {
        let clock = Clock::stopped_at(self.clock.now());
        let memory = self.memory.fork(&clock);
        Self {
            store: memory.clone().into(),
            memory,
            process: self.process.clone(),
            clock,
            rows: self.rows.clone(),
            letters: self.letters.clone(),
            checkpoint: self.checkpoint,
            epoch: self.epoch,
            hash: self.hash.clone(),
            hashed: self.hashed,
            messages: self.messages.clone(),
            #[cfg(test)]
            plant: self.plant,
        }
    }

    /// Returns the state of an aggregate. Panics if it cannot be loaded.
    #[track_caller]
    pub fn load<T: Target>(&self, target: T) -> T::State
    where
        T::State: Decider,
    {
        now(self.store.load(target).into_future()).unwrap_or_else(|error| panic!("cannot be loaded: {error}")).state
    }

    /// Returns the events of a stream, oldest first. Panics if one cannot be decoded.
    #[track_caller]
    pub fn events<E: Event>(&self, stream: impl Into<StreamId>) -> Vec<E> {
        let stream = stream.into();
        let events = |log: &[Recorded<Raw>]| {
            let events = log.iter().filter(|event| event.stream == stream);
            events.flat_map(decode::<E>).map(|event| event.data).collect()
        };
        self.memory.with_log(events)
    }

    /// Returns all events of a type with their places, oldest first. Panics if one cannot be decoded.
    #[track_caller]
    pub fn log<E: Event>(&self) -> Vec<Recorded<E>> {
        let this = |event: &&Recorded<Raw>| E::NAMES.contains(&&*event.data.name);
        self.memory.with_log(|log| log.iter().filter(this).flat_map(decode::<E>).collect())
    }

    /// Returns how often a service was asked a command, given by its stored name.
    pub fn asked(&self, service: &str, command: &str) -> usize {
        let this = |event: &&Recorded<Raw>| {
            event.stream.category().strip_prefix("service.") == Some(service)
                && event.data.name.strip_prefix("command.") == Some(command)
        };
        self.memory.with_log(|log| log.iter().filter(this).count())
    }

    /// Returns the state of an instance of the process; `None` if it has no row. Panics if the state cannot be read.
    #[track_caller]
    pub fn instance(&self, key: impl AsRef<str>) -> Option<P::State> {
        let row = self.rows.get(key.as_ref())?;
        Some(self.process.open(row).unwrap_or_else(|error| panic!("its state cannot be read: {error}")))
    }

    /// Returns the status of an instance of the process; `None` if it has no row.
    pub fn status(&self, key: impl AsRef<str>) -> Option<SagaStatus> {
        self.rows.get(key.as_ref()).map(|row| row.status)
    }

    /// Returns the keys of all instances.
    pub fn instances(&self) -> Vec<&str> {
        self.rows.keys().map(|key| &**key).collect()
    }

    /// Returns the instant at which the run began.
    pub(super) fn start(&self) -> Timestamp {
        Timestamp::from_micros(START)
    }

    /// Returns the current instant of the run.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the end of the log.
    pub(super) fn head(&self) -> Position {
        Position(self.memory.with_log(<[_]>::len) as u64)
    }

    /// Returns the events after the checkpoint that the process reads, at most `most`.
    pub(super) fn pending(&self, most: usize) -> Vec<Recorded<Raw>> {
        let heard = |event: &&Recorded<Raw>| P::Event::NAMES.contains(&&*event.data.name);
        let newer = |log: &[Recorded<Raw>]| {
            log[self.checkpoint.0 as usize..].iter().filter(heard).take(most).cloned().collect()
        };
        self.memory.with_log(newer)
    }

    /// Hashes the events recorded since the last call, and notes the messages among them.
    pub(super) fn note(&mut self) {
        let Self { memory, hash, hashed, messages, .. } = self;
        memory.with_log(|log| {
            for event in &log[*hashed..] {
                (event.id, event.stream.as_str(), &*event.data.name, &event.data.body).hash(hash);
                if event.stream.category().starts_with("service.") {
                    messages.push(event.clone());
                }
            }
            *hashed = log.len();
        });
    }

    /// Returns the rows of some instances, if the shard is at this epoch and position.
    pub(super) fn rows_of(
        &self,
        epoch: u64,
        from: Position,
        keys: &[String],
    ) -> Option<HashMap<String, StoredInstance>> {
        #[cfg(test)]
        let fenced = self.plant != Some(super::plants::Plant::UnfencedRead);
        #[cfg(not(test))]
        let fenced = true;
        if fenced && (epoch, from) != (self.epoch, self.checkpoint) {
            return None;
        }
        let row = |key: &String| Some((key.clone(), self.rows.get(key)?.clone()));
        Some(keys.iter().filter_map(row).collect())
    }

    /// Writes the results of turns. Returns `false`, having changed nothing, if the shard is not at this epoch.
    /// `retried`: the instance whose dead letters were answered.
    pub(super) fn write(&mut self, epoch: u64, results: Vec<TurnResult<P::Event>>, retried: Option<&str>) -> bool {
        if epoch != self.epoch {
            return false;
        }
        for TurnResult { key, change, waiting, parked } in results {
            match change {
                Change::None => {}
                Change::Put(row) => {
                    #[cfg(test)]
                    let row = super::plants::with_timers(self, row);
                    self.rows.insert(key.clone(), *row);
                }
                Change::Delete => _ = self.rows.remove(&key),
            }
            let before = if retried == Some(&key) { self.letters.remove(&key) } else { None };
            if let Some(Parked { reason, later }) = parked {
                let attempts = before.map_or(0, |letters| letters.attempts) + 1;
                let pause = Duration::from_secs((1 << (attempts - 1).min(9)).min(300));
                let retry_at = later.then(|| self.clock.now() + pause);
                self.letters.insert(key, Letters { events: waiting, retry_at, attempts, reason });
            } else if let Some(letters) = self.letters.get_mut(&key) {
                letters.events.extend(waiting);
            }
        }
        true
    }

    /// Claims the timers that are due, stores that, and returns them.
    pub(super) fn claim(&mut self) -> Vec<(String, Vec<(TimerId, Uuid)>)> {
        let now = self.clock.now();
        let mut due: Vec<_> = self.rows.iter_mut().filter(|(_, row)| row.due.is_some_and(|due| due <= now)).collect();
        due.sort_by_key(|(_, row)| row.due);
        let claimed = due.into_iter().map(|(key, row)| {
            let ids = row.claim(now).into_iter();
            (key.clone(), ids.filter_map(|id| row.timer(&id).map(|timer| (id.clone(), timer.event))).collect())
        });
        claimed.collect()
    }

    /// Whether a timer is due.
    pub(super) fn is_due(&self) -> bool {
        let now = self.clock.now();
        self.rows.values().any(|row| row.due.is_some_and(|due| due <= now))
    }

    /// Returns the next instant after now at which a timer or a dead letter is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let timers = self.rows.values().filter_map(|row| row.due);
        let letters = self.letters.values().filter_map(|letters| letters.retry_at);
        let now = self.clock.now();
        timers.chain(letters).filter(|due| *due > now).min()
    }

    pub(super) fn advance_to(&self, instant: Timestamp) {
        let micros = instant.as_micros().saturating_sub(self.clock.now().as_micros());
        self.clock.advance(Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
    }

    /// Returns the event that armed a timer.
    pub(super) fn armed(&self, event: Uuid, part: u32) -> Option<Recorded<P::Event>> {
        let found = now(self.store.inner().recorded(vec![event])).unwrap_or_default();
        let parts = found.first()?.decode::<P::Event>().ok()?;
        parts.into_iter().nth(part as usize)
    }

    /// Hashes all that decides what can happen next.
    pub(super) fn digest(&self, hasher: &mut impl Hasher) {
        hasher.write_u64(self.hash.finish());
        (&self.rows, self.checkpoint, self.clock.now()).hash(hasher);
        for (key, letters) in &self.letters {
            (key, letters.retry_at, letters.attempts).hash(hasher);
            letters.events.iter().for_each(|(event, part)| (event.position, part).hash(hasher));
        }
    }
}

impl<P: Process> Debug for World<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("rows", &self.rows).field("checkpoint", &self.checkpoint).finish_non_exhaustive()
    }
}
