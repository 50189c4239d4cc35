//! What follows the log of [eventstore](https://docs.rs/eventstore): read models, and projections in SQL of one's own,
//! each event counted exactly once; and subscriptions, each event handed over at least once.

mod admission;
mod answer;
mod ask;
mod compare;
mod control;
mod failed;
mod follower;
mod holds;
mod inline;
mod letters;
mod measure;
mod names;
mod node;
mod nodes;
mod operate;
mod options;
mod projection;
mod promote;
mod queue;
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

pub use compare::{Comparison, Difference};
pub use follower::StartFrom;
pub use inline::Inline;
pub use operate::{DeadLetters, Projections};
pub use projection::Projection;
pub use requests::TryRun;
pub use runner::{Runner, Running};
pub use status::{State, Status};
pub use subscription::Subscription;
pub use versions::{Progress, Rebuild};
