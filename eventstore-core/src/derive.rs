//! The traits that derives require of the types of fields: traits of other crates, with our own message if a type lacks
//! one.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::EventError,
    event::Tagged,
    json::{encode, encode_state},
    process::{Command, Saga},
    snapshot::{Snapshot, SnapshotPolicy},
    stream::Id,
};

/// A field of an event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in an event",
    label = "cannot be written as JSON and read back",
    note = "derive serde's `Serialize` and `Deserialize` for it and for what is in it, or say how it is stored with \
            `#[serde(with = \"…\")]` on the field"
)]
pub trait Field: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Field for T {}

/// The type a body is read as: the fields of an event, or an earlier form of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from the log",
    label = "cannot be read from JSON",
    note = "derive serde's `Deserialize` for it and for what is in it"
)]
pub trait Form<'a>: Deserialize<'a> {}

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a>> Form<'a> for T {}

/// Decodes a body that `encode` wrote. Fails with [`EventError::Body`].
pub fn decode<'a, T: Form<'a>>(body: &'a [u8]) -> Result<T, EventError> {
    Ok(serde_json::from_slice(body)?)
}

/// A field marked `#[event(tag = "…")]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a tag",
    label = "not `Display`",
    note = "a tag is kept as text: implement `Display` for it"
)]
pub trait TagKey {
    /// Returns the key of the tag.
    fn tag_key(&self) -> String;
}

#[diagnostic::do_not_recommend]
impl<T: fmt::Display> TagKey for T {
    fn tag_key(&self) -> String {
        self.to_string()
    }
}

/// Returns the name of the tag of a field.
pub const fn tag_of<F, T: Tagged>(_: fn(&F) -> &T) -> &'static str {
    T::TAG
}

/// A field of an aggregate.
#[diagnostic::on_unimplemented(
    message = "an aggregate cannot start with `{Self}`, which has no default",
    label = "no `Default`",
    note = "derive `Default` for it; or, where there is none before the first event, make it an `Option`",
    note = "the aggregate's own id is marked `#[aggregate(id)]`"
)]
pub trait Blank {
    /// Returns its value before the first event.
    fn blank() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> Blank for T {
    fn blank() -> Self {
        T::default()
    }
}

/// The field marked `#[aggregate(id)]`.
#[diagnostic::on_unimplemented(message = "the id of `{A}` is an `Id<{A}>`", label = "not an `Id<{A}>`")]
pub trait OwnId<A> {
    /// Returns a copy of the id.
    fn own(id: &Id<A>) -> Self;
}

impl<A> OwnId<A> for Id<A> {
    fn own(id: &Self) -> Self {
        id.clone()
    }
}

/// A state with snapshots.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be kept in a snapshot",
    label = "cannot be written as JSON and read back",
    note = "derive serde's `Serialize` and `Deserialize` for it and for what is in it"
)]
pub trait Kept: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> Kept for T {}

/// The state of a saga.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the state of a saga",
    label = "cannot be written as JSON and read back",
    note = "derive serde's `Serialize` and `Deserialize` for it and for what is in it"
)]
pub trait SagaState: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> SagaState for T {}

/// A function that writes a value, and one that reads it in its current version.
pub type Codec<T> = (fn(&T) -> Result<Vec<u8>, EventError>, fn(u32, &[u8]) -> Result<T, EventError>);

/// Returns the codec of the state of a saga in its current version.
pub const fn state_codec<S: Saga + SagaState>() -> Codec<S> {
    (encode::<S>, |version, state| today(S::NAME, S::VERSION, version, state))
}

/// Returns the codec of a command in its current version.
pub const fn command_codec<C: Command + CommandBody>() -> Codec<C> {
    (encode::<C>, |version, body| today(C::NAME, C::VERSION, version, body))
}

fn today<T: DeserializeOwned>(name: &str, today: u32, version: u32, bytes: &[u8]) -> Result<T, EventError> {
    if version == today { Ok(serde_json::from_slice(bytes)?) } else { Err(EventError::Schema(name.into(), version)) }
}

/// A command that is stored.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as a command",
    label = "cannot be written as JSON and read back",
    note = "derive serde's `Serialize` and `Deserialize` for it and for what is in it"
)]
pub trait CommandBody: Serialize + DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned> CommandBody for T {}

/// Returns a policy whose snapshots are JSON.
pub const fn snapshot<T: Kept>(kind: &'static str, take: SnapshotPolicy, shape: u64) -> Snapshot<T> {
    Snapshot { kind, take, shape, save: encode_state::<T>, load: |bytes| Ok(serde_json::from_slice(bytes)?) }
}
