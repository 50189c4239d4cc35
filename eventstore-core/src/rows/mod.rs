//! Questions to a read model: for rows as they are, as they were, and how they came to be; from its table, or from the
//! log.

mod after;
mod get;
mod list;
mod models;
mod replay;

pub use get::Get;
pub use list::{List, RowPage};
pub use models::{Moment, ReadModels};
pub use replay::Replay;
