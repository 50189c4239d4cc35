//! The store everybody works with: the same type over every database.

use std::{fmt, sync::Arc};

use crate::{
    cause::Cause,
    error::StoreError,
    runs::Runs,
    store::{EventStore, Query, Read},
    stream::Position,
    timestamp::Timestamp,
};

/// The store everybody works with: cheap to clone, the same type over every database.
///
/// Everything it gives is `Send` and `'static`, so it can be spawned; and everything can be dropped at any await
/// without leaving anything open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn EventStore>,
    source: Option<Arc<str>>,
    running: Arc<Runs>,
}

impl<S: EventStore> From<S> for Store {
    fn from(store: S) -> Self {
        Self::from(Arc::new(store) as Arc<dyn EventStore>)
    }
}

impl From<Arc<dyn EventStore>> for Store {
    fn from(inner: Arc<dyn EventStore>) -> Self {
        Self { inner, source: None, running: Arc::default() }
    }
}

impl AsRef<dyn EventStore> for Store {
    fn as_ref(&self) -> &(dyn EventStore + 'static) {
        &*self.inner
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Store {
    /// The same store, which notes in every event which program recorded it: `$source` in the metadata.
    pub fn with_source(mut self, source: &str) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The position of the last event; 0 if there is none.
    pub async fn head(&self) -> Result<Position, StoreError> {
        let read = Read { query: Query::all(), limit: Some(0), ..Read::default() };
        Ok(self.inner.read(read).await?.head)
    }

    /// The last position recorded at or before an instant.
    ///
    /// An instant that is not before the last event's may still get more events.
    pub async fn position_at(&self, time: impl Into<std::time::SystemTime>) -> Result<Position, StoreError> {
        self.inner.position_at(Timestamp::from(time.into())).await
    }

    pub(crate) fn inner(&self) -> &dyn EventStore {
        &*self.inner
    }

    pub(crate) fn running(&self) -> &Runs {
        &self.running
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause::new(self.source.as_deref().map(str::to_owned))
    }
}
