//! What this process knows of projections: what it runs, what holds that up, and which tables it has seen whole.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;

use crate::timestamp::Timestamp;

/// What is known of a projection that this process runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// What holds it up.
    pub(crate) reason: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up.
    pub(crate) stopped: bool,
}

/// By the name of the projection.
#[derive(Default)]
pub(crate) struct Runs(Mutex<HashMap<String, Run>>);

impl Runs {
    pub(crate) fn all(&self) -> MutexGuard<'_, HashMap<String, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which build of a table its rows are of: one that was removed and is built again, or that took another's place, is
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub(crate) struct Build {
    since: Timestamp,
    pub(crate) target: u64,
    pub(crate) built_at: Option<Timestamp>,
}

/// The builds of tables that this process has seen whole, by the names of the tables; none where nothing is said of a table,
/// and so what is there is what it is.
#[derive(Default)]
pub(crate) struct Built(pub(crate) Mutex<HashMap<String, Option<Build>>>);
