//! Reads the log: all of it, or a stream, a category, some types, a tag; as it is, or as it grows.

use std::{
    borrow::Cow,
    collections::VecDeque,
    future,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::{
    contract::{Events, Item, Query, Read},
    error::StoreError,
    event::{Event, Raw, Recorded, Tag},
    invalid::Invalid,
    load::{Until, bound},
    store::Store,
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
/// ([`raw`](Self::raw)), or for their number ([`count`](Self::count)).
///
/// An event must fit all of a description: each of the tags, any of the names, and the stream or category given last.
/// [`or`](Self::or) begins another description, whose events are read as well. The bounds hold for all descriptions; of
/// several bounds the narrowest holds.
#[must_use = "nothing is read until `events`, `raw` or `count`"]
pub struct ReadEvents {
    store: Store,
    described: Vec<Described>,
    read: Read,
    until: Until,
    recorded_after: Option<Timestamp>,
    occurred_after: Option<Timestamp>,
    following: bool,
}

/// Events of one description.
#[derive(Default)]
struct Described {
    item: Item,
    /// Whether the caller gave names, perhaps an empty list.
    named: bool,
}

impl ReadEvents {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            described: vec![Described::default()],
            read: Read::default(),
            until: Until::default(),
            recorded_after: None,
            occurred_after: None,
            following: false,
        }
    }

    fn described(&mut self) -> &mut Described {
        let last = self.described.len() - 1;
        &mut self.described[last]
    }

    /// Only events of this stream: an id, or a [`StreamId`].
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Self {
        let Item { category, key, .. } = Item::of(&stream.into());
        let item = &mut self.described().item;
        (item.category, item.key) = (category, key);
        self
    }

    /// Only events of streams of this category.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.described().item.category = Some(category.into());
        self
    }

    /// Only events of these names; no event, if the list is empty.
    pub fn names<N: Into<Cow<'static, str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let Described { item, named } = self.described();
        item.names.extend(names.into_iter().map(Into::into));
        *named = true;
        self
    }

    /// Only events with this tag: an id, or a [`Tag`].
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.described().item.tags.push(tag.into());
        self
    }

    /// Begins another description: streams, categories, names and tags from here on describe other events, which are
    /// read as well. An event that fits several descriptions is read once.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # let (ann, bob) = (Id::<Account>::from("ann"), Id::<Account>::from("bob"));
    /// # for id in [&ann, &bob] { store.execute(id, Deposit { amount: 1 }).await?; }
    /// let both = store.read().stream(&ann).or().stream(&bob).names(["account.deposited"]);
    /// assert_eq!(both.count().await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn or(mut self) -> Self {
        self.described.push(Described::default());
        self
    }

    /// Only events after this position.
    pub fn after(mut self, position: Position) -> Self {
        self.read.after = self.read.after.max(position);
        self
    }

    /// Only events after this version; for one stream, as is [`until_version`](Self::until_version).
    pub fn after_version(mut self, version: Version) -> Self {
        self.read.after_version = self.read.after_version.max(version);
        self
    }

    /// Only events up to this position.
    pub fn until(mut self, position: Position) -> Self {
        bound(&mut self.until.position, position);
        self
    }

    /// Only events up to this version; for one stream.
    pub fn until_version(mut self, version: Version) -> Self {
        bound(&mut self.read.until_version, version);
        self
    }

    /// Only events recorded at or before this instant.
    pub fn as_of(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.recorded_by, time.into().into());
        self
    }

    /// Only events recorded after this instant, not at it: those that [`as_of`](Self::as_of) the same instant leaves
    /// out. So the events of a month are those `.recorded_after(its_start).as_of(its_end)`, and each is in one month.
    pub fn recorded_after(mut self, time: impl Into<SystemTime>) -> Self {
        let time = time.into().into();
        self.recorded_after = Some(self.recorded_after.map_or(time, |other| time.max(other)));
        self
    }

    /// Only events that happened at or before this instant, whenever they were recorded. All events within the other
    /// bounds are read, and filtered here, so the cost is that of the other bounds.
    pub fn occurred_by(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.occurred_by, time.into().into());
        self
    }

    /// Only events that happened after this instant, not at it, whenever they were recorded: those that
    /// [`occurred_by`](Self::occurred_by) the same instant leaves out.
    pub fn occurred_after(mut self, time: impl Into<SystemTime>) -> Self {
        let time = time.into().into();
        self.occurred_after = Some(self.occurred_after.map_or(time, |other| time.max(other)));
        self
    }

    /// Also events that are recorded later, as they come: they have no end, unless [`limit`](Self::limit),
    /// [`until`](Self::until) or [`as_of`](Self::as_of) set one. An error ends them; to go on, read
    /// [`after`](Self::after) the last event's position. Fails with [`Invalid::Request`] together with
    /// [`backwards`](Self::backwards).
    ///
    /// No checkpoint is kept: a program that must not miss an event across restarts uses a
    /// [`Subscription`](https://docs.rs/eventstore-rs/latest/eventstore/trait.Subscription.html).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use futures::TryStreamExt;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # let ann = Id::<Account>::from("ann");
    /// let mut events = store.read().stream(&ann).following().events::<AccountEvent>();
    /// store.execute(&ann, Deposit { amount: 100 }).await?;
    /// let deposited = events.try_next().await?.expect("it has no end");
    /// assert_eq!(deposited.data, Deposited { amount: 100 });
    /// # Ok(())
    /// # }
    /// ```
    pub fn following(mut self) -> Self {
        self.following = true;
        self
    }

    /// The newest event first. [`after`](Self::after), [`until`](Self::until) and the other bounds mean the same in
    /// both directions; [`limit`](Self::limit) takes the events that come first.
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

    /// At most this many stored events.
    pub fn limit(mut self, events: usize) -> Self {
        bound(&mut self.read.limit, events);
        self
    }

    fn query(&self) -> Query {
        let items = self.described.iter().filter(|Described { item, named }| !(*named && item.names.is_empty()));
        Query { items: items.map(|described| described.item.clone()).collect() }
    }

    /// Returns the read that the store is asked for.
    async fn asked(&self) -> Result<Read, StoreError> {
        let after = match self.recorded_after {
            Some(time) => self.store.inner().position_at(time).await?.max(self.read.after),
            None => self.read.after,
        };
        let limit = self.read.limit.filter(|_| !self.filters());
        let until = self.until.last(&self.store).await?;
        Ok(Read { query: self.query(), after, until, limit, ..self.read.clone() })
    }

    /// Whether the store may return events that must be filtered out here.
    fn filters(&self) -> bool {
        self.recorded_after.is_some() || self.occurred_after.is_some() || self.until.occurred_by.is_some()
    }

    /// Returns the number of events.
    pub async fn count(self) -> Result<u64, StoreError> {
        if !self.filters() && !self.following {
            return self.store.inner().count(self.asked().await?).await;
        }
        let (mut events, mut count) = (self.raw(), 0);
        while events.try_next().await?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Returns the events as they are stored, oldest first unless [`backwards`](Self::backwards).
    pub fn raw(self) -> BoxStream<'static, Result<Recorded<Raw>, StoreError>> {
        let (store, limit, filters) = (self.store.clone(), self.read.limit, self.filters());
        let Self { recorded_after, occurred_after, until: Until { occurred_by, .. }, following, .. } = self;
        let pages = stream::try_unfold(Next::First(Box::new(self)), move |next| {
            let store = store.clone();
            async move {
                let read = match next {
                    Next::First(said) if said.following && said.read.backwards => {
                        let why = "the events that are still to come cannot be read backwards";
                        return Err(Invalid::Request(why.into()).into());
                    }
                    Next::First(said) => said.asked().await?,
                    Next::After(read) => {
                        store.inner().appended(read.after).await;
                        read
                    }
                    Next::Nothing => return Ok(None),
                };
                let Events { head, events, .. } = store.inner().read(read.clone()).await?;
                let more = following && read.until.is_none_or(|until| head < until);
                let after = head.max(read.after);
                Ok::<_, StoreError>(Some((
                    events,
                    if more { Next::After(Read { after, ..read }) } else { Next::Nothing },
                )))
            }
        });
        let events = pages.try_flatten();
        if !filters && !following {
            return events.boxed();
        }
        // Events of an instant that is not over yet may have been recorded since its position was asked for.
        let wanted = move |event: &Recorded<Raw>| {
            recorded_after.is_none_or(|time| event.recorded_at > time)
                && occurred_after.is_none_or(|time| event.occurred_at > time)
                && occurred_by.is_none_or(|time| event.occurred_at <= time)
        };
        events.try_filter(move |event| future::ready(wanted(event))).take(limit.unwrap_or(usize::MAX)).boxed()
    }

    /// Returns the events as type `E`, in the same order. Without [`names`](Self::names), reads all names of `E`. Fails
    /// with [`StoreError::Unreadable`] at an event that cannot be decoded.
    pub fn events<E: Event>(mut self) -> BoxStream<'static, Result<Recorded<E>, StoreError>> {
        for Described { item, named } in self.described.iter_mut().filter(|described| !described.named) {
            (item.names, *named) = (Item::names(E::NAMES).names, true);
        }
        // The events that one stored event is read as and that are not yet returned.
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

/// The next page of a read.
enum Next {
    First(Box<ReadEvents>),
    After(Read),
    Nothing,
}
