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

/// How long a store that is closed waits for the snapshots that are being written.
const CLOSING: Duration = Duration::from_secs(10);

/// The store that programs work with: cheap to clone, the same type over every database.
///
/// Everything it gives is `Send` and `'static`, so it can be spawned; and everything can be dropped at any await
/// without leaving anything open.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn EventStore>,
    source: Option<Arc<str>>,
    snapshots: Arc<Snapshots>,
    running: Arc<Runs>,
    built: Arc<Built>,
    turns: Arc<Turns>,
    /// What has been read, in a transaction that may yet rely on it.
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

    /// The streams of a category, in the order of their keys, byte by byte; each with the place of its last event.
    ///
    /// Read page by page, each as it is at that moment: a stream that begins meanwhile is among them if its key is still
    /// to come.
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

    /// The event with an id, as it is stored; none, if no event has it. [`decode`](Recorded::decode) reads its body.
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

    /// The last position recorded at or before an instant. For an instant that is over the answer never changes: an append
    /// that is open and may have been stamped by then is waited for, [`Busy`](StoreError::Busy) after ten seconds. See
    /// [`prefix_at`](Self::prefix_at) for whether it is final.
    pub async fn position_at(&self, time: impl Into<std::time::SystemTime>) -> Result<Position, StoreError> {
        self.inner.position_at(Timestamp::from(time.into())).await
    }

    /// The same, and whether it is final: it is not for an instant that is not over yet, nor where an open append cannot
    /// be waited for (a replica, a file that can only be read).
    pub async fn prefix_at(&self, time: impl Into<std::time::SystemTime>) -> Result<Prefix, StoreError> {
        self.inner.prefix_at(Timestamp::from(time.into())).await
    }

    /// Looks at the database and says what makes it an unsafe or a slow place for a log. For a person to read: print
    /// it.
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

    /// Closes the store: waits until what has begun is done, and closes its connections. In SQLite the file alone is whole
    /// then. A program that drops its store instead loses nothing that was acknowledged.
    ///
    /// It is for the end of a program: stop its runners first. The clones of this store cannot be
    /// used either from then on: [`Denied`](StoreError::Denied); a store in memory has nothing to close. What is not done
    /// after ten seconds is [`Busy`](StoreError::Busy), and `close` may be called again.
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
        // A snapshot is never needed, so it is not waited for any longer than the rest.
        let _ = timeout(CLOSING, self.finish_snapshots()).await;
        self.inner.close().await
    }

    /// A conflict that is about to be reported, with the names of the events in between. What is in a stream up to a
    /// version never changes, so it is no matter how much later they are read.
    pub(crate) async fn explained(&self, mut conflict: Conflict) -> Conflict {
        let names = conflict.events().min(Conflict::NAMES as u64);
        if names > 0 {
            let after_version = Version(conflict.actual.0 - names);
            let (query, until_version) = (Query::of(&conflict.stream), Some(conflict.actual));
            let read = Read { query, after_version, until_version, limit: Some(Conflict::NAMES), ..Read::default() };
            let read =
                async { self.inner.read(read).await?.events.map_ok(|event| event.data.name).try_collect().await };
            // The conflict is the answer, with them or without.
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

    /// For an engine: the same over another store, which wraps this one.
    #[doc(hidden)]
    pub fn through(&self, inner: Arc<dyn EventStore>) -> Self {
        Self { inner, ..self.clone() }
    }

    /// Appends to the store, in a span.
    pub(crate) async fn record(&self, append: Append) -> Result<Written, StoreError> {
        let span = trace::append(&append);
        let recorded = async {
            let written = self.inner.append(append).await;
            trace::outcome(trace::of_append(&written));
            written
        };
        recorded.instrument(span).await
    }

    /// For an engine: the same without the layers over it.
    #[doc(hidden)]
    pub fn beneath(&self) -> Self {
        self.inner.beneath().map_or_else(|| self.clone(), |base| self.through(base).beneath())
    }

    /// The same over another store: a transaction of this one, which remembers what is read in it.
    pub(crate) fn over(&self, inner: Arc<dyn EventStore>, reads: Arc<Reads>) -> Self {
        let (source, running, built) = (self.source.clone(), self.running.clone(), self.built.clone());
        // A transaction takes turns of its own: a command outside of it may have a turn and wait for the transaction's lock.
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

    pub(crate) fn cause(&self) -> Cause {
        Cause::new(self.source.as_deref().map(str::to_owned))
    }
}

impl Store {
    /// Which log it is.
    pub async fn identity(&self) -> Result<Identity, StoreError> {
        self.inner.identity().await
    }

    /// A position of this log, to be given to others; [`position_of`](Self::position_of) takes it back.
    pub async fn token(&self, position: Position) -> Result<Token, StoreError> {
        let Identity { id, epoch, .. } = self.identity().await?;
        Ok(Token { log: id, epoch, position })
    }

    /// The position of a token. [`StoreError::Forked`] if it is of another log or of another epoch of this one, or if the
    /// log ends before it. A replica may not have come so far yet.
    pub async fn position_of(&self, token: &Token) -> Result<Position, StoreError> {
        let Identity { id, epoch, .. } = self.identity().await?;
        if (token.log, token.epoch) != (id, epoch) {
            return Err(StoreError::Forked { position: token.position, event: None });
        }
        self.reached(token.position).await?;
        Ok(token.position)
    }

    /// Fails with [`StoreError::Forked`] if the log ends before a position. Returns whether it can be seen here: a replica
    /// may lack what is recorded.
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
