//! Connections: those the store keeps for its hot paths, for the pool asks the server about each that is given back, which
//! would cost a round trip for every load and every append; and those of the pool.

use std::{
    collections::VecDeque,
    io,
    ops::{Deref, DerefMut},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::{Either, select};
use sqlx::{ConnectOptions, Connection, PgConnection, Postgres, pool::PoolConnection, postgres::PgConnectOptions};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{session::Pooler, shared::Shared};

/// How long a connection may be idle before it is asked whether it still lives: a server that was stopped meanwhile is
/// noticed before anything is sent that may or may not be recorded.
pub(crate) const ASSUMED_ALIVE: Duration = Duration::from_secs(1);
/// How long a caller waits for a connection, or for an answer to that question.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How often the server is asked whether it takes connections, while one of the pool is waited for.
const LOOK: Duration = Duration::from_millis(250);

/// Connections of the store's own.
pub(crate) struct Lines {
    /// The one that was used last is used next: what its session has in its caches is worth much.
    idle: Mutex<VecDeque<Idle>>,
    open: AtomicUsize,
    /// How many there may be.
    limit: usize,
}

struct Idle {
    connection: PgConnection,
    /// Which server it leads to.
    server: u64,
    since: Instant,
}

impl Lines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { idle: Mutex::default(), open: AtomicUsize::new(0), limit }
    }

    /// How many there may be besides the pool's.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // Nothing that can panic happens while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes those that are idle. No other is opened once the pool is closed.
    pub(crate) async fn close(&self) {
        loop {
            let Some(idle) = self.idle().pop_back() else { return };
            // An error says that it is closed already.
            let _ = idle.connection.close().await;
        }
    }

    /// Whether another may be opened: then it counts.
    fn another(&self) -> bool {
        let more = |open| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A connection for one operation, and for the next one once it is [kept](Self::keep). Dropped in the middle of an
/// operation it is closed: nobody gets one that waits for an answer.
pub(crate) enum Line {
    Own(PgConnection, Counted),
    Pooled(PoolConnection<Postgres>, u64),
}

/// A connection that counts as open.
pub(crate) struct Counted {
    shared: Arc<Shared>,
    closes: bool,
    /// Whether it is used for what is no part of an append or a load.
    beside: bool,
    server: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.closes {
            self.shared.lines.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Line {
    /// A connection of the store's own, if one is idle or may be opened, else one of the pool.
    pub(crate) async fn free(shared: &Arc<Shared>) -> Result<Self, sqlx::Error> {
        Self::take(shared, false).await
    }

    /// The same for what is done beside appends and loads: the one that was used longest ago, and it stays that.
    pub(crate) async fn beside(shared: &Arc<Shared>) -> Result<Self, sqlx::Error> {
        Self::take(shared, true).await
    }

    async fn take(shared: &Arc<Shared>, beside: bool) -> Result<Self, sqlx::Error> {
        if shared.pool.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let counted = |server| Counted { shared: shared.clone(), closes: true, beside, server };
        loop {
            let idle = match beside {
                true => shared.lines.idle().pop_front(),
                false => shared.lines.idle().pop_back(),
            };
            let Some(Idle { mut connection, server, since }) = idle else { break };
            let counted = counted(server);
            let lives = async {
                shared.head.trusts(since.elapsed()) || matches!(timeout(PATIENCE, connection.ping()).await, Ok(Ok(())))
            };
            // What leads to another server than that of today is closed.
            if server == shared.head.server() && lives.await {
                return Ok(Self::Own(connection, counted));
            }
        }
        if !shared.lines.another() {
            let (connection, server) = pooled(shared).await?;
            return Ok(Self::Pooled(connection, server));
        }
        let mut counted = counted(0);
        let mut connection = connect(&shared.pool.connect_options()).await?;
        let setup = if shared.pooler == Pooler::None { include_str!("../sql/own_session.sql") } else { "" };
        shared.head.meet(&mut connection, &shared.types, &shared.sql, setup).await?;
        counted.server = shared.head.server();
        Ok(Self::Own(connection, counted))
    }

    /// Which server it leads to.
    pub(crate) fn server(&self) -> u64 {
        match self {
            Self::Own(_, counted) => counted.server,
            Self::Pooled(_, server) => *server,
        }
    }

    /// For the next operation: this one is over, whatever came of it.
    pub(crate) fn keep(self) {
        if let Self::Own(connection, mut counted) = self {
            if counted.shared.pool.is_closed() {
                return;
            }
            counted.closes = false;
            let kept = Idle { connection, server: counted.server, since: Instant::now() };
            let mut idle = counted.shared.lines.idle();
            match counted.beside {
                true => idle.push_front(kept),
                false => idle.push_back(kept),
            }
        }
    }

    /// Not for another operation: its session is not one to work with.
    pub(crate) fn close(self) {
        if let Self::Pooled(mut connection, _) = self {
            connection.close_on_drop();
        }
    }
}

impl Deref for Line {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection, _) => connection,
        }
    }
}

impl DerefMut for Line {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match self {
            Self::Own(connection, _) => connection,
            Self::Pooled(connection, _) => connection,
        }
    }
}

/// A new connection, or an error within the time that a caller waits.
pub(crate) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
    timeout(PATIENCE, options.connect()).await.unwrap_or_else(|_| Err(late().into()))
}

/// A connection of the pool, and which server it leads to. While the server refuses connections the pool would try again
/// until its own patience ends; the caller is told at once.
pub(crate) async fn pooled(shared: &Shared) -> Result<(PoolConnection<Postgres>, u64), sqlx::Error> {
    let pool = &shared.pool;
    let refused = async {
        loop {
            sleep(LOOK / 10).await;
            // All are in use, or one is being opened.
            if pool.num_idle() == 0
                && let Err(error) = reach(&pool.connect_options()).await
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                return error;
            }
            sleep(LOOK).await;
        }
    };
    match select(pin!(pool.acquire()), pin!(refused)).await {
        Either::Left((acquired, _)) => Ok((acquired?, shared.head.server())),
        Either::Right((error, _)) => Err(error.into()),
    }
}

/// Whether the server takes a connection; it is closed before anything is said.
async fn reach(options: &PgConnectOptions) -> io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = folder(options) {
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        return tokio::net::UnixStream::connect(socket).await.map(drop);
    }
    TcpStream::connect((options.get_host(), options.get_port())).await.map(drop)
}

/// The folder of the server's socket, if that is the way to it.
#[cfg(unix)]
fn folder(options: &PgConnectOptions) -> Option<std::path::PathBuf> {
    let host = || options.get_host().starts_with('/').then(|| options.get_host().into());
    options.get_socket().cloned().or_else(host)
}
