//! Notifies the readers of other processes of appends, which `listen.rs` receives there. A notification is only a
//! reason to read the head: no reader relies on its content, and each reads the head from time to time anyway.

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

/// The pause after a notification. One notification then covers everything recorded during the pause. With one
/// millisecond, appends were 5 % slower; with two, the difference was within the noise.
const PAUSE: Duration = Duration::from_millis(2);
/// The pause after a notification failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for the server's answer.
pub(crate) const SERVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the notifications of a store.
pub(crate) struct Notify {
    connections: Arc<Connections>,
    channel: String,
    announced: Mutex<Announced>,
}

struct Announced {
    /// The last position that this store has recorded, on `server`.
    recorded: Position,
    server: u64,
    /// Whether a task is sending notifications.
    is_running: bool,
}

impl Notify {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        let channel = channel(connections.db.sql.schema());
        Self {
            connections,
            channel,
            announced: Mutex::new(Announced { recorded: Position(0), server: 0, is_running: false }),
        }
    }

    /// Returns the name of the log's channel.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        // Nothing that can panic happens while it is held.
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the last position this store has recorded on a server, and notifies other processes without waiting for
    /// it.
    pub(crate) fn note_recorded(self: &Arc<Self>, server: u64, last: Position) {
        self.connections.db.head.raise(server, last);
        self.announce(server, last);
    }

    /// Starts a task that sends notifications, unless one runs or the position was announced already.
    fn announce(self: &Arc<Self>, server: u64, last: Position) {
        let mut announced = self.announced();
        if server < announced.server || server == announced.server && last <= announced.recorded {
            return;
        }
        // Another server may lack the end of the log and give positions again that were announced before.
        (announced.recorded, announced.server) = (last, server);
        if announced.is_running {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            announced.is_running = true;
            drop(announced);
            runtime.spawn(NotifyTask { notify: self.clone(), is_over: false }.run());
        }
    }
}

/// Returns the statement that notifies. NOTIFY takes no parameters, so the channel and the position are put into its
/// text: the channel is made of the checked name of the schema, the position is a number.
pub(crate) fn statement(channel: &str, position: Position) -> AssertSqlSafe<String> {
    let template = include_str!("../sql/notify.sql");
    AssertSqlSafe(template.replace("{channel}", channel).replace("{position}", &position.0.to_string()))
}

/// Returns the channel of a log. Names of channels have at most 63 bytes, as those of schemas have, so a long schema is
/// hashed.
fn channel(schema: &str) -> String {
    let channel = format!("eventstore:{schema}");
    if channel.len() <= 63 {
        return channel;
    }
    format!("eventstore:{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, schema.as_bytes()).simple())
}

/// The task that sends notifications.
struct NotifyTask {
    notify: Arc<Notify>,
    is_over: bool,
}

impl NotifyTask {
    /// Sends a notification, and another as long as more was recorded meanwhile.
    async fn run(mut self) {
        let mut sent = (0, Position(0));
        while let Some(next) = self.next(sent) {
            // Also if sending fails: readers read the head anyway.
            sent = next;
            let pause = match timeout(SERVER_TIMEOUT, self.send_notification(next.1)).await {
                Ok(Ok(())) => PAUSE,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "other processes were not notified of an append");
                    FAILURE_PAUSE
                }
                Err(_) => FAILURE_PAUSE,
            };
            sleep(pause).await;
        }
    }

    /// Returns the last position recorded and its server, if it was not announced yet. Otherwise the task ends.
    fn next(&mut self, sent: (u64, Position)) -> Option<(u64, Position)> {
        let mut announced = self.notify.announced();
        let next = (announced.server, announced.recorded);
        announced.is_running = next > sent;
        self.is_over = !announced.is_running;
        announced.is_running.then_some(next)
    }

    async fn send_notification(&self, last: Position) -> Result<(), sqlx::Error> {
        let mut connection = Dedicated::acquire_for_background(&self.notify.connections).await?;
        sqlx::raw_sql(statement(&self.notify.channel, last)).execute(&mut *connection).await?;
        connection.keep();
        Ok(())
    }
}

impl Drop for NotifyTask {
    fn drop(&mut self) {
        // The runtime has ended before the task: the next append starts another.
        if !self.is_over {
            self.notify.announced().is_running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_has_a_channel_of_its_own_whose_name_the_server_does_not_cut() {
        assert_eq!(channel("bank"), "eventstore:bank");
        let longest = "b".repeat(63);
        let schemas = [&longest[..52], &longest[..53], &longest[..62], &longest];
        let channels = schemas.map(channel);
        assert_eq!(channels[0], format!("eventstore:{}", schemas[0]), "63 bytes are not too many");
        for (n, name) in channels.iter().enumerate() {
            assert!(name.len() <= 63, "{name}");
            assert!(!channels[..n].contains(name), "{name}");
        }
    }
}
