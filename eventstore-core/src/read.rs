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
/// All that is said of an event holds at once: each of the tags, any of the names; of streams and categories, the last one
/// said. After [`or`](Self::or), other events are described, which are read as well. The bounds hold for all of them: the
/// narrowest that was said.
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
    /// Whether names were said, none perhaps.
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

    /// Of this stream: an id, or a [`StreamId`].
    pub fn stream(mut self, stream: impl Into<StreamId>) -> Self {
        let Item { category, key, .. } = Item::of(&stream.into());
        let item = &mut self.described().item;
        (item.category, item.key) = (category, key);
        self
    }

    /// Of streams of this category.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.described().item.category = Some(category.into());
        self
    }

    /// Of these names. Of no names, there is no event.
    pub fn names<N: Into<Cow<'static, str>>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        let Described { item, named } = self.described();
        item.names.extend(names.into_iter().map(Into::into));
        *named = true;
        self
    }

    /// With this tag: an id, or a [`Tag`].
    pub fn tag(mut self, tag: impl Into<Tag>) -> Self {
        self.described().item.tags.push(tag.into());
        self
    }

    /// And others: what is said of streams, categories, names and tags from here on describes other events, which are read
    /// as well. An event that fits more than one description is read once.
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

    /// That had happened by this instant, and at it, whenever they were recorded. The events are read up to the other bounds
    /// and those of other instants are left out, so the cost is that of the other bounds.
    pub fn occurred_by(mut self, time: impl Into<SystemTime>) -> Self {
        bound(&mut self.until.occurred_by, time.into().into());
        self
    }

    /// That happened after this instant, not at it, whenever they were recorded; just what
    /// [`occurred_by`](Self::occurred_by) the same instant leaves out.
    pub fn occurred_after(mut self, time: impl Into<SystemTime>) -> Self {
        let time = time.into().into();
        self.occurred_after = Some(self.occurred_after.map_or(time, |other| time.max(other)));
        self
    }

    /// And all that are recorded later, as they come: the events have no end, but where [`limit`](Self::limit),
    /// [`until`](Self::until) or [`as_of`](Self::as_of) set one. An error ends them; to go on, read
    /// [`after`](Self::after) the last event's position. Not [`backwards`](Self::backwards).
    ///
    /// Nothing is kept of how far it has come: what must not miss an event across restarts is a
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

    fn query(&self) -> Query {
        let items = self.described.iter().filter(|Described { item, named }| !(*named && item.names.is_empty()));
        Query { items: items.map(|described| described.item.clone()).collect() }
    }

    /// What the store is asked for.
    async fn asked(&self) -> Result<Read, StoreError> {
        let after = match self.recorded_after {
            Some(time) => self.store.inner().position_at(time).await?.max(self.read.after),
            None => self.read.after,
        };
        let limit = self.read.limit.filter(|_| !self.filters());
        let until = self.until.last(&self.store).await?;
        Ok(Read { query: self.query(), after, until, limit, ..self.read.clone() })
    }

    /// Whether what the store is asked for may be more than what was said.
    fn filters(&self) -> bool {
        self.recorded_after.is_some() || self.occurred_after.is_some() || self.until.occurred_by.is_some()
    }

    /// How many there are.
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

    /// The events as they are stored, oldest first unless [`backwards`](Self::backwards).
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
        // Of an instant that is not over yet, more may have been recorded since its position was asked for.
        let wanted = move |event: &Recorded<Raw>| {
            recorded_after.is_none_or(|time| event.recorded_at > time)
                && occurred_after.is_none_or(|time| event.occurred_at > time)
                && occurred_by.is_none_or(|time| event.occurred_at <= time)
        };
        events.try_filter(move |event| future::ready(wanted(event))).take(limit.unwrap_or(usize::MAX)).boxed()
    }

    /// The events of type `E`, in the same order. Without names, all those `E` knows are asked for.
    pub fn events<E: Event>(mut self) -> BoxStream<'static, Result<Recorded<E>, StoreError>> {
        for Described { item, named } in self.described.iter_mut().filter(|described| !described.named) {
            (item.names, *named) = (Item::names(E::NAMES).names, true);
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

/// What a read does next.
enum Next {
    First(Box<ReadEvents>),
    After(Read),
    Nothing,
}
