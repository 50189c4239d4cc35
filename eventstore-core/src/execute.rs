//! Executes a command: calls the rule and records the events it returns.

use std::{borrow::Cow, hash::BuildHasher, time::Duration};

use futures::{TryStreamExt, future::BoxFuture};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    aggregate::{Decide, Decider, Decision, check_rule},
    boundary::Boundary,
    cause::{self, Cause, cause_methods, event_id},
    contract::{Append, Condition, Item, Query, Read, Write, Written},
    encode,
    error::{CommandError, Conflict, StoreError},
    event::{NewEvent, Raw, Recorded},
    load::{Fold, Loaded, Until},
    metadata::Metadata,
    reads::Basis,
    store::Store,
    stream::{Expected, Position, StreamId, Version},
    target::Target,
    timestamp::Timestamp,
    trace,
};

impl Store {
    /// Executes a command: calls the rule and records the events it returns.
    ///
    /// Reads the target's events, calls `decide`, and appends the events it returns. If the target has changed
    /// meanwhile, the command starts over, three times unless told otherwise.
    ///
    /// Fails with [`Rejected`](CommandError::Rejected) if the rule refuses the command, with
    /// [`Conflict`](CommandError::Conflict) if the target changed at every attempt, and with
    /// [`Store`](CommandError::Store) if the store fails.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let ann = Id::<Account>::from("ann");
    /// store.execute(&ann, Deposit { amount: 100 }).await?;
    /// let done = store.execute(&ann, Withdraw { amount: 30 }).by("teller-7").await?;
    /// assert_eq!((done.state.balance, done.version.0), (70, 2));
    /// match store.execute(&ann, Withdraw { amount: 100 }).await {
    ///     Err(CommandError::Rejected(refusal)) => assert_eq!(refusal.to_string(), "only 70 left"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn execute<T: Target, C>(&self, target: T, command: C) -> Execute<T::State>
    where
        T::State: Decide<C>,
        C: Clone + Send + Sync + 'static,
    {
        Execute::new(self.clone(), target.boundary(), command)
    }
}

/// A command about to be executed: `.await` it, or give its cause, conditions and metadata first.
#[must_use = "nothing is executed until it is awaited"]
pub struct Execute<S: Decider> {
    store: Store,
    boundary: Boundary,
    // It captures the command, so that all commands of an aggregate share one type of builder and one loop.
    decide: Box<Rule<S>>,
    /// The names of events that may come in between without a conflict.
    unaffected: &'static [&'static str],
    cause: Cause,
    expecting: Option<Version>,
    expecting_position: Option<Position>,
    retries: u32,
}

type Rule<S> = dyn Fn(&S) -> Decision<S> + Send + Sync;

/// The result of a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Appended<S: Decider> {
    /// The state with the new events applied.
    pub state: S,
    /// The stream the events are in.
    pub stream: StreamId,
    /// The number of events the state is made of: for one stream its version, for a tuple the sum over its parts.
    pub version: Version,
    /// The position of the last new event: a caller that waits for it reads its own writes. Without new events, the
    /// position up to which the log was read.
    pub position: Position,
    /// The position of the last event that made the state: as [`Loaded::changed`](crate::Loaded::changed).
    pub changed: Position,
    /// The new events; empty if there was nothing to do.
    pub events: Vec<Recorded<S::Event>>,
}

impl<S: Decider> Execute<S> {
    pub(crate) fn new<C>(store: Store, boundary: Boundary, command: C) -> Self
    where
        S: Decide<C>,
        C: Clone + Send + Sync + 'static,
    {
        const { check_rule::<S, C>() }
        let cause = store.cause();
        let decide = Box::new(move |state: &S| state.decide(command.clone()));
        let unaffected = <S as Decide<C>>::UNAFFECTED_BY;
        Self { store, boundary, decide, unaffected, cause, expecting: None, expecting_position: None, retries: 3 }
    }

    cause_methods!();

    /// The version the caller has seen. If the stream has changed since, the command fails with a conflict and is not
    /// tried again. For the state of one stream: for other states, use
    /// [`expecting_position`](Self::expecting_position).
    pub fn expecting(mut self, version: Version) -> Self {
        const { assert!(S::ONE_STREAM, "a version is a place in one stream: use `expecting_position` for this state") }
        self.expecting = Some(version);
        self
    }

    /// The position up to which the caller has seen the log. If an event that makes the state was recorded since, the
    /// command fails with a conflict and is not tried again. Fails with [`StoreError::Forked`] if the position is
    /// beyond the end of the log: it is of another log, or of an end that was lost.
    pub fn expecting_position(mut self, position: Position) -> Self {
        self.expecting_position = Some(position);
        self
    }

    /// How often to read and decide again after losing a race; 3 by default.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }
}

impl<S: Decider> IntoFuture for Execute<S> {
    type Output = Result<Appended<S>, CommandError<S::Error>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let span = trace::execute(&self.boundary.stream);
        let own = span.clone();
        let executed = async move {
            let mut attempts = 0;
            let answer = match self.run(&mut attempts).await {
                Ok(Done::Now(appended)) => Ok(appended),
                Ok(Done::Before(events)) => self.replay(&events).await.map_err(|error| error.though_recorded().into()),
                Err(error) => Err(error),
            };
            own.record("outcome", trace::of_command(&answer.as_ref().map(|done| done.events.len())));
            own.record("attempts", attempts);
            answer
        };
        Box::pin(executed.instrument(span))
    }
}

/// What a command did.
enum Done<S: Decider> {
    Now(Appended<S>),
    /// These events were recorded under its id before.
    Before(Vec<Recorded<Raw>>),
}

impl<S: Decider> Done<S> {
    /// Returns how many events are recorded.
    fn events(&self) -> usize {
        match self {
            Self::Now(appended) => appended.events.len(),
            Self::Before(events) => events.len(),
        }
    }
}

impl<S: Decider> Execute<S> {
    /// Executes the command, and returns how many events are recorded. A command that was recorded before costs one
    /// look-up, and no fold of the events before it.
    pub(crate) async fn send(self) -> Result<usize, CommandError<S::Error>> {
        let span = trace::execute(&self.boundary.stream);
        let mut attempts = 0;
        let sent = self.run(&mut attempts).instrument(span.clone()).await.map(|done| done.events());
        span.record("outcome", trace::of_command(&sent.as_ref().copied()));
        span.record("attempts", attempts);
        sent
    }

    /// Loads, decides, appends, acknowledges. A command that loses a race starts over on the new state. Counts the attempts.
    async fn run(&self, attempts: &mut u32) -> Result<Done<S>, CommandError<S::Error>> {
        self.boundary.check().map_err(StoreError::from)?;
        let metadata = Metadata { request: self.request(), ..self.cause.metadata() };
        let _turns = self.store.turns().take(self.boundary.turns::<S::Event>()).await?;
        if let Some(first) = self.recall_given().await? {
            return Ok(Done::Before(first));
        }
        *attempts = 1;
        let mut lost = 0;
        loop {
            let error = match self.attempt(&metadata).await {
                Ok(done) if done.events() > 0 => return Ok(done),
                Ok(nothing_to_do) => return Ok(self.recall_given().await?.map_or(nothing_to_do, Done::Before)),
                Err(error) => error,
            };
            let answered = matches!(error, CommandError::Rejected(_) | CommandError::Conflict(_))
                || matches!(error, CommandError::Store(StoreError::Duplicate { .. }));
            // Another process may have recorded the same command meanwhile: then the first result counts.
            if answered && let Some(first) = self.recall_given().await? {
                return Ok(Done::Before(first));
            }
            let patient = self.expecting.is_none() && self.expecting_position.is_none();
            if !(error.is_conflict() && patient && lost < self.retries) {
                return Err(match error {
                    CommandError::Conflict(conflict) => CommandError::Conflict(self.store.explained(conflict).await),
                    error => error,
                });
            }
            lost += 1;
            *attempts = lost + 1;
            tokio::time::sleep(pause(lost)).await;
        }
    }

    async fn attempt(&self, metadata: &Metadata) -> Result<Done<S>, CommandError<S::Error>> {
        let fold = self.read().await?;
        let answer = (self.decide)(&fold.loaded.state);
        let answer = answer.inspect_err(|_| fold.keep(&self.store, &self.boundary)).map_err(CommandError::Rejected)?;
        Ok(self.append(fold, &answer, metadata).await?)
    }

    async fn read(&self) -> Result<Fold<S>, StoreError> {
        let fold = Fold::<S>::read(&self.store, &self.boundary, Until::default()).await?;
        if let Some(expected) = self.expecting
            && expected != fold.loaded.version
        {
            let (stream, expected) = (self.boundary.stream.clone(), Expected::Version(expected));
            return Err(Conflict::new(stream, expected, fold.loaded.version).into());
        }
        if let Some(after) = self.expecting_position {
            // The state may have been read from less than the whole log. A position beyond the end of the log is of
            // another log.
            if after > fold.loaded.position {
                self.store.reached(after).await?;
            }
            let (query, until) = (self.boundary.query(), Some(fold.loaded.position));
            let newer = Read { query, after, until, limit: Some(1), ..Read::default() };
            if let Some(event) = self.store.inner().read(newer).await?.events.try_next().await? {
                return Err(Conflict::in_the_way(event.stream, event.version).into());
            }
        }
        Ok(fold)
    }

    async fn append(&self, mut fold: Fold<S>, answer: &[S::Event], metadata: &Metadata) -> Result<Done<S>, StoreError> {
        let stream = self.boundary.stream.clone();
        if answer.is_empty() {
            self.store.remember(|| fold.basis(&self.boundary));
            fold.keep(&self.store, &self.boundary);
            let Loaded { state, version, position, changed, .. } = fold.loaded;
            return Ok(Done::Now(Appended { state, stream, version, position, changed, events: vec![] }));
        }
        let mut events = Vec::with_capacity(answer.len());
        let mut new = Vec::with_capacity(answer.len());
        for (event, n) in answer.iter().zip(0..) {
            let (stored, again) = encode::stored(event)?;
            new.push(stored.stamp(event_id(metadata.command_id, n), metadata, self.cause.occurred_at));
            events.push(again);
        }
        let append = self.append_of(&fold, new.clone());
        // Before anything is written: an event at which `evolve` panics would panic at every load, and so must not be
        // recorded.
        let (before, head) = (fold.loaded.version.0, fold.loaded.position);
        let now = if S::RECORDED { self.store.inner().now() } else { Timestamp::default() };
        let estimated = |(event, n): (NewEvent, u64)| {
            let (version, position) = if S::RECORDED { (before + n, head.0 + n) } else { (0, 0) };
            event.recorded(stream.clone(), Version(version), Position(position), now)
        };
        let mut raws: Vec<_> = new.into_iter().zip(1..).map(estimated).collect();
        raws.iter().try_for_each(|raw| fold.take_in(&self.boundary, raw))?;
        let written = self.store.append_in_span(append).await?;
        if written.replayed {
            let command = metadata.command_id;
            let first = raws[0].id;
            // The first append may have been by this call, if its answer was lost.
            let recalled = self.recall(command).await.map_err(StoreError::though_recorded)?;
            return recalled.map(Done::Before).ok_or(StoreError::Duplicate { event: first, command });
        }
        place(&mut raws, &written, self.cause.occurred_at);
        fold.recorded(&self.boundary, &raws);
        if S::RECORDED || self.came_between(&written, before, head) {
            let until = Until::position(written.last);
            let again = Fold::read(&self.store, &self.boundary, until).await;
            fold = again.map_err(StoreError::though_recorded)?;
        }
        fold.keep(&self.store, &self.boundary);
        let events = raws.iter().zip(events).map(|(raw, event)| raw.with(event)).collect();
        let Loaded { state, version, changed, .. } = fold.loaded;
        Ok(Done::Now(Appended { state, stream, version, position: written.last, changed, events }))
    }

    /// Whether events that make the state and are no conflict may have been recorded between the read and the append.
    fn came_between(&self, written: &Written, before: u64, head: Position) -> bool {
        let (Written { streams, first, last, .. }, new) = (written, written.last.0 - written.first.0 + 1);
        let between = match self.boundary.one_stream() {
            Some(_) => streams.first().is_none_or(|(_, version)| version.0 != before + new),
            None => first.0 != head.0 + 1,
        };
        !self.unaffected.is_empty() && between && *last > head
    }

    /// Returns the append, which checks all that was read except events that do not affect the rule.
    fn append_of(&self, fold: &Fold<S>, events: Vec<NewEvent>) -> Append {
        let stream = self.boundary.stream.clone();
        let Basis { mut unchanged, mut condition } = fold.basis(&self.boundary);
        let mut expected = Expected::Any;
        let patient = self.expecting.is_none() && self.expecting_position.is_none();
        if !self.unaffected.is_empty() && patient {
            let Condition { mut query, after } =
                condition.unwrap_or(Condition { query: Query::default(), after: fold.loaded.position });
            let names = S::EVENTS.iter().copied().flatten().copied().map(Cow::Borrowed).collect();
            let of = |(stream, _): (StreamId, Version)| Item { names: Clone::clone(&names), ..Item::of(&stream) };
            query.items.extend(unchanged.drain(..).map(of));
            for item in &mut query.items {
                item.names.retain(|name| !self.unaffected.contains(&&**name));
                item.except.get_or_insert_default().push(self.unaffected);
            }
            query.items.retain(|item| !item.names.is_empty());
            condition = Some(Condition { query, after });
        }
        unchanged.retain(|(read, version)| {
            let own = *read == stream;
            if own {
                expected = Expected::Version(*version);
            }
            !own
        });
        unchanged.sort_unstable();
        unchanged.dedup();
        Append { writes: vec![Write { stream, expected, events }], unchanged, condition }
    }

    /// Returns the fingerprint of the targets if the caller gave the command id, and so may use the id twice.
    fn request(&self) -> Option<Uuid> {
        self.cause.command_id.map(|id| cause::request(id, self.boundary.names()))
    }

    /// Returns the events if the caller gave the command id and the command is recorded.
    async fn recall_given(&self) -> Result<Option<Vec<Recorded<Raw>>>, StoreError> {
        match self.cause.command_id {
            Some(command) => self.recall(command).await,
            None => Ok(None),
        }
    }

    /// Returns the events of a command recorded before. Fails with [`StoreError::Reused`] if the id is of another
    /// request.
    async fn recall(&self, command: Uuid) -> Result<Option<Vec<Recorded<Raw>>>, StoreError> {
        let raws = self.store.inner().find(command).await?;
        let [first, ..] = &raws[..] else { return Ok(None) };
        let fits = self.boundary.records_in(&first.stream);
        if !fits || !cause::same_request(first.metadata.request, self.request()) {
            return Err(StoreError::Reused { command, stream: first.stream.clone() });
        }
        Ok(Some(raws))
    }

    /// Returns the first result of a command that recorded these events before.
    async fn replay(&self, raws: &[Recorded<Raw>]) -> Result<Appended<S>, StoreError> {
        let (first, last) = (&raws[0], &raws[raws.len() - 1]);
        let (stream, position) = (first.stream.clone(), last.position);
        let before = Until::position(Position(first.position.0 - 1));
        let mut fold = Fold::<S>::read(&self.store, &self.boundary, before).await?;
        let mut events = Vec::with_capacity(raws.len());
        for raw in raws {
            fold.take_in(&self.boundary, raw)?;
            events.extend(raw.decode().map_err(|source| StoreError::unreadable(raw, source))?);
        }
        let Loaded { state, version, changed, .. } = fold.loaded;
        Ok(Appended { state, stream, version, position, changed, events })
    }
}

/// Sets the versions, positions and instants that an append to one stream gave its events.
fn place(events: &mut [Recorded<Raw>], written: &Written, occurred_at: Option<Timestamp>) {
    let last = written.streams[0].1;
    let before = last.0 - events.len() as u64;
    for (event, n) in events.iter_mut().zip(0..) {
        (event.version, event.position) = (Version(before + 1 + n), Position(written.first.0 + n));
        event.recorded_at = written.recorded_at;
        event.occurred_at = occurred_at.unwrap_or(written.recorded_at);
    }
}

/// How long to wait before the n-th new attempt: a random time below a bound that doubles up to 64 ms, so that two
/// callers that collided do not collide again.
pub(crate) fn pause(attempt: u32) -> Duration {
    let bound = Duration::from_millis(1 << attempt.min(6));
    // A new hasher has new random keys: good enough to part two callers, and no dependency.
    let dice = std::hash::RandomState::new().hash_one(attempt);
    bound.mul_f64((dice % 1024) as f64 / 1024.0)
}
