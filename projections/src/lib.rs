//! Read models and projections in SQL for [eventstore](https://docs.rs/eventstore): rows and tables made of events.
//! Each event is counted exactly once, asynchronously or in the transaction of each append.

mod compare;
mod inline;
mod projection;
mod promote;
mod read_model;
mod runs;
mod versions;

pub use compare::{Comparison, Difference};
pub use inline::Inline;
pub use projection::Projection;
pub use runs::RunReadModels;
pub use versions::ReadModelVersions;
