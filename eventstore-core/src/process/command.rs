//! Commands that are stored, or sent to another program.

use std::fmt::Debug;

use crate::error::EventError;

/// A command with a stored name, for [asking](crate::ask) another service or for a schedule. Derive it.
///
/// A command that is only [sent](crate::send) needs no name: only the events it causes are stored.
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

    /// Returns its body as JSON. Fails with [`EventError`] if the body cannot be written.
    fn encode(&self) -> Result<Vec<u8>, EventError>;

    /// Reads a stored body of any version up to [`VERSION`](Self::VERSION). Fails with [`EventError`] if the body
    /// cannot be read.
    fn decode(version: u32, body: &[u8]) -> Result<Self, EventError>;
}
