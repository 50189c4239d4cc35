//! Queries of a read model: its rows as they are, as they were, and their history; from its table or from the log.

mod after;
mod get;
mod list;
mod models;
mod replay;

pub use get::Get;
pub use list::{List, RowPage};
pub use models::{Moment, ReadModels};
pub use replay::Replay;
