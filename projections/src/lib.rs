//! What follows the log of [eventstore](https://docs.rs/eventstore): read models, and projections in SQL of one's own,
//! each event counted exactly once; and subscriptions, each event handed over at least once.

mod admission;
mod compare;
mod control;
mod failed;
mod follower;
mod inline;
mod letters;
mod measure;
mod node;
mod operate;
mod projection;
mod read_model;
mod reads;
mod refold;
mod requests;
mod reshard;
mod runner;
mod shard;
mod status;
mod stretch;
mod subscription;
mod tail;
mod versions;

pub use admission::StartFrom;
pub use compare::{Comparison, Difference};
pub use inline::Inline;
pub use operate::{DeadLetters, Projections};
pub use projection::Projection;
pub use requests::TryRun;
pub use runner::{Runner, Running};
pub use status::{State, Status};
pub use subscription::Subscription;
pub use versions::{Progress, Rebuild};
