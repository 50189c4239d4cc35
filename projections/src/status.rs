//! How far a read model or projection has come.

use std::{error::Error, sync::Arc};

use eventstore_core::{Position, StoreError};

use crate::failed::Failed;

/// How far one read model or projection has come, and what holds it up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Its name: `balance@1`, `ledger`.
    pub name: String,
    /// How far it has come.
    pub position: Position,
    /// What holds it up: the event it fails on, and why. It tries again, unless it is stopped.
    pub error: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up: its code, not the world, must be mended.
    pub stopped: bool,
}

impl Status {
    pub(crate) fn new(name: String) -> Self {
        Self { name, position: Position(0), error: None, stopped: false }
    }

    /// It does not run: there is one of this name already.
    pub(crate) fn twice(name: String) -> Self {
        let error = Failed::theirs("this runner has one of this name already: take one out, or rename it".into());
        Self { name, position: Position(0), error: Some(Arc::new(error)), stopped: true }
    }

    pub(crate) fn behind(&self, until: Position) -> StoreError {
        let projection = self.name.clone();
        let reason = self.error.clone().map(Into::into);
        match reason {
            Some(reason) if self.stopped => StoreError::Stopped { projection, reason },
            reason => StoreError::Behind { projection, at: self.position, until, reason },
        }
    }
}
