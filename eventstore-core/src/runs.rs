//! What follows the log in this process, and what holds it up: the runner tells, and reads that wait for it say so.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::handle::Store;

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
    fn all(&self) -> MutexGuard<'_, HashMap<String, Run>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// For a runner: this projection runs here, and this holds it up.
    #[doc(hidden)]
    pub fn runs(&self, projection: &str, reason: Option<Arc<dyn Error + Send + Sync>>, stopped: bool) {
        self.running().all().insert(projection.into(), Run { reason, stopped });
    }

    /// For a runner: this projection runs here no more.
    #[doc(hidden)]
    pub fn runs_no_more(&self, projection: &str) {
        self.running().all().remove(projection);
    }

    /// What is known of a projection, if this process runs it.
    pub(crate) fn run(&self, projection: &str) -> Option<Run> {
        self.running().all().get(projection).cloned()
    }
}
