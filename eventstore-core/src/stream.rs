//! Ids, streams, versions and positions.

use std::{
    cmp::Ordering,
    convert::Infallible,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::{invalid::Invalid, limits};

/// The id of an `A`. It is text, so it can be a UUID, an IBAN or `ACC-42`.
///
/// The type says what it is the id of: an `Id<Account>` cannot be given where an `Id<Customer>` is wanted. Cheap to
/// clone. In JSON it is a string.
///
/// ```
/// # use eventstore_core::Id;
/// # struct Account;
/// let fresh = Id::<Account>::new();
/// let named = Id::<Account>::from("ACC-42");
/// assert_eq!(named.key(), "ACC-42");
/// assert_ne!(fresh, named);
/// ```
pub struct Id<A: ?Sized> {
    key: Arc<str>,
    of: PhantomData<fn() -> A>,
}

impl<A> Id<A> {
    /// Returns a new id: a UUIDv7, so ids made later sort later.
    #[expect(clippy::new_without_default, reason = "two defaults would differ")]
    pub fn new() -> Self {
        Self::from(Uuid::now_v7())
    }

    /// Returns the text of the id: `ACC-42` in the stream `account-ACC-42`.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn from_key(key: Arc<str>) -> Self {
        Self { key, of: PhantomData }
    }
}

impl<A: ?Sized> Id<A> {
    pub(crate) fn shared_key(&self) -> &Arc<str> {
        &self.key
    }
}

impl<A> From<&str> for Id<A> {
    fn from(key: &str) -> Self {
        Self::from_key(key.into())
    }
}

impl<A> From<String> for Id<A> {
    fn from(key: String) -> Self {
        Self::from_key(key.into())
    }
}

impl<A> From<Uuid> for Id<A> {
    fn from(key: Uuid) -> Self {
        let mut text = Uuid::encode_buffer();
        Self::from(&*key.hyphenated().encode_lower(&mut text))
    }
}

impl<A> From<&Id<A>> for Id<A> {
    fn from(id: &Id<A>) -> Self {
        id.clone()
    }
}

impl<A> FromStr for Id<A> {
    type Err = Infallible;

    fn from_str(key: &str) -> Result<Self, Infallible> {
        Ok(key.into())
    }
}

// By hand: a derive would require `A: Clone`, `A: PartialEq`, …
impl<A: ?Sized> Clone for Id<A> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), of: PhantomData }
    }
}

impl<A: ?Sized> PartialEq for Id<A> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<A: ?Sized> Eq for Id<A> {}

impl<A: ?Sized> PartialOrd for Id<A> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<A: ?Sized> Ord for Id<A> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl<A: ?Sized> Hash for Id<A> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl<A: ?Sized> AsRef<str> for Id<A> {
    fn as_ref(&self) -> &str {
        &self.key
    }
}

impl<A: ?Sized> fmt::Display for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.key)
    }
}

impl<A: ?Sized> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.key)
    }
}

impl<A: ?Sized> Serialize for Id<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.key)
    }
}

impl<'de, A> Deserialize<'de> for Id<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A stream's name: the category, a dash, the key. The category has no dash, the key may.
///
/// Making one checks nothing: a store fails with [`Invalid::Name`] at a name it cannot keep, before it reads or writes
/// anything.
///
/// ```
/// # use eventstore_core::StreamId;
/// let stream: StreamId = "account-ACC-42".parse()?;
/// assert_eq!((stream.category(), stream.key()), ("account", "ACC-42"));
/// assert_eq!(stream, StreamId::new("account", "ACC-42"));
/// # Ok::<(), eventstore_core::Invalid>(())
/// ```
#[derive(Clone)]
pub struct StreamId {
    name: Arc<str>,
    category: usize,
}

impl StreamId {
    /// Returns the stream `{category}-{key}`.
    pub fn new(category: &str, key: &str) -> Self {
        let mut name = String::with_capacity(category.len() + 1 + key.len());
        name.push_str(category);
        name.push('-');
        name.push_str(key);
        Self { name: name.into(), category: category.len() }
    }

    /// Returns the category: `account`.
    pub fn category(&self) -> &str {
        &self.name[..self.category]
    }

    /// Returns the key: `ACC-42`.
    pub fn key(&self) -> &str {
        &self.name[self.category + 1..]
    }

    /// Returns the whole name: `account-ACC-42`.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Returns the stream of a stored name. A name without a dash, which no append of this library writes, becomes
    /// `?-{name}`, which no append takes, and is returned with the reason, for
    /// [`Recorded::damaged`](crate::Recorded::damaged).
    pub fn stored(name: &str) -> (Self, Option<Invalid>) {
        match name.parse() {
            Ok(stream) => (stream, None),
            Err(why) => (Self::new(Self::BROKEN, name), Some(why)),
        }
    }

    /// The category of a stored name that has none.
    const BROKEN: &str = "?";

    /// Whether its category and its key are known.
    pub(crate) fn is_whole(&self) -> bool {
        self.category() != Self::BROKEN
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        limits::plain("category", self.category())?;
        limits::name("key", self.key())
    }
}

impl FromStr for StreamId {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        let dash = name.find('-').ok_or_else(|| Invalid::name("stream", name, "has no dash after its category"))?;
        Ok(Self { name: name.into(), category: dash })
    }
}

impl From<&StreamId> for StreamId {
    fn from(stream: &StreamId) -> Self {
        stream.clone()
    }
}

impl PartialEq for StreamId {
    fn eq(&self, other: &Self) -> bool {
        self.category == other.category && self.name == other.name
    }
}

impl Eq for StreamId {}

impl PartialOrd for StreamId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StreamId {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.name, self.category).cmp(&(&other.name, other.category))
    }
}

impl Hash for StreamId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

impl Serialize for StreamId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A stream, and the place of its last event.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamHead {
    /// The stream.
    pub stream: StreamId,
    /// The version of its last event.
    pub version: Version,
    /// The position of its last event.
    pub position: Position,
}

/// The number of events that make a state; for an event, its place in its stream, counted from 1.
///
/// It counts stored events, not the events that upcasts make of them. It goes to a client and back as text, in an
/// `ETag` for example:
///
/// ```
/// # use eventstore_core::Version;
/// let tag = Version(3).to_string();
/// assert_eq!(tag.parse::<Version>()?, Version(3));
/// # Ok::<(), eventstore_core::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// A place in the whole log, counted from 1, without gaps.
///
/// A caller that reads after the position an append returned reads its own writes. Within one log it goes to a client
/// and back as text; a [`Token`](crate::Token) also says which log it is of.
///
/// ```
/// # use eventstore_core::Position;
/// let token = Position(42).to_string();
/// assert_eq!(token.parse::<Position>()?, Position(42));
/// # Ok::<(), eventstore_core::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Version {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        number("version", text).map(Self)
    }
}

impl FromStr for Position {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        number("position", text).map(Self)
    }
}

/// Digits only: `parse` of std would accept a `+` too.
fn number(what: &'static str, text: &str) -> Result<u64, Invalid> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Invalid::name(what, text, "is not a non-negative integer"))
}

/// The condition on a stream to which events are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything, also no stream.
    Any,
    /// The stream has events.
    Exists,
    /// The stream is at this version; 0 if there is no such stream.
    Version(Version),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Exists => f.write_str("a stream with events"),
            Self::Version(Version(0)) => f.write_str("no such stream"),
            Self::Version(version) => write!(f, "version {version}"),
        }
    }
}

impl Expected {
    /// Whether a stream at this version is as expected.
    pub fn holds(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::Exists => actual > Version(0),
            Self::Version(version) => actual == version,
        }
    }
}
