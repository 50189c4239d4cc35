//! What the engine keeps in a store: the tables of processors and of dead letters, and the shards of a processor.
//!
//! Unstable: for the engine crate and for the stores only. A release may change everything here without notice.

pub(crate) mod dead_letters;
mod interned;
pub(crate) mod processors;
pub(crate) mod shard;

pub use dead_letters::{LETTERS, Sweep, parked, swept, swept_within};
pub use interned::interned;
pub use processors::{PROCESSORS, ProcessorRow, ProcessorState, check_name};

pub use crate::table::SHADOW;
pub use crate::{
    error::{Brief, Chain, below},
    release::is_at_least,
};
