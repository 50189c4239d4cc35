//! What follows the log of [eventstore](https://docs.rs/eventstore): read models, and projections in SQL of one's own,
//! each event counted exactly once.

mod failed;
mod follower;
mod projection;
mod read_model;
mod runner;
mod status;

pub use projection::Projection;
pub use runner::{Runner, Running};
pub use status::Status;
