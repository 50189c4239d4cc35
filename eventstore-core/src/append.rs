//! Appends events without any aggregate.

use futures::{TryStreamExt, future::BoxFuture};

use crate::{
    aggregate::{Aggregate, Evolve},
    cause::{Cause, cause_methods, event_id},
    contract::{Append, Query, Read, Write, Written},
    encode::{self, Stored},
    error::{Conflict, StoreError},
    event::Event,
    store::Store,
    stream::{Expected, Id, Position, StreamId, Version},
};

impl Store {
    /// Appends events without any aggregate; with [`and`](AppendEvents::and), to several streams at once.
    ///
    /// No rule is asked and no state is folded: the caller answers for the events. To an [`Id`] only the events of its
    /// aggregate can be appended, since others could not be read there; a [`StreamId`] takes any.
    ///
    /// A stream that gets no event is not written to, but its expected version is checked. If no stream gets an event,
    /// nothing is recorded, and the returned [`Written`] has no streams and the positions 0. Fails with
    /// [`StoreError::Conflict`] if a stream is not as expected.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use eventstore::{Expected, StreamId, Version};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let (ann, bob) = (Id::<Account>::from("ann"), StreamId::new("account", "bob"));
    /// let written = store
    ///     .append(&ann, Expected::Version(Version(0)), [Opened { owner: "Ann".into() }, Deposited { amount: 5 }])
    ///     .and(&bob, Expected::Any, [Opened { owner: "Bob".into() }])
    ///     .by("importer")
    ///     .await?;
    /// assert_eq!(written.streams, [(ann.stream(), Version(2)), (bob, Version(1))]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn append<E: Event>(
        &self,
        stream: impl AppendTo<E>,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
    ) -> AppendEvents {
        AppendEvents::new(self.clone()).and(stream, expected, events)
    }
}

/// A stream that events of a type can be appended to: the [`Id`] of an aggregate that has such events, or any
/// [`StreamId`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no stream to append events to",
    label = "neither an `Id<_>`, whose aggregate has such events, nor a `StreamId`"
)]
pub trait AppendTo<E> {
    /// Returns the stream to append to.
    fn into_stream(self) -> StreamId;
}

impl<A: Aggregate> AppendTo<<A as Evolve>::Event> for Id<A> {
    fn into_stream(self) -> StreamId {
        self.stream()
    }
}

impl<A: Aggregate> AppendTo<<A as Evolve>::Event> for &Id<A> {
    fn into_stream(self) -> StreamId {
        self.stream()
    }
}

impl<E: Event> AppendTo<E> for StreamId {
    fn into_stream(self) -> StreamId {
        self
    }
}

impl<E: Event> AppendTo<E> for &StreamId {
    fn into_stream(self) -> StreamId {
        self.clone()
    }
}

/// Events about to be appended: `.await` them, or give their cause and metadata first.
#[must_use = "nothing is appended until it is awaited"]
pub struct AppendEvents {
    store: Store,
    writes: Vec<(StreamId, Expected, Result<Vec<Stored>, StoreError>)>,
    cause: Cause,
}

impl AppendEvents {
    pub(crate) fn new(store: Store) -> Self {
        let cause = store.cause();
        Self { store, writes: vec![], cause }
    }

    /// Adds events for another stream: all are appended, or none.
    pub fn and<E: Event>(
        mut self,
        stream: impl AppendTo<E>,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
    ) -> Self {
        let stored = events.into_iter().map(|event| Ok(encode::stored(&event)?.0));
        self.writes.push((stream.into_stream(), expected, stored.collect()));
        self
    }

    /// As [`and`](Self::and), for events in their stored form, with no expected version.
    pub(crate) fn and_stored(mut self, stream: StreamId, stored: Result<Vec<Stored>, StoreError>) -> Self {
        self.writes.push((stream, Expected::Any, stored));
        self
    }

    cause_methods!();

    async fn run(self) -> Result<Written, StoreError> {
        let metadata = self.cause.metadata();
        let mut numbers = 0..;
        let mut append = Append::default();
        let mut empty = vec![];
        for (stream, expected, stored) in self.writes {
            let events: Vec<_> = stored?
                .into_iter()
                .zip(&mut numbers)
                .map(|(stored, n)| stored.stamp(event_id(metadata.command_id, n), &metadata, self.cause.occurred_at))
                .collect();
            match events.is_empty() {
                false => append.writes.push(Write { stream, expected, events }),
                true => empty.push((stream, expected)),
            }
        }
        for (stream, expected) in empty {
            match expected {
                Expected::Version(version) if !append.writes.is_empty() => append.unchanged.push((stream, version)),
                // If anything is written, only `Any` and `Exists` come here, and a stream that exists does so for ever.
                _ => self.store.expect(&stream, expected).await?,
            }
        }
        if append.writes.is_empty() {
            let (streams, nowhere, recorded_at) = (vec![], Position(0), self.store.inner().now());
            return Ok(Written { streams, first: nowhere, last: nowhere, recorded_at, replayed: false });
        }
        let count = append.events().count();
        let written = match self.store.append_in_span(append).await {
            Err(StoreError::Conflict(conflict)) => return Err(self.store.explained(conflict).await.into()),
            written => written?,
        };
        // A store also reports a replay if the events are the first of a longer append, which was another append.
        if written.replayed {
            let found = self.store.inner().find(metadata.command_id).await.map_err(StoreError::though_recorded)?;
            if found.len() != count {
                let (event, command) = (event_id(metadata.command_id, 0), metadata.command_id);
                return Err(StoreError::Duplicate { event, command });
            }
        }
        Ok(written)
    }
}

impl Store {
    /// Fails with [`StoreError::Conflict`] if a stream that is not written to is not as expected.
    async fn expect(&self, stream: &StreamId, expected: Expected) -> Result<(), StoreError> {
        let read = Read { query: Query::of(stream), backwards: true, limit: Some(1), ..Read::default() };
        // Also for `Any`: the read checks the name.
        let last = self.inner().read(read).await?.events.try_next().await?;
        let actual = last.map_or(Version(0), |last| last.version);
        if expected.holds(actual) {
            return Ok(());
        }
        Err(self.explained(Conflict::new(stream.clone(), expected, actual)).await.into())
    }
}

impl IntoFuture for AppendEvents {
    type Output = Result<Written, StoreError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
