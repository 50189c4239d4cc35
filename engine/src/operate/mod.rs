//! What operators tell processors, from any process; the nodes that run them obey.

pub(crate) mod ask;
pub mod dead_letters;
pub mod processors;
pub mod rebuild;
pub(crate) mod reshard;
