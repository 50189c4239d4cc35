//! Watches the head of the log for the readers of this process that wait for new events: receives the notifications
//! that `notify.rs` sends, and reads the head from time to time.

use std::{
    mem::replace,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use eventstore_core::Position;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    db::Db,
    head::KnownHead,
    notify::{Notify, SERVER_TIMEOUT, statement},
    read,
    session::Session,
};

/// The pause between two reads of the head without a notification. While the store receives no notifications it grows
/// from the first to the longest; while it does, it is the last of the three.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LISTENING_PAUSE: Duration = Duration::from_secs(1);
/// The pause after LISTEN failed, before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long the task goes on after the last reader has left.
const LINGER: Duration = Duration::from_secs(5);

/// Watches the head on behalf of the waiting readers of a store.
pub(crate) struct Listener {
    db: Arc<Db>,
    notify: Arc<Notify>,
    /// Whether the store may open a connection for LISTEN.
    listens: bool,
    watchers: Mutex<Watchers>,
}

struct Watchers {
    /// How many readers wait.
    waiting: usize,
    /// When the last reader left.
    last_left_at: Instant,
    /// The task that watches the log; it runs as long as the channel is open.
    watching: Option<(AbortHandle, watch::Receiver<()>)>,
}

impl Listener {
    pub(crate) fn new(db: Arc<Db>, notify: Arc<Notify>, listens: bool) -> Self {
        let watchers = Watchers { waiting: 0, last_left_at: Instant::now(), watching: None };
        Self { db, notify, listens, watchers: Mutex::new(watchers) }
    }

    /// Whether the store may open a connection for LISTEN.
    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        // Nothing that can panic happens while it is held.
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the log watched until the guard is dropped. The channel closes if the task ends before.
    pub(crate) fn watch(self: &Arc<Self>) -> (WaitingReader<'_>, watch::Receiver<()>) {
        // Before the reader is counted, because this panics outside of a runtime.
        let runtime = Handle::current();
        let mut watchers = self.watchers();
        watchers.waiting += 1;
        let watched = match &watchers.watching {
            Some((_, watched)) if watched.has_changed().is_ok() => watched.clone(),
            // No task runs, or its runtime has ended.
            _ => {
                let (watching, watched) = watch::channel(());
                let task = runtime.spawn(HeadWatch::new(self, watching).run());
                watchers.watching = Some((task.abort_handle(), watched.clone()));
                watched
            }
        };
        drop(watchers);
        (WaitingReader { listener: self }, watched)
    }
}

impl Listener {
    /// Ends the task that watches the log, which closes its connection for LISTEN.
    pub(crate) fn stop(&self) {
        if let Some((task, _)) = self.watchers().watching.take() {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A reader that waits for new events.
pub(crate) struct WaitingReader<'a> {
    listener: &'a Listener,
}

impl Drop for WaitingReader<'_> {
    fn drop(&mut self) {
        let mut watchers = self.listener.watchers();
        watchers.waiting -= 1;
        watchers.last_left_at = Instant::now();
    }
}

/// The task that watches the log for all waiting readers, as long as there are any.
struct HeadWatch {
    listener: Weak<Listener>,
    /// The head that this process knows.
    head: watch::Receiver<KnownHead>,
    notifications: Notifications,
    /// Whether the last attempt to listen failed.
    failed_before: bool,
    /// Closes when the task ends, for any reason.
    _watching: watch::Sender<()>,
}

/// Whether the task receives notifications.
enum Notifications {
    /// It does, on this server.
    On(PgListener, u64),
    /// The connection is being opened. The server is the one that was present before that began.
    Starting(BoxFuture<'static, Result<PgListener, sqlx::Error>>, u64),
    /// It does not. The next attempt is at this time, if ever.
    Off(Option<Instant>),
}

impl HeadWatch {
    fn new(listener: &Arc<Listener>, watching: watch::Sender<()>) -> Self {
        let notifications = Notifications::Off(listener.listens.then(Instant::now));
        Self {
            listener: Arc::downgrade(listener),
            head: listener.db.head.subscribe(),
            notifications,
            failed_before: false,
            _watching: watching,
        }
    }

    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while let Some(listener) = self.listener_if_needed() {
            let known = *self.head.borrow();
            let head = self.read_head(&listener).await;
            if matches!(self.notifications, Notifications::Off(Some(at)) if at <= Instant::now()) {
                let options = listener.db.pool.connect_options();
                self.notifications = Notifications::Starting(
                    listen(options, listener.notify.channel().to_owned()).boxed(),
                    listener.db.head.server(),
                );
            }
            drop(listener);
            let news = head > Some(known.position) || matches!(self.notifications, Notifications::On(..));
            pause = if news { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            self.wait_for_reason(pause).await;
        }
    }

    /// Returns the listener, unless no reader has waited for [`LINGER`] or the store is closed.
    fn listener_if_needed(&self) -> Option<Arc<Listener>> {
        let listener = self.listener.upgrade().filter(|listener| !listener.db.pool.is_closed())?;
        let mut watchers = listener.watchers();
        if watchers.waiting == 0 && watchers.last_left_at.elapsed() > LINGER {
            watchers.watching = None;
            return None;
        }
        drop(watchers);
        Some(listener)
    }

    /// Reads the head, over the connection for LISTEN if there is one, which also shows whether that connection is
    /// alive.
    async fn read_head(&mut self, listener: &Listener) -> Option<Position> {
        let db = &listener.db;
        let query = sqlx::query_scalar(db.sql.head());
        let (server, known, head): (u64, Position, i64) = match &mut self.notifications {
            Notifications::On(connection, server) => {
                let known = db.head.known(*server);
                match timeout(SERVER_TIMEOUT, query.fetch_one(connection)).await {
                    Ok(Ok(head)) if *server == db.head.server() => (*server, known, head),
                    // The connection broke, or leads to a former server.
                    _ => {
                        self.notifications = Notifications::Off(Some(Instant::now()));
                        return None;
                    }
                }
            }
            _ => {
                let mut session = Session::acquire(db, &listener.notify).await.ok()?;
                let server = session.server();
                (server, db.head.known(server), query.fetch_one(&mut *session).await.ok()?)
            }
        };
        let head = read::position(head).ok()?;
        db.head.check_end(server, known, head);
        db.head.raise(server, head);
        Some(head)
    }

    /// Waits until the head is to be read again: a notification, or the end of the pause.
    async fn wait_for_reason(&mut self, pause: Duration) {
        let head = &self.head;
        match &mut self.notifications {
            Notifications::On(listener, _) => {
                let notified = async {
                    while let Ok(Some(notification)) = listener.try_recv().await {
                        if notification.payload().parse().is_ok_and(|last| Position(last) > head.borrow().position) {
                            return true;
                        }
                    }
                    false
                };
                if timeout(LISTENING_PAUSE, notified).await == Ok(false) {
                    self.notifications = Notifications::Off(Some(Instant::now()));
                }
            }
            &mut Notifications::Starting(ref mut listening, server) => {
                match select(listening, pin!(sleep(pause))).await {
                    Either::Left((Ok(listener), _)) => {
                        self.failed_before = false;
                        self.notifications = Notifications::On(listener, server);
                    }
                    Either::Left((Err(error), _)) => {
                        // Logged once, not with every attempt.
                        if !replace(&mut self.failed_before, true) {
                            tracing::warn!(%error, "no notifications are received: the head is read periodically instead");
                        }
                        self.notifications = Notifications::Off(Some(Instant::now() + RETRY_PAUSE));
                    }
                    Either::Right(_) => {}
                }
            }
            Notifications::Off(_) => sleep(pause).await,
        }
    }
}

/// Opens a connection, listens on it, and receives a notification of its own: a proxy between may accept LISTEN without
/// keeping it.
async fn listen(options: Arc<PgConnectOptions>, channel: String) -> Result<PgListener, sqlx::Error> {
    let pool =
        PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None).acquire_timeout(SERVER_TIMEOUT);
    let mut listener = PgListener::connect_with(&pool.connect_lazy_with((*options).clone())).await?;
    // A broken connection is opened again by this function, with the same test.
    listener.eager_reconnect(false);
    let received = async {
        listener.listen(&channel).await?;
        listener.execute(sqlx::raw_sql(statement(&channel, Position(0)))).await?;
        listener.try_recv().await
    };
    match timeout(SERVER_TIMEOUT, received).await {
        Ok(Ok(Some(_))) => Ok(listener),
        Ok(Err(error)) => Err(error),
        _ => Err(sqlx::Error::Protocol("the connection for LISTEN does not receive its own notification".into())),
    }
}
