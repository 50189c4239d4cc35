//! Commands that are stored, or cross to another program.

use std::fmt::Debug;

use crate::error::EventError;

/// A command with a stored name: one that is [asked](crate::ask) of another service, or scheduled. Derive it.
///
/// A command that is only [sent](crate::send) needs no name: nothing of it is stored but the events it caused.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no stored name",
    label = "not a `Command`",
    note = "add `#[derive(Command)]` to `{Self}`"
)]
pub trait Command: Clone + Debug + PartialEq + Send + Sync + 'static {
    /// The stored name, `payments.charge`. Part of stored data.
    const NAME: &'static str;
    /// The version of its stored form.
    const VERSION: u32 = 1;

    /// Its body as JSON.
    fn encode(&self) -> Result<Vec<u8>, EventError>;

    /// Reads a stored body of any version up to [`VERSION`](Self::VERSION).
    fn decode(version: u32, body: &[u8]) -> Result<Self, EventError>;
}
