//! How far a read model or projection has come.

use std::{error::Error, sync::Arc};

use eventstore_core::{Position, StoreError};

/// How far one read model or projection has come, and what holds it up.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Its name: `balance@1`, `ledger`.
    pub name: String,
    /// How far it has come.
    pub position: Position,
    /// What holds it up. It tries again, unless it is stopped.
    pub error: Option<Arc<dyn Error + Send + Sync>>,
    /// Whether it has given up: its code, not the world, must be mended.
    pub stopped: bool,
}

impl Status {
    pub(crate) fn new(name: String) -> Self {
        Self { name, position: Position(0), error: None, stopped: false }
    }

    pub(crate) fn behind(&self, until: Position) -> StoreError {
        let projection = self.name.clone();
        let source = self.error.clone().map(Into::into);
        match source {
            Some(source) if self.stopped => StoreError::Stopped { projection, source },
            source => StoreError::Behind { projection, at: self.position, until, source },
        }
    }
}
