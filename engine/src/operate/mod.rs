//! What operators say, from any process: the nodes that run a processor obey.

pub(crate) mod ask;
pub mod dead_letters;
pub mod processors;
pub mod rebuild;
pub(crate) mod reshard;
