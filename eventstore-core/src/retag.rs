//! Gives stored events the tags that their type gives them today.

use std::{collections::HashSet, marker::PhantomData};

use futures::{TryStreamExt, future::BoxFuture};

use crate::{
    contract::{NewTags, Query, Read},
    doctor::Report,
    error::StoreError,
    event::{Event, Raw, Recorded, Tag},
    invalid::Invalid,
    store::Store,
    stream::Position,
};

/// The largest number of events that are given new tags at once.
const BATCH: usize = 500;
/// How often a batch is read again because its tags have changed meanwhile.
const TRIES: u32 = 10;
/// How many events the doctor reads, in each of how many places of the log.
const SAMPLE: usize = 100;
const PLACES: u64 = 10;

impl Store {
    /// Gives the stored events of a type the tags that the type gives them today and that they lack: after a tag was
    /// added to a field. Tags are an index, so the history stays what it is; nothing else of an event can be changed.
    /// Tags that the type does not give stay, unless [`remove_others`](Retag::remove_others) says otherwise.
    ///
    /// The events are read in order, decoded, and tagged anew, in batches of up to 500 events whose tags change. Each
    /// batch is a short transaction that keeps others from appending, and removes the snapshots of states by tag. An
    /// interrupted job is started again, from the beginning or [`after`](Retag::after) the position it had reached.
    /// Read models whose rows are found by a tag (`#[read_model(tag = "…")]`) are to be rebuilt afterwards.
    ///
    /// Two such jobs may run at once. Run the job once no program of the earlier release appends any more: its events
    /// have the earlier tags, and its snapshots lack events. A snapshot also lacks events if another process read its
    /// state by tag before the job and keeps the snapshot after the job's end: run the job once more a minute later,
    /// which removes such snapshots. Until the job has ended, a state by tag may lack events, as before. Fails with
    /// [`Unreadable`](StoreError::Unreadable) at an event that cannot be decoded, and with [`Busy`](StoreError::Busy)
    /// if another job keeps changing the same tags. In PostgreSQL the job needs the rights of the owner of the schema.
    ///
    /// ```
    /// # use eventstore::prelude::*;
    /// # #[derive(Event, Clone)]
    /// # enum AccountEvent { Opened { owner: String } }
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let done = store.retag::<AccountEvent>().progress(|so_far| println!("{so_far:?}")).await?;
    /// println!("{} of {} events have other tags now", done.changed, done.events);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retag<E: Event>(&self) -> Retag<E> {
        Retag { store: self.clone(), after: Position(0), remove: false, progress: Box::new(|_| {}), of: PhantomData }
    }

    /// Returns the report of [`doctor`](Self::doctor), and whether the stored events of a type have the tags that the
    /// type gives them today, for a sample of up to 1,000 events in ten places of the log.
    pub async fn doctor_of<E: Event>(&self) -> Result<Report, StoreError> {
        let mut report = self.doctor().await?;
        let head = self.head().await?;
        let (mut looked_at, mut lack, mut others, mut first) = (0_u64, 0_u64, 0_u64, None);
        let mut after = Position(0);
        for place in 0..PLACES {
            let until = Position(head.0 / PLACES * (place + 1) + if place + 1 == PLACES { head.0 % PLACES } else { 0 });
            let query = Query::names(E::NAMES);
            let read = Read { query, after, until: Some(until), limit: Some(SAMPLE), ..Read::default() };
            let mut events = self.inner().read(read).await?.events;
            while let Some(event) = events.try_next().await? {
                looked_at += 1;
                // A reader of the event reports that it cannot be decoded.
                let Ok(Some(tags)) = today::<E>(&event) else { continue };
                others += u64::from(!tags.others.is_empty());
                if !tags.lacking.is_empty() {
                    lack += 1;
                    first = first.or(Some(event.position));
                }
            }
            after = until;
        }
        match first {
            None if others == 0 => report.ok("tags", format!("{looked_at} events have the tags of today")),
            None => report.ok(
                "tags",
                format!("{looked_at} events have the tags of today, and {others} of them also tags that this type does not give"),
            ),
            Some(first) => report.warning(
                "tags",
                format!("{lack} of {looked_at} events lack tags that their type gives them, from position {first} on"),
                "States and read models by tag do not see them. Run `store.retag` for the event type.",
            ),
        }
        Ok(report)
    }
}

/// A job that gives events new tags: `.await` it, or set its options first.
#[must_use = "nothing is changed until it is awaited"]
pub struct Retag<E> {
    store: Store,
    after: Position,
    remove: bool,
    progress: Box<dyn FnMut(&Retagged) + Send>,
    of: PhantomData<fn() -> E>,
}

/// How far a [`Retag`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retagged {
    /// How many events it has read.
    pub events: u64,
    /// How many of these events have been given other tags.
    pub changed: u64,
    /// The position up to which all events have the tags of today: where to go on.
    pub position: Position,
    /// The position at which the log ended when the job began.
    pub until: Position,
}

/// How the tags of an event differ from those that its type gives it today.
struct Differences {
    /// Tags that the type gives and the event lacks, in the order of the type.
    lacking: Vec<Tag>,
    /// Tags that the event has and the type does not give: the type may read only a part of the event.
    others: HashSet<Tag>,
}

/// Returns how the tags of an event differ from those of today; `None` if they do not, or if the event means nothing
/// any more. Fails with [`StoreError::Unreadable`] if the event cannot be decoded.
fn today<E: Event>(event: &Recorded<Raw>) -> Result<Option<Differences>, StoreError> {
    let (mut lacking, mut means) = (vec![], false);
    let mut others: HashSet<_> = event.data.tags.iter().cloned().collect();
    let decoded = event.decode_each::<E>(|data| {
        means = true;
        for tag in data.tags() {
            let held = event.data.tags.contains(&tag);
            others.remove(&tag);
            if !held && !lacking.contains(&tag) {
                lacking.push(tag);
            }
        }
    });
    decoded.map_err(|source| StoreError::unreadable(event, source))?;
    Ok((means && !(lacking.is_empty() && others.is_empty())).then_some(Differences { lacking, others }))
}

fn new_tags(event: Recorded<Raw>, differ: Differences, remove: bool) -> NewTags {
    let Recorded { position, id, data: Raw { tags: was, .. }, .. } = event;
    let mut tags = was.clone();
    tags.retain(|tag| !(remove && differ.others.contains(tag)));
    tags.extend(differ.lacking);
    NewTags { position, id, was, tags }
}

impl<E: Event> Retag<E> {
    /// Goes on after a position: that of an earlier [`Retagged`].
    pub fn after(mut self, position: Position) -> Self {
        self.after = position;
        self
    }

    /// Also removes the tags that the type does not give: after a tag was removed from a field. The type must be the
    /// one that the events are written with. A type that reads only a part of their fields removes the tags of the
    /// others, and states and decisions by these tags no longer see the events.
    pub fn remove_others(mut self) -> Self {
        self.remove = true;
        self
    }

    /// Calls a function with the progress, about every thousand events and at the end.
    pub fn progress(mut self, progress: impl FnMut(&Retagged) + Send + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    async fn run(self) -> Result<Retagged, StoreError> {
        let Self { store, after, remove, mut progress, .. } = self;
        let until = store.head().await?;
        let mut done = Retagged { position: after, until, ..Retagged::default() };
        let names = Query::names(E::NAMES);
        let read = |after| Read { query: names.clone(), after, until: Some(until), ..Read::default() };
        let mut events = store.inner().read(read(after)).await?.events;
        // The progress up to the last batch that is written.
        let mut written = done;
        let (mut batch, mut tries) = (vec![], 0);
        loop {
            let event = events.try_next().await?;
            let last = event.is_none();
            if let Some(event) = event {
                done.events += 1;
                done.position = event.position;
                let differ = today::<E>(&event)?.filter(|differ| remove || !differ.lacking.is_empty());
                if let Some(differ) = differ {
                    let new = new_tags(event, differ, remove);
                    // Checked here, so that the error names the event and not only its batch.
                    new.check().map_err(|error| {
                        Invalid::Request(format!("the event at position {} cannot get its tags: {error}", new.position))
                    })?;
                    batch.push(new);
                }
            }
            let due = done.events.is_multiple_of(1_000);
            if batch.len() >= BATCH || due || last {
                let wanted = batch.len() as u64;
                let changed = match wanted {
                    0 => 0,
                    _ => store.inner().retag(std::mem::take(&mut batch)).await?,
                };
                if changed < wanted {
                    // Another job has changed tags since they were read: these events are read again.
                    tries += 1;
                    if tries == TRIES {
                        return Err(StoreError::Busy("the tags of events are changed by another job".into()));
                    }
                    written.changed += changed;
                    done = written;
                    events = store.inner().read(read(done.position)).await?.events;
                    continue;
                }
                done.changed += changed;
                (written, tries) = (done, 0);
            }
            if last {
                done.position = until.max(after);
            }
            if last || due {
                progress(&done);
            }
            if last {
                // A snapshot that was being written may lack events that were tagged after its state was read.
                store.finish_snapshots().await;
                store.inner().retag(vec![]).await?;
                return Ok(done);
            }
        }
    }
}

impl<E: Event> IntoFuture for Retag<E> {
    type Output = Result<Retagged, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
