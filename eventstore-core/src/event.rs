//! Events: before and after they are stored.

use std::{borrow::Cow, collections::VecDeque, fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

use crate::{
    error::{EventError, StoreError},
    invalid::Invalid,
    limits,
    metadata::Metadata,
    stream::{Position, StreamId, Version},
    timestamp::Timestamp,
};

/// Something that happened, by name. Derive it on an enum; one variant is one kind of event.
///
/// The name and the schema version are stored beside the body, so a variant can be renamed, and its fields can
/// change, without touching what is stored: see `#[derive(Event)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "add `#[derive(Event)]` to the enum that says what can happen"
)]
pub trait Event: Clone + Send + Sync + Sized + 'static {
    /// The stored names of all variants, earlier names included.
    const NAMES: &'static [&'static str];
    /// The schema version each name is written in today, in the same order; 0 if the event means nothing any more.
    /// Empty if all are 1.
    const SCHEMAS: &'static [u32] = &[];
    /// The names of the tags its variants may carry.
    const TAGS: &'static [&'static str] = &[];
    /// Stored names, in lists, that this program knows and that do not matter to readers of this type: see
    /// `#[event(others(…))]`. An event of the same categories under any other name is taken for an event of a newer
    /// program: loading a state by tag, or of every event of a kind, then fails.
    const OTHERS: &'static [&'static [&'static str]] = &[];

    /// Returns the stored name of this event, `account.deposited`.
    fn name(&self) -> &'static str;

    /// Returns the version of its stored form, 1 unless `#[event(version = …)]` sets another.
    fn schema(&self) -> u32 {
        1
    }

    /// Returns the tags of this event, from the fields marked `#[event(tag)]`.
    fn tags(&self) -> Vec<Tag> {
        Vec::new()
    }

    /// Returns its body as JSON; the name is stored beside the body. Fails with [`EventError`] if the body cannot be
    /// written.
    fn encode(&self) -> Result<Vec<u8>, EventError>;

    /// Reads a stored body of any schema version, and pushes the events it means today: one event, several if it was
    /// split, none if it is retired. Fails with [`EventError`] if the name, the version or the body cannot be read.
    fn decode(name: &str, schema: u32, body: &[u8], push: &mut dyn FnMut(Self)) -> Result<(), EventError>;
}

/// The result of an upcast: one event, none (`Option`), or several (`Vec`).
#[diagnostic::on_unimplemented(
    message = "an upcast cannot give `{Self}`",
    label = "neither `{E}`, nor an `Option` or `Vec` of it"
)]
pub trait Upcast<E> {
    /// Pushes each event.
    fn upcast(self, push: &mut dyn FnMut(E));
}

impl<E> Upcast<E> for E {
    fn upcast(self, push: &mut dyn FnMut(E)) {
        push(self);
    }
}

impl<E> Upcast<E> for Option<E> {
    fn upcast(self, push: &mut dyn FnMut(E)) {
        self.into_iter().for_each(push);
    }
}

impl<E> Upcast<E> for Vec<E> {
    fn upcast(self, push: &mut dyn FnMut(E)) {
        self.into_iter().for_each(push);
    }
}

/// A name and a value of an event, by which it belongs to a boundary or to a row: `course:rust-101`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The kind of thing that the event concerns: `course`.
    pub name: Cow<'static, str>,
    /// The key of the thing: `rust-101`.
    pub key: String,
}

impl Tag {
    /// Returns the tag `{name}:{key}`.
    pub fn new(name: impl Into<Cow<'static, str>>, key: impl fmt::Display) -> Self {
        Self { name: name.into(), key: key.to_string() }
    }

    /// Returns the tag of a stored text. A text without a colon, which no append of this library writes, becomes
    /// `?:{text}`, and is returned with the reason, for [`Recorded::damaged`].
    pub fn stored(text: &str) -> (Self, Option<Invalid>) {
        match text.parse() {
            Ok(tag) => (tag, None),
            Err(why) => (Self::new("?", text), Some(why)),
        }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        limits::plain("tag name", &self.name)?;
        limits::name("tag key", &self.key)
    }
}

impl FromStr for Tag {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, key) = text.split_once(':').ok_or_else(|| Invalid::name("tag", text, "has no colon"))?;
        Ok(Self { name: name.to_owned().into(), key: key.into() })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.key)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The type of a field that `#[event(tag)]` without a name can mark: an id, or several ids.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say what to call its tag",
    label = "neither an `Id<_>`, nor an `Option` or `Vec` of one",
    note = "name it: `#[event(tag = \"course\")]`"
)]
pub trait Tagged {
    /// The name of the tag.
    const TAG: &'static str;

    /// Adds the tags: one for an id, none for `None`, one for each in a `Vec`.
    fn tag(&self, tags: &mut Vec<Tag>);
}

impl<T: Tagged> Tagged for Option<T> {
    const TAG: &'static str = T::TAG;

    fn tag(&self, tags: &mut Vec<Tag>) {
        self.iter().for_each(|id| id.tag(tags));
    }
}

impl<T: Tagged> Tagged for Vec<T> {
    const TAG: &'static str = T::TAG;

    fn tag(&self, tags: &mut Vec<Tag>) {
        self.iter().for_each(|id| id.tag(tags));
    }
}

/// An event as the log keeps it: a name, tags, and bytes that are never looked into.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// The stored name, `account.deposited`.
    pub name: Arc<str>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// The body: JSON when the framework wrote it.
    pub body: Vec<u8>,
}

impl Raw {
    /// Returns its size in bytes: name, body and tags.
    pub(crate) fn bytes(&self) -> usize {
        let tags: usize = self.tags.iter().map(|tag| tag.name.len() + 1 + tag.key.len()).sum();
        self.name.len() + self.body.len() + tags
    }
}

/// An event that is not recorded yet.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Makes a retry safe: the same id is recorded once.
    pub id: Uuid,
    /// The version of the stored form.
    pub schema: u32,
    /// When it happened, if that was not when it is recorded.
    pub occurred_at: Option<Timestamp>,
    /// Who asked, and why.
    pub metadata: Metadata,
    /// What happened.
    pub data: Raw,
}

impl NewEvent {
    /// Returns the event with its place in the log, as a store returns it.
    pub fn recorded(
        self,
        stream: StreamId,
        version: Version,
        position: Position,
        recorded_at: Timestamp,
    ) -> Recorded<Raw> {
        let Self { id, schema, occurred_at, metadata, data } = self;
        let occurred_at = occurred_at.unwrap_or(recorded_at);
        Recorded { id, stream, version, position, recorded_at, occurred_at, schema, metadata, data, damage: None }
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        limits::event_name(&self.data.name)?;
        limits::size("the body of an event", self.data.body.len(), limits::BODY_BYTES)?;
        limits::size("the tags of an event", self.data.tags.len(), limits::TAGS)?;
        if i32::try_from(self.schema).is_err() {
            return Err(Invalid::Request(format!("schema version {} is over {}", self.schema, i32::MAX)));
        }
        if self.schema == 0 {
            return Err(Invalid::Request("the schema versions of an event are counted from 1".into()));
        }
        self.data.tags.iter().try_for_each(Tag::check)
    }
}

/// An event in the log: what, where, when, by whom and why.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recorded<E> {
    /// The id it was appended with.
    pub id: Uuid,
    /// The stream it is in.
    pub stream: StreamId,
    /// Its place in the stream, from 1.
    pub version: Version,
    /// Its place in the log, from 1.
    pub position: Position,
    /// When the store recorded it. Never goes back along positions.
    pub recorded_at: Timestamp,
    /// When it happened, if the writer gave that, else when it was recorded.
    pub occurred_at: Timestamp,
    /// The version of the form it is stored in.
    pub schema: u32,
    /// Who asked, and why.
    pub metadata: Metadata,
    /// What happened.
    pub data: E,
    /// Why the event cannot be decoded, regardless of its body.
    damage: Option<Arc<str>>,
}

impl<E> Recorded<E> {
    #[doc(hidden)]
    pub fn with<F>(&self, data: F) -> Recorded<F> {
        Recorded {
            id: self.id,
            stream: self.stream.clone(),
            version: self.version,
            position: self.position,
            recorded_at: self.recorded_at,
            occurred_at: self.occurred_at,
            schema: self.schema,
            metadata: self.metadata.clone(),
            data,
            damage: self.damage.clone(),
        }
    }
}

impl Recorded<Raw> {
    /// Returns an event of a [bare](crate::Read::bare) read: without an id, instants, tags and metadata. The store sets
    /// its position afterwards.
    pub fn bare(stream: StreamId, version: Version, name: Arc<str>, schema: u32, body: Vec<u8>) -> Self {
        Self {
            id: Uuid::nil(),
            stream,
            version,
            position: Position(0),
            recorded_at: Timestamp::default(),
            occurred_at: Timestamp::default(),
            schema,
            metadata: Metadata::default(),
            data: Raw { name, tags: vec![], body },
            damage: None,
        }
    }

    /// Marks an event of which a store cannot return every part. The event keeps its place and can be read raw;
    /// decoding it fails with [`EventError::Damaged`]. So an event that something other than this library wrote stops
    /// only the readers and processors of that event. Of several reasons the first is kept.
    pub fn damaged(mut self, why: impl fmt::Display) -> Self {
        self.damage.get_or_insert_with(|| why.to_string().into());
        self
    }

    /// Whether it is [damaged](Self::damaged).
    pub(crate) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// Decodes the body as `E`: one event, or as many as its upcast makes of it, all at the same place. Fails with
    /// [`EventError`].
    pub fn decode<E: Event>(&self) -> Result<Vec<Recorded<E>>, EventError> {
        let mut events = Vec::with_capacity(1);
        self.decode_each(|data| events.push(self.with(data)))?;
        Ok(events)
    }

    /// As [`decode`](Self::decode), without a copy if it is one event: returns the first event, and pushes the others.
    /// Fails with [`StoreError::Unreadable`].
    pub(crate) fn decode_into<E: Event>(
        self,
        others: &mut VecDeque<Recorded<E>>,
    ) -> Result<Option<Recorded<E>>, StoreError> {
        let mut first = None;
        let decoded = self.decode_each(|data| match first {
            None => first = Some(data),
            Some(_) => others.push_back(self.with(data)),
        });
        decoded.map_err(|source| StoreError::unreadable(&self, source))?;
        let Self { id, stream, version, position, recorded_at, occurred_at, schema, metadata, damage, .. } = self;
        let recorded =
            |data| Recorded { id, stream, version, position, recorded_at, occurred_at, schema, metadata, data, damage };
        Ok(first.map(recorded))
    }

    pub(crate) fn decode_each<E: Event>(&self, mut push: impl FnMut(E)) -> Result<(), EventError> {
        if let Some(damage) = &self.damage {
            return Err(EventError::Damaged(damage.clone()));
        }
        E::decode(&self.data.name, self.schema, &self.data.body, &mut push)
    }
}

impl StoreError {
    /// Returns the error for an event that cannot be decoded.
    pub fn unreadable(event: &Recorded<Raw>, reason: EventError) -> Self {
        Self::Unreadable { stream: event.stream.clone(), version: event.version, reason }
    }
}
