//! This process's knowledge of processors: which it runs, which error holds one up, and which tables are whole.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;

use crate::timestamp::Timestamp;

/// The status of a processor that this process runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// The error that holds it up.
    pub(crate) reason: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up.
    pub(crate) stopped: bool,
}

/// By the name of the processor.
#[derive(Default)]
pub(crate) struct Runs(Mutex<HashMap<String, Run>>);

impl Runs {
    pub(crate) fn all(&self) -> MutexGuard<'_, HashMap<String, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The build that the rows of a table are of. A table that was removed and built again is another build, as is one that
/// took the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Build {
    since: Timestamp,
    pub(crate) target: u64,
    pub(crate) built_at: Option<Timestamp>,
}

/// The builds of tables that this process has seen whole, by the names of the tables. `None` for a table without a
/// record of its build, which counts as whole.
#[derive(Default)]
pub(crate) struct Built(pub(crate) Mutex<HashMap<String, Option<Build>>>);
