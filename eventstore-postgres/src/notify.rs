//! Wakes those who follow the log from other processes. A notification is a reason to look, and no more: no reader
//! believes what it says, and each looks from time to time anyway. `listen.rs` is woken by it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventstore_core::Position;
use sqlx::AssertSqlSafe;
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::connections::{Connections, Dedicated};

/// How long a store is silent after it has told others; what it records meanwhile it tells them together. At one
/// millisecond, appends were 5 % slower; at two, no slower than they vary.
const SILENCE: Duration = Duration::from_millis(2);
/// The same, after that failed.
const LONG_SILENCE: Duration = Duration::from_millis(100);
/// How long to wait for the server before it counts as gone.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);

/// What a store tells others.
pub(crate) struct Notify {
    connections: Arc<Connections>,
    channel: String,
    state: Mutex<State>,
}

struct State {
    /// The last position this store has recorded, on the server of today.
    recorded: Position,
    server: u64,
    /// Whether a task is about to tell others.
    telling: bool,
}

impl Notify {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        let channel = channel(connections.db.sql.schema());
        Self { connections, channel, state: Mutex::new(State { recorded: Position(0), server: 0, telling: false }) }
    }

    /// The channel of the log.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic happens while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what this store has recorded on a server, and has others told.
    pub(crate) fn recorded(self: &Arc<Self>, server: u64, last: Position) {
        self.connections.db.head.heard(server, last);
        self.tell(server, last);
    }

    /// Has others told that the log of a server goes this far, without waiting for it.
    fn tell(self: &Arc<Self>, server: u64, last: Position) {
        let mut state = self.state();
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
            runtime.spawn(Telling { notify: self.clone(), over: false }.run());
        }
    }
}

pub(crate) fn statement(channel: &str, position: Position) -> AssertSqlSafe<String> {
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

/// The duty to tell others.
struct Telling {
    notify: Arc<Notify>,
    over: bool,
}

impl Telling {
    /// Once, and again as long as more was recorded meanwhile.
    async fn run(mut self) {
        let mut told = (0, Position(0));
        while let Some(news) = self.news(told) {
            // Whatever comes of it: who is not told looks.
            told = news;
            let silence = match timeout(PATIENCE, self.tell_once(news.1)).await {
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
        let mut state = self.notify.state();
        let news = (state.server, state.recorded);
        state.telling = news > told;
        self.over = !state.telling;
        state.telling.then_some(news)
    }

    async fn tell_once(&self, last: Position) -> Result<(), sqlx::Error> {
        let mut connection = Dedicated::beside(&self.notify.connections).await?;
        sqlx::raw_sql(statement(&self.notify.channel, last)).execute(&mut *connection).await?;
        connection.keep();
        Ok(())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The runtime has ended in the middle of it: the next append begins again.
        if !self.over {
            self.notify.state().telling = false;
        }
    }
}
