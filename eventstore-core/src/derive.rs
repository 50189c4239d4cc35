//! What derives ask of the types of fields: traits of other crates, in our words where a type lacks them.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    encode::encode,
    event::EventError,
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

/// What a body is read as: the fields of an event, or an earlier form of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from the log",
    label = "cannot be read from JSON",
    note = "derive serde's `Deserialize` for it and for what is in it"
)]
pub trait Form<'a>: Deserialize<'a> {}

#[diagnostic::do_not_recommend]
impl<'a, T: Deserialize<'a>> Form<'a> for T {}

/// The way back from `encode`.
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
    /// The key of the tag.
    fn tag_key(&self) -> String;
}

#[diagnostic::do_not_recommend]
impl<T: fmt::Display> TagKey for T {
    fn tag_key(&self) -> String {
        self.to_string()
    }
}

/// A field of an aggregate.
#[diagnostic::on_unimplemented(
    message = "an aggregate cannot start with `{Self}`, which has no default",
    label = "no `Default`",
    note = "derive `Default` for it; or, where there is none before the first event, make it an `Option`",
    note = "the aggregate's own id is marked `#[aggregate(id)]`"
)]
pub trait Blank {
    /// Its value before the first event.
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
    /// A copy of the id.
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
    label = "cannot be cloned, written as JSON and read back",
    note = "derive `Clone` and serde's `Serialize` and `Deserialize` for it, and serde's for what is in it"
)]
pub trait SagaState: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> SagaState for T {}

/// What an instance of a saga is before its first event.
#[diagnostic::on_unimplemented(
    message = "an instance of `{Self}` cannot begin, since `{Self}` has no default",
    label = "no `Default`",
    note = "derive `Default` for it; the default variant of an enum is marked `#[default]`"
)]
pub trait Beginning {
    /// The state before the first event.
    fn beginning() -> Self;
}

#[diagnostic::do_not_recommend]
impl<T: Default> Beginning for T {
    fn beginning() -> Self {
        T::default()
    }
}

/// A command that is stored.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored as a command",
    label = "cannot be cloned, compared, printed, written as JSON and read back",
    note = "derive `Clone`, `Debug`, `PartialEq` and serde's `Serialize` and `Deserialize` for it, and for what is in it"
)]
pub trait CommandBody: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Clone + fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static> CommandBody for T {}

/// A stored state of today's version.
pub fn open_state<S: Saga>(version: u32, state: &[u8]) -> Result<S, EventError> {
    match version {
        version if version == S::VERSION => Ok(serde_json::from_slice(state)?),
        version => Err(EventError::Schema(S::NAME.into(), version)),
    }
}

/// A stored command of today's version.
pub fn open_command<C: Command>(version: u32, body: &[u8]) -> Result<C, EventError> {
    match version {
        version if version == C::VERSION => Ok(serde_json::from_slice(body)?),
        version => Err(EventError::Schema(C::NAME.into(), version)),
    }
}

/// Snapshots as JSON.
pub const fn snapshot<T: Kept>(kind: &'static str, take: SnapshotPolicy, shape: u64) -> Snapshot<T> {
    Snapshot { kind, take, shape, save: encode::<T>, load: |bytes| Ok(serde_json::from_slice(bytes)?) }
}
