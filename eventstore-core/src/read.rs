//! Reads the log: all of it, or a stream, a category, some types, a tag.

use std::{
    borrow::Cow,
    collections::VecDeque,
    future,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{
    error::StoreError,
    event::{Event, Raw, Recorded, Tag},
    handle::Store,
    load::{Until, bound},
    store::{Item, Read},
    stream::{Position, StreamId, Version},
    timestamp::Timestamp,
};

impl Store {
    /// Reads the log: all of it, or a stream, a category, some types, a tag.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use futures::TryStreamExt;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # store.execute(Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
    /// let mut deposits = store.read().category("account").names(["account.deposited"]).events::<AccountEvent>();
    /// while let Some(event) = deposits.try_next().await? {
    ///     println!("{} {:?}", event.recorded_at, event.data);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self) -> ReadEvents {
        ReadEvents::new(self.clone())
    }
}

/// Events about to be read: say which, then ask for them typed ([`events`](Self::events)) or as they are stored
/// ([`raw`](Self::raw)). All that is said holds at once: each of the tags, any of the names, the narrowest of the
/// bounds; only of streams and categories, the last one said.
#[must_use = "nothing is read until `events` or `raw`"]
pub struct ReadEvents {
    store: Store,
    item: Item,
    read: Read,
    until: Until,
    recorded_after: Option<Timestamp>,
}

impl ReadEvents {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, item: Item::default(), read: Read::default(), until: Until::default(), recorded_after: None }
    }

    /// Of this stream: an id, or a [`StreamId`].
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Self {
        let Item { category, key, .. } = Item::of(&stream.into());
        (self.item.category, self.item.key) = (category, key);
        self
    }

    /// Of streams of this category.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.item.category = Some(category.into());
        self
    }

    /// Of these names.
    pub fn names<N: Into<Cow<'static, str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.item.names.extend(names.into_iter().map(Into::into));
        self
    }

    /// With this tag: an id, or a [`Tag`].
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.item.tags.push(tag.into());
        self
    }

    /// After this position.
    pub fn after(mut self, position: Position) -> Self {
        self.read.after = self.read.after.max(position);
        self
    }

    /// After this version; for one stream, as is [`until_version`](Self::until_version).
    pub fn after_version(mut self, version: Version) -> Self {
        self.read.after_version = self.read.after_version.max(version);
        self
    }

    /// Up to this position.
    pub fn until(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// Up to this version; for one stream.
    pub fn until_version(mut self, version: Version) -> Self {
        self.read.until_version = Some(version);
        self
    }

    /// Recorded by this instant, and at it.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// Recorded after this instant, not at it: just what [`as_of`](Self::as_of) the same instant leaves out. So the
    /// events of a month are those `.recorded_after(its_start).as_of(its_end)`, and each is in one month.
    pub fn recorded_after(mut self, time: impl Into<SystemTime>) -> Self {
        let time = time.into().into();
        self.recorded_after = Some(self.recorded_after.map_or(time, |other| time.max(other)));
        self
    }

    /// The newest first. What [`after`](Self::after), [`until`](Self::until) and the others say of places and instants
    /// means the same: which events there are. [`limit`](Self::limit) takes those that come first.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use futures::TryStreamExt;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # let ann = Id::<Account>::from("ann");
    /// # for amount in 1..=5 { store.execute(&ann, Deposit { amount }).await?; }
    /// let last: Vec<_> = store.read().stream(&ann).backwards().limit(3).events::<AccountEvent>().try_collect().await?;
    /// assert_eq!(last[0].data, Deposited { amount: 5 });
    /// # Ok(())
    /// # }
    /// ```
    pub fn backwards(mut self) -> Self {
        self.read.backwards = true;
        self
    }

    /// At most so many stored events.
    pub fn limit(mut self, events: usize) -> Self {
        bound(&mut self.read.limit, events);
        self
    }

    /// The events as they are stored, oldest first unless [`backwards`](Self::backwards).
    pub fn raw(self) -> BoxStream<'static, Result<Recorded<Raw>, StoreError>> {
        let Self { store, item, read, until, recorded_after } = self;
        let open = async move {
            let after = match recorded_after {
                Some(time) => store.inner().position_at(time).await?.max(read.after),
                None => read.after,
            };
            let read = Read { query: item.into(), after, until: until.last(&store).await?, ..read };
            Ok::<_, StoreError>(store.inner().read(read).await?.events)
        };
        let events = stream::once(open).try_flatten();
        match recorded_after {
            // Of an instant that is not over yet, more may have been recorded since its position was asked for.
            Some(time) => events.try_filter(move |event| future::ready(event.recorded_at > time)).boxed(),
            None => events.boxed(),
        }
    }

    /// The events of type `E`, in the same order. Without names, all those `E` knows are asked for.
    pub fn events<E: Event>(mut self) -> BoxStream<'static, Result<Recorded<E>, StoreError>> {
        if self.item.names.is_empty() {
            self.item.names = Item::names(E::NAMES).names;
        }
        // Of an event that was split, what has not been given out yet.
        let (backwards, mut raw, mut others) = (self.read.backwards, self.raw(), VecDeque::new());
        let next = move |context: &mut Context<'_>| loop {
            if let Some(event) = if backwards { others.pop_back() } else { others.pop_front() } {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(event) = ready!(raw.try_poll_next_unpin(context)?) else { return Poll::Ready(None) };
            if let Some(event) = event.decode_into(&mut others)? {
                if others.is_empty() || !backwards {
                    return Poll::Ready(Some(Ok(event)));
                }
                others.push_front(event);
            }
        };
        stream::poll_fn(next).boxed()
    }
}
