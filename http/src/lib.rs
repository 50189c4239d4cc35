//! HTTP for [eventstore](https://docs.rs/eventstore-rs) with [axum](https://docs.rs/axum): headers with which a client
//! is served once, changes only the state it has seen, and reads its own writes; and errors as problem details.
//!
//! | header of a request | extractor | what the handler does with it |
//! |---|---|---|
//! | `Idempotency-Key` | [`CommandId`] | `.command_id(id.scoped(user))`: the command is recorded once |
//! | `If-Match` | [`IfMatch`] | `.expecting(seen.version()?)`: another version is 412 |
//! | `If-None-Match` | [`IfNoneMatch`] | `seen.matches(tag)`: 304 |
//! | `ES-Position` | [`AfterPosition`] | `.after(seen.position(&store).await?)`: the rows include that position |
//!
//! | part of a response | type |
//! |---|---|
//! | `ETag` | [`EntityTag`] |
//! | `ES-Position` | [`AtPosition`] |
//! | an error | [`Problem`] |

mod command_id;
mod entity_tag;
mod header;
mod position;
mod problem;

pub use command_id::CommandId;
pub use entity_tag::{EntityTag, IfMatch, IfNoneMatch};
pub use position::{AfterPosition, AtPosition};
pub use problem::Problem;

#[cfg(doctest)]
#[doc = include_str!("../../docs/http.md")]
mod guide {}
