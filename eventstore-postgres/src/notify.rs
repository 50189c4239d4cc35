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

use crate::{lines::Line, read, session::Session, shared::Shared};

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
    /// The last position this store has recorded.
    recorded: Position,
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
        let state = State { recorded, telling: false, following: 0, left, watching: None };
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

    /// Has others told that the log goes this far, without waiting for it.
    pub(crate) fn tell(shared: &Arc<Shared>, last: Position) {
        let mut state = shared.notify.state();
        if last <= state.recorded {
            return;
        }
        state.recorded = last;
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
        let mut told = Position(0);
        while let Some(last) = self.news(told) {
            // Whatever comes of it: who is not told looks.
            told = last;
            let silence = match timeout(PATIENCE, self.tell(last)).await {
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

    /// How far the log goes, if that is news; else it is over.
    fn news(&mut self, told: Position) -> Option<Position> {
        let mut state = self.shared.notify.state();
        state.telling = state.recorded > told;
        self.over = !state.telling;
        state.telling.then_some(state.recorded)
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
    head: watch::Receiver<Position>,
    ear: Ear,
    /// Whether it could not listen when it last tried.
    refused: bool,
    /// Closes when this ends, however it ends.
    _watching: watch::Sender<()>,
}

/// Whether it hears notifications.
enum Ear {
    Listens(PgListener),
    /// It will know in a moment.
    Tries(BoxFuture<'static, Result<PgListener, sqlx::Error>>),
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
            if let Some(head) = head {
                shared.heard(head);
            }
            if matches!(self.ear, Ear::Deaf(Some(at)) if at <= Instant::now()) {
                let options = shared.pool.connect_options();
                self.ear = Ear::Tries(listen(options, shared.notify.channel.clone()).boxed());
            }
            drop(shared);
            let news = head > Some(known) || matches!(self.ear, Ear::Listens(_));
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
        let head = sqlx::query_scalar(shared.sql.head());
        let head: i64 = match &mut self.ear {
            Ear::Listens(listener) => match timeout(PATIENCE, head.fetch_one(listener)).await {
                Ok(Ok(head)) => head,
                _ => {
                    self.ear = Ear::Deaf(Some(Instant::now()));
                    return None;
                }
            },
            _ => head.fetch_one(&mut *Session::free(shared).await.ok()?).await.ok()?,
        };
        read::position(head).ok()
    }

    /// Waits for a reason to look.
    async fn wait(&mut self, pause: Duration) {
        let head = &self.head;
        match &mut self.ear {
            Ear::Listens(listener) => {
                let told = async {
                    while let Ok(Some(told)) = listener.try_recv().await {
                        if told.payload().parse().is_ok_and(|told| Position(told) > *head.borrow()) {
                            return true;
                        }
                    }
                    false
                };
                if timeout(LISTENING_PAUSE, told).await == Ok(false) {
                    self.ear = Ear::Deaf(Some(Instant::now()));
                }
            }
            Ear::Tries(listening) => match select(listening, pin!(sleep(pause))).await {
                Either::Left((Ok(listener), _)) => {
                    self.refused = false;
                    self.ear = Ear::Listens(listener);
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
