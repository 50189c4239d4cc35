//! Watches the log for those who wait for news in this process: hears the notifications of `notify.rs`, and looks from
//! time to time.

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
    head::Known,
    notify::{Notify, PATIENCE, statement},
    read,
    session::Session,
};

/// How long after one look at the head the next one comes without a notification: while nothing can be heard, at first and in
/// the end; while it can.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LISTENING_PAUSE: Duration = Duration::from_secs(1);
/// How long after listening failed it is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one goes on watching when no caller waits for news any more.
const LINGER: Duration = Duration::from_secs(5);

/// What a store hears from others.
pub(crate) struct Listener {
    db: Arc<Db>,
    notify: Arc<Notify>,
    /// Whether it may have a connection for listening.
    listens: bool,
    state: Mutex<State>,
}

struct State {
    /// How many wait for news.
    following: usize,
    /// When the last of them went.
    left: Instant,
    /// Whether a task watches the log, as long as the channel is open.
    watching: Option<(AbortHandle, watch::Receiver<()>)>,
}

impl Listener {
    pub(crate) fn new(db: Arc<Db>, notify: Arc<Notify>, listens: bool) -> Self {
        let state = State { following: 0, left: Instant::now(), watching: None };
        Self { db, notify, listens, state: Mutex::new(state) }
    }

    /// Whether it may have a connection for listening.
    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the log watched until this is dropped; if the channel closes before, no task does.
    pub(crate) fn follow(self: &Arc<Self>) -> (Following<'_>, watch::Receiver<()>) {
        // Here, where nothing has been counted yet: it panics outside of a runtime.
        let runtime = Handle::current();
        let mut state = self.state();
        state.following += 1;
        let watched = match &state.watching {
            Some((_, watched)) if watched.has_changed().is_ok() => watched.clone(),
            // The runtime of the task that did it may have ended.
            _ => {
                let (watching, watched) = watch::channel(());
                let task = runtime.spawn(Watch::new(self, watching).run());
                state.watching = Some((task.abort_handle(), watched.clone()));
                watched
            }
        };
        drop(state);
        (Following { listener: self }, watched)
    }
}

impl Listener {
    /// Ends the task that watches the log, and with it the connection it listens on.
    pub(crate) fn stop(&self) {
        if let Some((task, _)) = self.state().watching.take() {
            task.abort();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A caller that waits for news.
pub(crate) struct Following<'a> {
    listener: &'a Listener,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let mut state = self.listener.state();
        state.following -= 1;
        state.left = Instant::now();
    }
}

/// Watches the log for all who wait for news, as long as there are some.
struct Watch {
    listener: Weak<Listener>,
    /// What this process knows of the head.
    head: watch::Receiver<Known>,
    ear: Ear,
    /// Whether it could not listen when it last tried.
    refused: bool,
    /// Closes when this ends, however it ends.
    _watching: watch::Sender<()>,
}

/// Whether it hears notifications.
enum Ear {
    /// And on which server.
    Listens(PgListener, u64),
    /// It will know in a moment. The server is that of the moment before it began.
    Tries(BoxFuture<'static, Result<PgListener, sqlx::Error>>, u64),
    /// It tries from then on, if ever.
    Deaf(Option<Instant>),
}

impl Watch {
    fn new(listener: &Arc<Listener>, watching: watch::Sender<()>) -> Self {
        let ear = Ear::Deaf(listener.listens.then(Instant::now));
        Self {
            listener: Arc::downgrade(listener),
            head: listener.db.head.subscribe(),
            ear,
            refused: false,
            _watching: watching,
        }
    }

    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while let Some(listener) = self.wanted() {
            let known = *self.head.borrow();
            let head = self.look(&listener).await;
            if matches!(self.ear, Ear::Deaf(Some(at)) if at <= Instant::now()) {
                let options = listener.db.pool.connect_options();
                self.ear = Ear::Tries(
                    listen(options, listener.notify.channel().to_owned()).boxed(),
                    listener.db.head.server(),
                );
            }
            drop(listener);
            let news = head > Some(known.position) || matches!(self.ear, Ear::Listens(..));
            pause = if news { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            self.wait(pause).await;
        }
    }

    /// The store, unless no caller has waited for a while or the store was closed.
    fn wanted(&self) -> Option<Arc<Listener>> {
        let listener = self.listener.upgrade().filter(|listener| !listener.db.pool.is_closed())?;
        let mut state = listener.state();
        if state.following == 0 && state.left.elapsed() > LINGER {
            state.watching = None;
            return None;
        }
        drop(state);
        Some(listener)
    }

    /// Looks how far the log goes. By the connection it listens on, if it does: so it also sees whether that still lives.
    async fn look(&mut self, listener: &Listener) -> Option<Position> {
        let db = &listener.db;
        let query = sqlx::query_scalar(db.sql.head());
        let (server, known, head): (u64, Position, i64) = match &mut self.ear {
            Ear::Listens(connection, server) => {
                let known = db.head.known(*server);
                match timeout(PATIENCE, query.fetch_one(connection)).await {
                    Ok(Ok(head)) if *server == db.head.server() => (*server, known, head),
                    // It is gone, or is not the server of today.
                    _ => {
                        self.ear = Ear::Deaf(Some(Instant::now()));
                        return None;
                    }
                }
            }
            _ => {
                let mut session = Session::free(db, &listener.notify).await.ok()?;
                let server = session.server();
                (server, db.head.known(server), query.fetch_one(&mut *session).await.ok()?)
            }
        };
        let head = read::position(head).ok()?;
        db.head.seen(server, known, head);
        db.head.heard(server, head);
        Some(head)
    }

    /// Waits for a reason to look.
    async fn wait(&mut self, pause: Duration) {
        let head = &self.head;
        match &mut self.ear {
            Ear::Listens(listener, _) => {
                let told = async {
                    while let Ok(Some(told)) = listener.try_recv().await {
                        if told.payload().parse().is_ok_and(|told| Position(told) > head.borrow().position) {
                            return true;
                        }
                    }
                    false
                };
                if timeout(LISTENING_PAUSE, told).await == Ok(false) {
                    self.ear = Ear::Deaf(Some(Instant::now()));
                }
            }
            &mut Ear::Tries(ref mut listening, server) => match select(listening, pin!(sleep(pause))).await {
                Either::Left((Ok(listener), _)) => {
                    self.refused = false;
                    self.ear = Ear::Listens(listener, server);
                }
                Either::Left((Err(error), _)) => {
                    // Once, not every few seconds.
                    if !replace(&mut self.refused, true) {
                        tracing::warn!(%error, "notifications cannot be heard: what others append is looked for");
                    }
                    self.ear = Ear::Deaf(Some(Instant::now() + AGAIN));
                }
                Either::Right(_) => {}
            },
            Ear::Deaf(_) => sleep(pause).await,
        }
    }
}

/// Listens on a connection of its own, and has heard itself: there may be something in between that takes a LISTEN and
/// cannot keep it.
async fn listen(options: Arc<PgConnectOptions>, channel: String) -> Result<PgListener, sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None).acquire_timeout(PATIENCE);
    let mut listener = PgListener::connect_with(&pool.connect_lazy_with((*options).clone())).await?;
    // A new one is made as this one was.
    listener.eager_reconnect(false);
    let heard = async {
        listener.listen(&channel).await?;
        listener.execute(sqlx::raw_sql(statement(&channel, Position(0)))).await?;
        listener.try_recv().await
    };
    match timeout(PATIENCE, heard).await {
        Ok(Ok(Some(_))) => Ok(listener),
        Ok(Err(error)) => Err(error),
        _ => Err(sqlx::Error::Protocol("it does not hear what it tells itself".into())),
    }
}
