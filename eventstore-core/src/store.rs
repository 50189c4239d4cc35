//! The store that programs work with: the same type over every database.

use std::{fmt, sync::Arc, time::Duration};

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    cause::Cause,
    contract::{Append, EventStore, Prefix, Query, Read, Written},
    doctor::Report,
    error::{Conflict, StoreError},
    event::{Raw, Recorded},
    identity::{Identity, Token},
    known::{Built, Runs},
    limits,
    reads::{Basis, Reads},
    snapshot::Snapshots,
    stream::{Position, StreamHead, Version},
    timestamp::Timestamp,
    trace,
    turns::Turns,
};

/// How long [`Store::close`] waits for the snapshots that are being written.
const CLOSING: Duration = Duration::from_secs(10);

/// The store that programs work with: cheap to clone, the same type over every database.
///
/// Every future and stream it returns is `Send` and `'static`, so it can be spawned, and can be dropped at any await
/// without leaving anything open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn EventStore>,
    source: Option<Arc<str>>,
    snapshots: Arc<Snapshots>,
    running: Arc<Runs>,
    built: Arc<Built>,
    turns: Arc<Turns>,
    /// In a transaction: its reads, until it has checked them.
    reads: Option<Arc<Reads>>,
}

impl<S: EventStore> From<S> for Store {
    fn from(store: S) -> Self {
        Self::from(Arc::new(store) as Arc<dyn EventStore>)
    }
}

impl From<Arc<dyn EventStore>> for Store {
    fn from(inner: Arc<dyn EventStore>) -> Self {
        let (snapshots, running, built, turns) = Default::default();
        Self { inner, source: None, snapshots, running, built, turns, reads: None }
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
    /// Returns the same store, which adds the name of the recording program to every event: `$source` in the metadata.
    pub fn with_source(mut self, source: &str) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the position of the last event; 0 if there is none.
    pub async fn head(&self) -> Result<Position, StoreError> {
        let read = Read { query: Query::all(), limit: Some(0), ..Read::default() };
        Ok(self.inner.read(read).await?.head)
    }

    /// Returns the streams of a category, ordered by key byte by byte, each with the place of its last event.
    ///
    /// The streams are read in pages of 1,000, each as it is at that moment: a stream that begins meanwhile is returned
    /// if its key comes after the pages read so far. Fails with [`Invalid`](StoreError::Invalid) if the category breaks
    /// the rules for names.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// use futures::TryStreamExt;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// # store.execute(Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
    /// let mut accounts = store.streams("account");
    /// while let Some(head) = accounts.try_next().await? {
    ///     println!("{} has {} events", head.stream.key(), head.version);
    /// #   assert_eq!(head.stream, Id::<Account>::from("ann"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn streams(&self, category: impl Into<String>) -> BoxStream<'static, Result<StreamHead, StoreError>> {
        const PAGE: usize = 1_000;
        let (store, category) = (self.shared(), category.into());
        let pages = stream::try_unfold(Some(String::new()), move |after| {
            let (store, category) = (store.clone(), category.clone());
            async move {
                let Some(after) = after else { return Ok(None) };
                limits::plain("category", &category)?;
                let page = store.streams(&category, &after, PAGE).await?;
                let last = page.last().filter(|_| page.len() == PAGE).map(|last| last.stream.key().to_owned());
                Ok::<_, StoreError>(Some((stream::iter(page.into_iter().map(Ok)), last)))
            }
        });
        pages.try_flatten().boxed()
    }

    /// Returns the event with an id, as it is stored; `None` if no event has the id. [`decode`](Recorded::decode) reads
    /// its body.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/bank.rs"));
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = eventstore::connect("memory:").await?;
    /// let done = store.execute(Id::<Account>::from("ann"), Deposit { amount: 100 }).await?;
    /// let event = store.event(done.events[0].id).await?.expect("it was recorded");
    /// assert_eq!((event.position, &*event.data.name), (done.position, "account.deposited"));
    /// assert_eq!(event.decode::<AccountEvent>()?[0].data, Deposited { amount: 100 });
    /// # Ok(())
    /// # }
    /// ```
    pub async fn event(&self, id: Uuid) -> Result<Option<Recorded<Raw>>, StoreError> {
        Ok(self.inner.recorded(vec![id]).await?.pop())
    }

    /// Returns the last position recorded at or before an instant. For an instant that is over it never changes: the
    /// store waits for an open append that may have been stamped by then, and fails with [`Busy`](StoreError::Busy)
    /// after ten seconds. [`prefix_at`](Self::prefix_at) also says whether the position is final.
    pub async fn position_at(&self, time: impl Into<std::time::SystemTime>) -> Result<Position, StoreError> {
        self.inner.position_at(Timestamp::from(time.into())).await
    }

    /// As [`position_at`](Self::position_at), and whether the position is final. It is not for an instant that is not
    /// over yet, nor where the store cannot wait for an open append (a replica, a file that can only be read).
    pub async fn prefix_at(&self, time: impl Into<std::time::SystemTime>) -> Result<Prefix, StoreError> {
        self.inner.prefix_at(Timestamp::from(time.into())).await
    }

    /// Returns a report of what makes the database an unsafe or a slow place for a log. It is for a person to read:
    /// print it.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use eventstore::doctor::Severity;
    ///
    /// let store = eventstore::connect("memory:").await?;
    /// let report = store.doctor().await?;
    /// println!("{report}");
    /// assert!(report.severity() < Severity::Danger);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn doctor(&self) -> Result<Report, StoreError> {
        self.inner.doctor().await
    }

    /// Closes the store: waits for the calls that have begun, and closes the connections. With SQLite, the database
    /// file alone is whole then, unless another process has it open. A program that drops its store instead loses
    /// nothing that was acknowledged.
    ///
    /// It is for the end of a program: stop its runners first. From then on this store and its clones fail with
    /// [`Denied`](StoreError::Denied); a store in memory has nothing to close. Fails with [`Busy`](StoreError::Busy) if
    /// calls are not done after ten seconds; `close` may be called again.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = eventstore::connect("memory:").await?;
    /// store.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) -> Result<(), StoreError> {
        // A snapshot is never needed, so the wait for it is bounded as the rest is.
        let _ = timeout(CLOSING, self.finish_snapshots()).await;
        self.inner.close().await
    }

    /// Adds the names of the events in between to a conflict that is about to be reported. They may be read later: a
    /// stream up to a version never changes.
    pub(crate) async fn explained(&self, mut conflict: Conflict) -> Conflict {
        let names = conflict.events().min(Conflict::NAMES as u64);
        if names > 0 {
            let after_version = Version(conflict.actual.0 - names);
            let (query, until_version) = (Query::of(&conflict.stream), Some(conflict.actual));
            let read = Read { query, after_version, until_version, limit: Some(Conflict::NAMES), ..Read::default() };
            let read =
                async { self.inner.read(read).await?.events.map_ok(|event| event.data.name).try_collect().await };
            // If the read fails, the caller gets the conflict without the names.
            conflict.between = read.await.unwrap_or_else(|_: StoreError| vec![]);
        }
        conflict
    }

    pub(crate) fn inner(&self) -> &dyn EventStore {
        &*self.inner
    }

    #[doc(hidden)]
    pub fn shared(&self) -> Arc<dyn EventStore> {
        self.inner.clone()
    }

    /// For an engine: returns this store over another, which wraps it.
    #[doc(hidden)]
    pub fn through(&self, inner: Arc<dyn EventStore>) -> Self {
        Self { inner, ..self.clone() }
    }

    /// Appends to the store, in a span.
    pub(crate) async fn append_in_span(&self, append: Append) -> Result<Written, StoreError> {
        let span = trace::append(&append);
        let written = self.inner.append(append).instrument(span.clone()).await;
        span.record("outcome", trace::of_append(&written));
        written
    }

    /// For an engine: returns this store without the layers over it.
    #[doc(hidden)]
    pub fn beneath(&self) -> Self {
        self.inner.beneath().map_or_else(|| self.clone(), |base| self.through(base).beneath())
    }

    /// Returns this store over a transaction of it, which remembers what is read in it.
    pub(crate) fn over(&self, inner: Arc<dyn EventStore>, reads: Arc<Reads>) -> Self {
        let (source, running, built) = (self.source.clone(), self.running.clone(), self.built.clone());
        // A transaction has turns of its own: a command outside of it may hold a turn while it waits for the lock of
        // the transaction.
        let (snapshots, turns) = Default::default();
        Self { inner, source, snapshots, running, built, turns, reads: Some(reads) }
    }

    /// In a transaction, remembers what a state was made of.
    pub(crate) fn remember(&self, basis: impl FnOnce() -> Basis) {
        if let Some(reads) = &self.reads {
            reads.remember(basis);
        }
    }

    pub(crate) fn snapshots(&self) -> &Arc<Snapshots> {
        &self.snapshots
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(crate) fn whole(&self) -> &Built {
        &self.built
    }

    pub(crate) fn running(&self) -> &Runs {
        &self.running
    }

    /// Returns the name of the recording program, if [`with_source`](Self::with_source) gave it.
    pub fn source(&self) -> Option<&str> {
        self.source.as_deref()
    }

    pub(crate) fn cause(&self) -> Cause {
        Cause::new(self.source.as_deref().map(str::to_owned))
    }
}

impl Store {
    /// Returns which log this is.
    pub async fn identity(&self) -> Result<Identity, StoreError> {
        self.inner.identity().await
    }

    /// Returns the token of a position of this log, to be given to other programs; [`position_of`](Self::position_of)
    /// takes it back.
    pub async fn token(&self, position: Position) -> Result<Token, StoreError> {
        let Identity { id, epoch, .. } = self.identity().await?;
        Ok(Token { log: id, epoch, position })
    }

    /// Returns the position of a token. Fails with [`StoreError::Forked`] if the token is of another log or of another
    /// epoch of this log, or if the log ends before the position. A replica may not have reached the position yet.
    pub async fn position_of(&self, token: &Token) -> Result<Position, StoreError> {
        let Identity { id, epoch, .. } = self.identity().await?;
        if (token.log, token.epoch) != (id, epoch) {
            return Err(StoreError::Forked { position: token.position, event: None });
        }
        self.reached(token.position).await?;
        Ok(token.position)
    }

    /// Fails with [`StoreError::Forked`] if the log ends before a position. Returns whether the position can be read
    /// here: a replica may lack events that are recorded.
    pub(crate) async fn reached(&self, position: Position) -> Result<bool, StoreError> {
        if position <= self.head().await? {
            return Ok(true);
        }
        match self.inner.is_replica().await? {
            true => Ok(false),
            false => Err(StoreError::Forked { position, event: None }),
        }
    }
}
