//! The errors, sorted by what the caller can do about them.

use std::error::Error;

mod below;
mod command;
mod conflict;
mod event;
mod parked;
mod store;

pub use below::{Unavailable, below};
pub use command::{CommandError, Refusal};
pub use conflict::Conflict;
pub use event::EventError;
pub use parked::ParkedKeys;
pub use store::{Blame, Brief, Chain, StoreError};

/// Any error of user code or of a driver.
pub type BoxError = Box<dyn Error + Send + Sync>;
