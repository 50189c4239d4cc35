//! A store that forgets when the program ends: the reference for all others, and the one for tests.

mod log;
mod shared;
mod store;
mod tables;
mod transaction;

pub use shared::MemoryStore;
