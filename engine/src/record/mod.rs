//! What is stored of processors next to their rows and checkpoints: one file a table. Nothing here runs. Fallible
//! functions return the errors of the store, and [`StoreError::Row`](eventstore_core::StoreError::Row) for a row that
//! cannot be written or read.

pub mod dead_letters;
pub mod holds;
pub mod instances;
pub mod names;
pub mod nodes;
pub mod queue;
pub mod reads;
pub mod requests;
mod rows;

pub use rows::{
    PROCESSORS, ProcessorState, Row, all, begin, begin_again, change, first, if_built, key, known, later, list,
    mark_built, put, read_rows, row, rows, turn_to, update, whole, write,
};
pub(crate) use rows::{delete, lenient, update_if, upsert};
