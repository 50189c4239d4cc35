//! Reads a state back from its events.

use std::{
    borrow::Cow,
    collections::HashMap,
    marker::PhantomData,
    ops::Deref,
    time::{Duration, Instant, SystemTime},
};

use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt, TryStreamExt},
};
use tracing::Instrument;

use crate::{
    aggregate::{Aggregate, Decider, Evolve, apply},
    boundary::{Boundary, Part},
    contract::{Condition, Events, Prefix, Query, Read, StoredSnapshot},
    error::StoreError,
    event::{Raw, Recorded, Tag},
    invalid::Invalid,
    reads::Basis,
    snapshot::{Begun, Last, Policy, Unfit},
    store::Store,
    stream::{Position, StreamId, Version},
    target::Target,
    timestamp::Timestamp,
    trace,
};

impl Store {
    /// Reads a state back from its events: as it is, or as it was.
    ///
    /// An aggregate without events is blank, at version 0.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # let ann = Id::<Account>::from("ann");
    /// # store.execute(&ann, Deposit { amount: 100 }).await?;
    /// # let tuesday_noon = std::time::UNIX_EPOCH;
    /// let today = store.load(&ann).await?;
    /// let tuesday = store.load(&ann).as_of(tuesday_noon).await?;
    /// assert_eq!((today.balance, tuesday.balance), (100, 0));
    /// # Ok(())
    /// # }
    /// ```
    pub fn load<T: Target>(&self, target: T) -> Load<T::State> {
        Load::new(self.clone(), target.boundary())
    }

    /// Returns every event of a target, oldest first, each with the state it led to.
    pub fn history<A: Aggregate + Clone>(&self, target: impl Target<State = A>) -> History<A> {
        history(self.clone(), target.boundary())
    }
}

/// A state, and the position up to which it was read. Derefs to the state.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Loaded<S> {
    /// The state.
    pub state: S,
    /// The number of events the state is made of: for one stream its version, for a tuple the sum over its parts.
    pub version: Version,
    /// The position up to which the log was read. [`at_position`](Load::at_position) with it, and with the same
    /// [`at`](Load::at) and [`occurred_by`](Load::occurred_by) if there were any, gives the same state for ever.
    pub position: Position,
    /// `false` only after [`as_of`](Load::as_of): an event recorded by that instant may still come, because the instant
    /// is not over yet, or because the store cannot wait for an open append (a replica, a file that can only be read).
    pub settled: bool,
    /// The position of the last event that made the state; 0, if none did. Unlike [`position`](Self::position) it does
    /// not move with other events, so it is what an `ETag` is made of for a state that has no version.
    pub changed: Position,
}

impl<S> Deref for Loaded<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.state
    }
}

/// The upper bounds of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Until {
    pub(crate) version: Option<Version>,
    pub(crate) position: Option<Position>,
    pub(crate) recorded_by: Option<Timestamp>,
    pub(crate) occurred_by: Option<Timestamp>,
    /// Folded from the log, even if no moment is named.
    pub(crate) live: bool,
}

impl Until {
    pub(crate) fn position(position: Position) -> Self {
        Self { position: Some(position), ..Self::default() }
    }

    /// Returns the last position within the bounds (`None`: unbounded), and whether no event can still come up to it.
    async fn prefix(&self, store: &Store) -> Result<(Option<Position>, bool), StoreError> {
        let Some(time) = self.recorded_by else { return Ok((self.position, true)) };
        let Prefix { position: last, settled } = store.inner().prefix_at(time).await?;
        let earlier = self.position.filter(|position| *position <= last);
        Ok((Some(earlier.unwrap_or(last)), settled || earlier.is_some()))
    }

    /// Returns the last position within the bounds; `None` if they have none.
    pub(crate) async fn last(&self, store: &Store) -> Result<Option<Position>, StoreError> {
        Ok(self.prefix(store).await?.0)
    }

    /// Returns the read of a boundary's events within the bounds, and whether they are final, as
    /// [`prefix`](Self::prefix).
    async fn read(&self, store: &Store, boundary: &Boundary) -> Result<(Read, bool), StoreError> {
        if self.version.is_some() && boundary.one_stream().is_none() {
            return Err(Invalid::Request("a version is a place in one stream: use `at_position` here".into()).into());
        }
        let limit = self.version.map(|Version(version)| usize::try_from(version).unwrap_or(usize::MAX));
        let ((until, settled), until_version) = (self.prefix(store).await?, self.version);
        let read = Read { query: boundary.query(), until, until_version, limit, ..Read::default() };
        read.check()?;
        Ok((read, settled))
    }

    /// Whether a snapshot may be used at all: never with `occurred_by`, whose events are no prefix of the log.
    fn snapshots(&self) -> bool {
        self.occurred_by.is_none()
    }

    /// Whether a snapshot is of a moment within the bounds.
    fn reaches(&self, stored: &StoredSnapshot, read: &Read) -> bool {
        self.version.is_none_or(|version| stored.version <= version)
            && read.until.is_none_or(|until| stored.position <= until)
    }

    /// Whether an event up to the last position is within the other bounds.
    pub(crate) fn takes<E>(&self, event: &Recorded<E>) -> bool {
        self.occurred_by.is_none_or(|time| event.occurred_at <= time)
            && self.version.is_none_or(|version| event.version <= version)
    }
}

/// Adds a bound: of all bounds given, the earliest holds.
pub(crate) fn bound<T: Ord>(earliest: &mut Option<T>, also: T) {
    *earliest = Some(match earliest.take() {
        Some(before) => before.min(also),
        None => also,
    });
}

/// A state about to be read: `.await` it, or give bounds first. All bounds hold; of several of one kind, the earliest.
#[must_use = "nothing is read until it is awaited"]
pub struct Load<S> {
    store: Store,
    boundary: Boundary,
    until: Until,
    of: PhantomData<fn() -> S>,
}

impl<S: Decider> Load<S> {
    pub(crate) fn new(store: Store, boundary: Boundary) -> Self {
        Self { store, boundary, until: Until::default(), of: PhantomData }
    }

    /// The state as it was after this many events; after all of them, if there are fewer. For the state of one stream:
    /// for other states, use [`at_position`](Self::at_position).
    pub fn at(mut self, version: Version) -> Self {
        const { assert!(S::ONE_STREAM, "a version is a place in one stream: use `at_position` for this state") }
        bound(&mut self.until.version, version);
        self
    }

    /// The state as it was at a position of the log; as it is, if the log ends before.
    pub fn at_position(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// The state as it was known at an instant: made of the events recorded by then. Takes a [`Timestamp`],
    /// `SystemTime`, or one of chrono, jiff or time.
    ///
    /// For an instant that is over the state never changes: the load waits for an open append. For an instant that is
    /// not over events may still come, and [`settled`](Loaded::settled) says so; pin the state with
    /// [`at_position`](Self::at_position) and the position it was read at.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// The state as it was at an instant, by today's knowledge: made of the events that had happened by then, whenever
    /// they were recorded, in the order of recording.
    pub fn occurred_by(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.occurred_by, time.into().into());
        self
    }
}

impl<S: Decider> IntoFuture for Load<S> {
    type Output = Result<Loaded<S>, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let fold = Fold::<S>::read(&self.store, &self.boundary, self.until).await?;
            if self.until == Until::default() {
                self.store.remember(|| fold.basis(&self.boundary));
                fold.keep(&self.store, &self.boundary);
            }
            Ok(fold.loaded)
        })
    }
}

/// A state, and the place each of its parts has reached. All parts are made of their events up to the same position.
pub(crate) struct Fold<S> {
    pub(crate) loaded: Loaded<S>,
    pub(crate) stands: Vec<Stand>,
    /// How long the read took.
    pub(crate) took: Duration,
    /// By the index of a part: the names that its query asks for and this program does not know.
    unknown: Vec<(usize, Vec<Cow<'static, str>>)>,
}

/// The place a part of a state has reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stand {
    /// The number of events the part is made of.
    pub(crate) events: Version,
    /// The version of the last of them, which for a stream is the stream's.
    pub(crate) version: Version,
    pub(crate) last: Option<Last>,
    pub(crate) begun: Begun,
}

impl<S: Decider> Fold<S> {
    /// The state before the first event.
    pub(crate) fn blank(boundary: &Boundary) -> Self {
        let (version, position) = (Version(0), Position(0));
        let loaded = Loaded { state: S::blank(boundary), version, position, settled: true, changed: position };
        let stands = vec![Stand::default(); boundary.parts.len()];
        Self { loaded, stands, took: Duration::ZERO, unknown: vec![] }
    }

    /// Returns what an append must check: a stream by its version, any other part by the events after the read.
    pub(crate) fn basis(&self, boundary: &Boundary) -> Basis {
        let (mut unchanged, mut items) = (vec![], vec![]);
        for (part, &Stand { version, .. }) in boundary.parts.iter().zip(&self.stands) {
            match part {
                Part::Stream(stream) => unchanged.push((stream.clone(), version)),
                Part::Query { item, .. } => items.push(item.clone()),
            }
        }
        let after = self.loaded.position;
        let condition = (!items.is_empty()).then_some(Condition { query: Query { items }, after });
        Basis { unchanged, condition }
    }

    /// Returns the state within the bounds. Each part is folded from all of its events, or from a snapshot and the
    /// events after it; the state is the same.
    pub(crate) async fn read(store: &Store, boundary: &Boundary, until: Until) -> Result<Self, StoreError> {
        Self::read_parts(store, boundary, until).instrument(trace::load(&boundary.stream)).await
    }

    async fn read_parts(store: &Store, boundary: &Boundary, until: Until) -> Result<Self, StoreError> {
        let began = Instant::now();
        let (mut read, settled) = until.read(store, boundary).await?;
        let mut fold = Self::blank(boundary);
        fold.loaded.settled = settled;
        if let ([Part::Stream(stream)], Some(policy)) = (&boundary.parts[..], fold.loaded.state.snapshots(0))
            && until == Until::default()
            && !S::RECORDED
        {
            fold.read_stream(store, boundary, read, stream, policy).await?;
            fold.took = began.elapsed();
            return Ok(fold);
        }
        let mut snapshots = vec![];
        // The parts without a snapshot, which are folded from one read.
        let mut others = vec![];
        for part in 0..boundary.parts.len() {
            match fold.snapshot(store, boundary, until, &read, part).await {
                Some(stored) => snapshots.push((part, stored)),
                None => others.push(part),
            }
        }
        for (part, stored) in snapshots {
            match fold.go_on(store, boundary, until, &read, part, &stored).await? {
                Ok(()) => store.snapshots().used(),
                Err(why) => {
                    store.snapshots().ignore(&mut fold.stands[part].begun, &stored, &why);
                    others.push(part);
                    continue;
                }
            }
            // All parts end where the first one does.
            read.until = Some(fold.loaded.position);
        }
        if !others.is_empty() || boundary.parts.is_empty() {
            fold.begin(store, boundary, until, read, &others).await?;
        }
        fold.took = began.elapsed();
        Ok(fold)
    }

    /// As [`read`](Self::read), without snapshots.
    pub(crate) async fn read_all(store: &Store, boundary: &Boundary, until: Until) -> Result<Self, StoreError> {
        let (read, settled) = until.read(store, boundary).await?;
        let mut fold = Self::blank(boundary);
        fold.loaded.settled = settled;
        let all: Vec<_> = (0..boundary.parts.len()).collect();
        fold.begin(store, boundary, until, read, &all).await?;
        Ok(fold)
    }

    /// Folds the current state of one stream. Its snapshot and the events after it are one read.
    async fn read_stream(
        &mut self,
        store: &Store,
        boundary: &Boundary,
        read: Read,
        stream: &StreamId,
        policy: Policy,
    ) -> Result<(), StoreError> {
        match store.inner().read_from_snapshot(stream, policy.kind).await {
            Ok((None, Events { head, events, .. })) => {
                self.loaded.position = head;
                return self.take_in_all(boundary, &[0], Until::default(), events).await;
            }
            Ok((Some(stored), events)) => {
                let went_on = match policy.fits(&stored) {
                    Ok(()) => self.go_on_with(boundary, Until::default(), 0, &stored, events).await?,
                    unfit => unfit,
                };
                match went_on {
                    Ok(()) => {
                        store.snapshots().used();
                        return Ok(());
                    }
                    Err(why) => store.snapshots().ignore(&mut self.stands[0].begun, &stored, &why),
                }
            }
            Err(error) => store.snapshots().ignored(stream.as_str(), policy.kind, &Unfit::Unreadable(error)),
        }
        self.begin(store, boundary, Until::default(), read, &[0]).await
    }

    /// Returns the snapshot that a part may begin at, as far as can be decided without the log.
    async fn snapshot(
        &mut self,
        store: &Store,
        boundary: &Boundary,
        until: Until,
        read: &Read,
        part: usize,
    ) -> Option<StoredSnapshot> {
        let policy = self.loaded.state.snapshots(part).filter(|_| until.snapshots())?;
        let policy = boundary.parts[part].policy(policy);
        let name = boundary.parts[part].name();
        let stored = store.inner().snapshot(&name, policy.kind).await.unwrap_or_else(|error| {
            store.snapshots().ignored(&name, policy.kind, &Unfit::Unreadable(error));
            None
        });
        let stored = stored.filter(|stored| until.reaches(stored, read))?;
        match policy.fits(&stored) {
            Ok(()) => Some(stored),
            Err(why) => {
                store.snapshots().ignore(&mut self.stands[part].begun, &stored, &why);
                None
            }
        }
    }

    /// Folds some parts from all of their events.
    async fn begin(
        &mut self,
        store: &Store,
        boundary: &Boundary,
        until: Until,
        read: Read,
        parts: &[usize],
    ) -> Result<(), StoreError> {
        let query = Query { items: parts.iter().map(|&part| boundary.parts[part].item()).collect() };
        // A bare read may lack ids, positions and instants, which a snapshot and `occurred_by` need; and its head may
        // be inexact, while several parts must end at the same position.
        let bare = matches!(boundary.parts[..], [Part::Stream(_)]) && self.loaded.state.snapshots(0).is_none();
        let bare = bare && until.occurred_by.is_none() && !S::RECORDED;
        let Events { head, events, asked } = store.inner().read(Read { query, bare, ..read }).await?;
        self.note_events(boundary, parts, asked);
        self.loaded.position = head;
        self.take_in_all(boundary, parts, until, events).await
    }

    /// Folds a part from a snapshot: reads the last event of the snapshot again, and the events after it. If that event
    /// is not at its place any more, the snapshot is of another log.
    async fn go_on(
        &mut self,
        store: &Store,
        boundary: &Boundary,
        until: Until,
        read: &Read,
        part: usize,
        stored: &StoredSnapshot,
    ) -> Result<Result<(), Unfit>, StoreError> {
        let mut read = Read { query: boundary.parts[part].item().into(), ..read.clone() };
        if matches!(boundary.parts[part], Part::Stream(_)) {
            let before = stored.version.0.saturating_sub(1);
            read.after_version = Version(before);
            read.limit = read.limit.map(|limit| limit.saturating_sub(usize::try_from(before).unwrap_or(usize::MAX)));
        } else {
            read.after = Position(stored.position.0.saturating_sub(1));
        }
        let events = store.inner().read(read).await?;
        self.go_on_with(boundary, until, part, stored, events).await
    }

    /// As [`go_on`](Self::go_on), with the events that were read.
    async fn go_on_with(
        &mut self,
        boundary: &Boundary,
        until: Until,
        part: usize,
        stored: &StoredSnapshot,
        Events { head, mut events, asked }: Events,
    ) -> Result<Result<(), Unfit>, StoreError> {
        self.note_events(boundary, &[part], asked);
        let stream = matches!(boundary.parts[part], Part::Stream(_));
        let Some(event) = events.try_next().await? else { return Ok(Err(Unfit::OtherHistory)) };
        let last = Last::of(&event);
        if !last.ends(stored) || (stream && event.version != stored.version) {
            return Ok(Err(Unfit::OtherHistory));
        }
        let Some(Ok(())) = self.loaded.state.open(part, &stored.state) else { return Ok(Err(Unfit::Undecodable)) };
        self.loaded.position = head;
        self.loaded.changed = self.loaded.changed.max(event.position);
        self.loaded.version.0 += stored.version.0;
        let begun = Begun { version: stored.version, ..Begun::default() };
        self.stands[part] = Stand { events: stored.version, version: event.version, last: Some(last), begun };
        self.take_in_all(boundary, &[part], until, events).await.map(Ok)
    }

    async fn take_in_all(
        &mut self,
        boundary: &Boundary,
        parts: &[usize],
        until: Until,
        mut events: BoxStream<'static, Result<Recorded<Raw>, StoreError>>,
    ) -> Result<(), StoreError> {
        // All events of a read for one part concern that part.
        let only = parts.len() == 1;
        let index = (parts.len() > INDEXED).then(|| Index::of(boundary, parts));
        while let Some(event) = events.try_next().await? {
            if !until.takes(&event) {
                continue;
            }
            let candidates = index.as_ref().map(|index| index.candidates(&event));
            for &part in candidates.as_deref().unwrap_or(parts) {
                if only || self.concerns(boundary, part, &event) {
                    self.take(part, &event)?;
                }
            }
        }
        Ok(())
    }

    /// Notes the names that the query asked for and the parts do not name.
    fn note_events(&mut self, boundary: &Boundary, parts: &[usize], asked: Option<Query>) {
        let Some(asked) = asked else { return };
        for (&part, mut item) in parts.iter().zip(asked.items) {
            if let Part::Query { item: named, .. } = &boundary.parts[part]
                && item.names.len() > named.names.len()
            {
                self.unknown.push((part, item.names.split_off(named.names.len())));
            }
        }
    }

    fn concerns(&self, boundary: &Boundary, part: usize, event: &Recorded<Raw>) -> bool {
        let unknown = |(of, names): &(usize, Vec<Cow<'_, str>>)| {
            *of == part && names.iter().any(|name| **name == *event.data.name) && boundary.parts[part].has_tags(event)
        };
        boundary.parts[part].matches(event) || self.unknown.iter().any(unknown)
    }

    /// Applies an event to the parts it concerns, if any.
    pub(crate) fn take_in(&mut self, boundary: &Boundary, event: &Recorded<Raw>) -> Result<(), StoreError> {
        boundary.concerned(event).try_for_each(|part| self.take(part, event))
    }

    fn take(&mut self, part: usize, event: &Recorded<Raw>) -> Result<(), StoreError> {
        self.loaded.state.take_in(part, event)?;
        self.loaded.version.0 += 1;
        self.loaded.changed = self.loaded.changed.max(event.position);
        let stand = &mut self.stands[part];
        stand.events.0 += 1;
        (stand.version, stand.last) = (event.version, Some(Last::of(event)));
        Ok(())
    }

    /// Sets the ends of the parts to the places at which the events applied last were recorded.
    pub(crate) fn recorded(&mut self, boundary: &Boundary, events: &[Recorded<Raw>]) {
        for event in events {
            for part in boundary.concerned(event) {
                self.stands[part].last = Some(Last::of(event));
                self.loaded.changed = self.loaded.changed.max(event.position);
            }
        }
    }
}

/// With more parts than this, an index finds the parts an event concerns.
const INDEXED: usize = 16;

/// The parts of a large boundary: by stream, by their first tag, and all others.
struct Index<'a> {
    streams: HashMap<&'a str, Vec<usize>>,
    tags: HashMap<&'a Tag, Vec<usize>>,
    others: Vec<usize>,
}

impl<'a> Index<'a> {
    fn of(boundary: &'a Boundary, parts: &[usize]) -> Self {
        let mut index = Self { streams: HashMap::new(), tags: HashMap::new(), others: vec![] };
        for &part in parts {
            match &boundary.parts[part] {
                Part::Stream(stream) => index.streams.entry(stream.as_str()).or_default().push(part),
                Part::Query { item, .. } => match item.tags.first() {
                    Some(tag) => index.tags.entry(tag).or_default().push(part),
                    None => index.others.push(part),
                },
            }
        }
        index
    }

    /// Returns the parts that an event may concern, each once.
    fn candidates(&self, event: &Recorded<Raw>) -> Vec<usize> {
        let tagged = event.data.tags.iter().filter_map(|tag| self.tags.get(tag));
        let found = self.streams.get(event.stream.as_str()).into_iter().chain(tagged).flatten();
        let mut found: Vec<_> = found.chain(&self.others).copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Events, each with the state it led to.
pub type History<A> = BoxStream<'static, Result<(Recorded<<A as Evolve>::Event>, A), StoreError>>;

pub(crate) fn history<A: Aggregate + Clone>(store: Store, boundary: Boundary) -> History<A> {
    let mut state = <A as Decider>::blank(&boundary);
    let open = async move {
        let read = Read { query: boundary.query(), ..Read::default() };
        Ok::<_, StoreError>(store.inner().read(read).await?.events)
    };
    stream::once(open)
        .try_flatten()
        .map(move |raw| {
            let raw: Recorded<Raw> = raw?;
            let events = raw.decode().map_err(|source| StoreError::unreadable(&raw, source))?;
            let moments = events.into_iter().map(|event: Recorded<<A as Evolve>::Event>| {
                apply(&mut state, event.data.clone(), &raw);
                Ok((event, state.clone()))
            });
            Ok::<_, StoreError>(stream::iter(moments.collect::<Vec<_>>()))
        })
        .try_flatten()
        .boxed()
}
