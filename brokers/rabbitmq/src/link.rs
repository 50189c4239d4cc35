//! A connection that is opened again when it is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use eventstore_messaging::BusError;
use lapin::{
    Channel, Connection, ConnectionProperties, Error, ErrorKind,
    protocol::{AMQPErrorKind, AMQPSoftError},
    uri::AMQPUri,
};
use tokio::sync::Mutex;

/// How long an attempt to connect, and a request, may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long is waited between attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that is opened again when it is lost.
pub struct Link {
    uri: AMQPUri,
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// When the next attempt is due, and the pause behind that.
    next: Option<(Instant, Duration)>,
}

impl Link {
    /// Returns a link, not connected yet.
    pub fn new(url: &str, does: &str) -> Result<Self, BusError> {
        // Not the error of the client, which may quote the URL, and so a password.
        let no_url =
            |_| BusError::Unsupported("the URL is not one of AMQP, `amqp://user:password@host:5672/vhost`".into());
        let mut uri: AMQPUri = url.parse().map_err(no_url)?;
        // A server that is away without a word is noticed after two of them.
        uri.query.heartbeat.get_or_insert(10);
        uri.query.connection_timeout.get_or_insert(WITHIN.as_millis() as u64);
        Ok(Self { uri, name: format!("eventstore, {does}"), state: Mutex::default() })
    }

    /// Returns the connection. After a failed attempt it fails at once for a while, which becomes longer.
    pub async fn connection(&self) -> Result<Arc<Connection>, BusError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(connection.clone());
        }
        state.connection = None;
        let pause = match state.next {
            Some((due, _)) if Instant::now() < due => {
                return Err(BusError::unavailable("RabbitMQ is away, and the next attempt to connect is not due yet"));
            }
            Some((_, pause)) => pause,
            None => PAUSE,
        };
        let properties = ConnectionProperties::default().with_connection_name(self.name.clone().into());
        let connect = Connection::connect_uri(self.uri.clone(), properties);
        let connected = match tokio::time::timeout(WITHIN, connect).await {
            Ok(connected) => connected.map_err(failure),
            Err(_) => Err(BusError::unavailable("RabbitMQ does not answer")),
        };
        match connected {
            Ok(connection) => {
                let connection = Arc::new(connection);
                *state = State { connection: Some(connection.clone()), next: None };
                Ok(connection)
            }
            Err(error) => {
                state.next = Some((Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE)));
                Err(error)
            }
        }
    }

    /// Returns a new channel.
    pub async fn channel(&self) -> Result<Channel, BusError> {
        let connection = self.connection().await?;
        within(WITHIN, connection.create_channel()).await?.map_err(failure)
    }
}

/// Waits for an answer.
pub async fn within<T>(time: Duration, answer: impl Future<Output = T>) -> Result<T, BusError> {
    tokio::time::timeout(time, answer).await.map_err(|_| BusError::unavailable("RabbitMQ has not answered in time"))
}

/// Waits for an answer to a request about topology.
pub async fn ask<T>(answer: impl Future<Output = lapin::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(WITHIN, answer).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(ErrorKind::IOError(Arc::new(elapsed.into())).into()),
    }
}

/// Returns what the server said is wrong with a request.
pub fn refusal(error: &Error) -> Option<(AMQPSoftError, &str)> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(kind) => Some((kind.clone(), error.get_message().as_str())),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Returns the error of the bus for an error of the client.
pub fn failure(error: Error) -> BusError {
    match refusal(&error) {
        Some((AMQPSoftError::ACCESSREFUSED, _)) => BusError::Denied(error.into()),
        _ => BusError::unavailable(error),
    }
}
