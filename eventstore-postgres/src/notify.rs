//! Wakes those who follow the log from other processes, and is woken by theirs. A notification is a reason to look, and
//! no more: nobody believes what it says, and whoever follows looks from time to time anyway.

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
    AssertSqlSafe, Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{head::Known, lines::Line, read, session::Session, shared::Shared};

/// How long a store is silent after it has told others; what it records meanwhile it tells them together. At one
/// millisecond, appends were 5 % slower; at two, no slower than they vary.
const SILENCE: Duration = Duration::from_millis(2);
/// The same, after that failed.
const LONG_SILENCE: Duration = Duration::from_millis(100);
/// How long after one look at the head the next one comes if nobody tells: while nothing can be heard, at first and in
/// the end; while it can.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const LISTENING_PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for the server before it counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long after listening failed it is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one goes on watching when nobody waits for news any more.
const LINGER: Duration = Duration::from_secs(5);

/// What a store tells others, and hears from them.
pub(crate) struct Notify {
    channel: String,
    /// Whether it may have a connection for listening.
    listens: bool,
    state: Mutex<State>,
}

struct State {
    /// The last position this store has recorded, on the server of today.
    recorded: Position,
    server: u64,
    /// Whether somebody is about to tell others.
    telling: bool,
    /// How many wait for news.
    following: usize,
    /// When the last of them went.
    left: Instant,
    /// Whether somebody watches the log, as long as the channel is open.
    watching: Option<(AbortHandle, watch::Receiver<()>)>,
}

impl Notify {
    pub(crate) fn new(schema: &str, listens: bool) -> Self {
        let (recorded, left) = (Position(0), Instant::now());
        let state = State { recorded, server: 0, telling: false, following: 0, left, watching: None };
        Self { channel: channel(schema), listens, state: Mutex::new(state) }
    }

    /// Whether it may have a connection for listening.
    pub(crate) fn listens(&self) -> bool {
        self.listens
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has others told that the log of a server goes this far, without waiting for it.
    pub(crate) fn tell(shared: &Arc<Shared>, server: u64, last: Position) {
        let mut state = shared.notify.state();
        if server < state.server || server == state.server && last <= state.recorded {
            return;
        }
        // Another server may lack the end of the log, and gets positions again that were told of before.
        (state.recorded, state.server) = (last, server);
        if state.telling {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            state.telling = true;
            drop(state);
            runtime.spawn(Telling { shared: shared.clone(), over: false }.run());
        }
    }

    /// Has the log watched until this is dropped; if the channel closes before, nobody does.
    pub(crate) fn follow(shared: &Arc<Shared>) -> (Following<'_>, watch::Receiver<()>) {
        // Here, where nothing has been counted yet: it panics outside of a runtime.
        let runtime = Handle::current();
        let mut state = shared.notify.state();
        state.following += 1;
        let watched = match &state.watching {
            Some((_, watched)) if watched.has_changed().is_ok() => watched.clone(),
            // The runtime of whoever did it may have ended.
            _ => {
                let (watching, watched) = watch::channel(());
                let task = runtime.spawn(Watch::new(shared, watching).run());
                state.watching = Some((task.abort_handle(), watched.clone()));
                watched
            }
        };
        drop(state);
        (Following { notify: &shared.notify }, watched)
    }
}

impl Notify {
    /// Ends the task that watches the log, and with it the connection it listens on.
    pub(crate) fn stop(&self) {
        if let Some((task, _)) = self.state().watching.take() {
            task.abort();
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.stop();
    }
}

fn statement(channel: &str, position: Position) -> AssertSqlSafe<String> {
    let template = include_str!("../sql/notify.sql");
    AssertSqlSafe(template.replace("{channel}", channel).replace("{position}", &position.0.to_string()))
}

/// The channel of a log: names of channels have 63 bytes at most, and so have those of schemas.
fn channel(schema: &str) -> String {
    let channel = format!("eventstore:{schema}");
    if channel.len() <= 63 {
        return channel;
    }
    format!("eventstore:{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, schema.as_bytes()).simple())
}

/// Somebody who waits for news.
pub(crate) struct Following<'a> {
    notify: &'a Notify,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let mut state = self.notify.state();
        state.following -= 1;
        state.left = Instant::now();
    }
}

/// The duty to tell others.
struct Telling {
    shared: Arc<Shared>,
    over: bool,
}

impl Telling {
    /// Once, and again as long as more was recorded meanwhile.
    async fn run(mut self) {
        let mut told = (0, Position(0));
        while let Some(news) = self.news(told) {
            // Whatever comes of it: who is not told looks.
            told = news;
            let silence = match timeout(PATIENCE, self.tell(news.1)).await {
                Ok(Ok(())) => SILENCE,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "others were not told of an append");
                    LONG_SILENCE
                }
                Err(_) => LONG_SILENCE,
            };
            sleep(silence).await;
        }
    }

    /// How far the log of which server goes, if that is news; else it is over.
    fn news(&mut self, told: (u64, Position)) -> Option<(u64, Position)> {
        let mut state = self.shared.notify.state();
        let news = (state.server, state.recorded);
        state.telling = news > told;
        self.over = !state.telling;
        state.telling.then_some(news)
    }

    async fn tell(&self, last: Position) -> Result<(), sqlx::Error> {
        let mut line = Line::beside(&self.shared).await?;
        sqlx::raw_sql(statement(&self.shared.notify.channel, last)).execute(&mut *line).await?;
        line.keep();
        Ok(())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The runtime has ended in the middle of it: the next append begins again.
        if !self.over {
            self.shared.notify.state().telling = false;
        }
    }
}

/// Watches the log for all who wait for news, as long as there are some.
struct Watch {
    shared: Weak<Shared>,
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
    fn new(shared: &Arc<Shared>, watching: watch::Sender<()>) -> Self {
        let ear = Ear::Deaf(shared.notify.listens.then(Instant::now));
        Self { shared: Arc::downgrade(shared), head: shared.head.subscribe(), ear, refused: false, _watching: watching }
    }

    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while let Some(shared) = self.wanted() {
            let known = *self.head.borrow();
            let head = self.look(&shared).await;
            if matches!(self.ear, Ear::Deaf(Some(at)) if at <= Instant::now()) {
                let options = shared.pool.connect_options();
                self.ear = Ear::Tries(listen(options, shared.notify.channel.clone()).boxed(), shared.head.server());
            }
            drop(shared);
            let news = head > Some(known.position) || matches!(self.ear, Ear::Listens(..));
            pause = if news { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            self.wait(pause).await;
        }
    }

    /// The store, unless no caller has waited for a while or the store was closed.
    fn wanted(&self) -> Option<Arc<Shared>> {
        let shared = self.shared.upgrade().filter(|shared| !shared.pool.is_closed())?;
        let mut state = shared.notify.state();
        if state.following == 0 && state.left.elapsed() > LINGER {
            state.watching = None;
            return None;
        }
        drop(state);
        Some(shared)
    }

    /// Looks how far the log goes. By the connection it listens on, if it does: so it also sees whether that still lives.
    async fn look(&mut self, shared: &Arc<Shared>) -> Option<Position> {
        let query = sqlx::query_scalar(shared.sql.head());
        let (server, known, head): (u64, Position, i64) = match &mut self.ear {
            Ear::Listens(listener, server) => {
                let known = shared.head.known(*server);
                match timeout(PATIENCE, query.fetch_one(listener)).await {
                    Ok(Ok(head)) if *server == shared.head.server() => (*server, known, head),
                    // It is gone, or is not the server of today.
                    _ => {
                        self.ear = Ear::Deaf(Some(Instant::now()));
                        return None;
                    }
                }
            }
            _ => {
                let mut session = Session::free(shared).await.ok()?;
                let server = session.server();
                (server, shared.head.known(server), query.fetch_one(&mut *session).await.ok()?)
            }
        };
        let head = read::position(head).ok()?;
        shared.head.seen(server, known, head);
        shared.head.heard(server, head);
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
