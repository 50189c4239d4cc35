//! Reads the log: all of it, or a stream, a category, some types, a tag.

use std::{borrow::Cow, time::SystemTime};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{
    error::StoreError,
    event::{Event, Raw, Recorded, Tag},
    handle::Store,
    load::{Until, bound},
    store::{Item, Read},
    stream::{Position, StreamId, Version},
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
}

impl ReadEvents {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, item: Item::default(), read: Read::default(), until: Until::default() }
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

    /// After this version; for one stream.
    pub fn after_version(mut self, version: Version) -> Self {
        self.read.after_version = self.read.after_version.max(version);
        self
    }

    /// Up to this position.
    pub fn until(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// Recorded by this instant.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// At most so many stored events.
    pub fn limit(mut self, events: usize) -> Self {
        bound(&mut self.read.limit, events);
        self
    }

    /// The events as they are stored, oldest first.
    pub fn raw(self) -> BoxStream<'static, Result<Recorded<Raw>, StoreError>> {
        let Self { store, item, read, until } = self;
        let open = async move {
            let read = Read { query: item.into(), until: until.last(&store).await?, ..read };
            Ok::<_, StoreError>(store.inner().read(read).await?.events)
        };
        stream::once(open).try_flatten().boxed()
    }

    /// The events of type `E`, oldest first. Without names, all those `E` knows are asked for.
    pub fn events<E: Event>(mut self) -> BoxStream<'static, Result<Recorded<E>, StoreError>> {
        if self.item.names.is_empty() {
            self.item.names = Item::names(E::NAMES).names;
        }
        let decode = |raw: Recorded<Raw>| {
            let events = raw.decode::<E>().map_err(|source| StoreError::unreadable(&raw, source))?;
            Ok(stream::iter(events.into_iter().map(Ok)))
        };
        self.raw().map(move |raw| raw.and_then(decode)).try_flatten().boxed()
    }
}
