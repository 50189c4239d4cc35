//! The connection: its requests, and how they fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Event, ServerError,
    connection::State,
    jetstream::{Context, ErrorCode, context::RequestErrorKind, response::Response, stream::Info},
};
use eventstore_core::BoxError;
use eventstore_messaging::BusError;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

/// The connection of a bus.
#[derive(Clone)]
pub struct Connection {
    pub context: Context,
    pub confirm_within: Duration,
    events: Events,
}

/// What the client tells of its connection.
#[derive(Clone)]
pub struct Events {
    /// How often answers or messages may have been lost.
    losses: Arc<watch::Sender<u64>>,
    /// How often the server has denied a request. It answers none that it denies.
    denied: Arc<AtomicU64>,
}

impl Default for Events {
    fn default() -> Self {
        Self { losses: Arc::new(watch::Sender::new(0)), denied: Arc::default() }
    }
}

impl Events {
    pub fn note(&self, event: &Event) {
        match event {
            Event::Disconnected | Event::Closed | Event::SlowConsumer(_) => {
                self.losses.send_modify(|losses| *losses += 1)
            }
            Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions violation") => {
                self.denied.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = text, "NATS has denied a request");
            }
            Event::ServerError(ServerError::AuthorizationViolation) => _ = self.denied.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Tells when answers of a connection may have been lost.
pub struct Watch(watch::Receiver<u64>);

impl Watch {
    /// Returns once the connection was lost since this watch began, in whole or in part.
    pub async fn lost(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// An error of JetStream, or of the way there.
pub enum Failed {
    /// JetStream has answered.
    Code(ErrorCode, BusError),
    /// It has not.
    Bus(BusError),
}

impl From<Failed> for BusError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Code(_, error) | Failed::Bus(error) => error,
        }
    }
}

impl Connection {
    pub fn new(context: Context, events: Events, confirm_within: Duration) -> Self {
        Self { context, confirm_within, events }
    }

    /// Returns a watch over the connection; fails if there is none, so that nothing waits in the client and is sent later.
    pub fn watch(&self) -> Result<Watch, BusError> {
        // In this order: a loss in between is seen.
        let watch = Watch(self.events.losses.subscribe());
        match self.context.client().connection_state() {
            State::Connected => Ok(watch),
            _ => Err(lost()),
        }
    }

    /// How often the server has denied a request.
    pub fn denied(&self) -> u64 {
        self.events.denied.load(Ordering::Relaxed)
    }

    /// Returns the error for a time-out: what the server denies is not answered.
    pub fn unanswered(&self, denied_before: u64) -> BusError {
        match self.denied() == denied_before {
            true => BusError::unavailable("NATS has not answered in time"),
            false => BusError::Denied("this user may not use a subject of the topic".into()),
        }
    }

    /// Asks JetStream.
    pub async fn ask<T: serde::de::DeserializeOwned>(&self, subject: String, request: &Json) -> Result<T, Failed> {
        let mut watch = self.watch().map_err(Failed::Bus)?;
        let denied = self.denied();
        let answer = tokio::select! {
            answer = self.context.request(subject, request) => answer,
            () = watch.lost() => return Err(Failed::Bus(lost())),
        };
        match answer {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => {
                Err(Failed::Code(error.error_code(), of_jetstream(error.error_code(), error)))
            }
            Err(error) if error.kind() == RequestErrorKind::TimedOut => Err(Failed::Bus(self.unanswered(denied))),
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                Err(Failed::Bus(BusError::unavailable("JetStream does not answer: is it enabled on the server?")))
            }
            Err(error) => Err(Failed::Bus(BusError::unavailable(error))),
        }
    }

    /// Returns what a stream is; `None` if there is no such stream.
    pub async fn find(&self, stream: &str) -> Result<Option<Info>, BusError> {
        match self.ask(format!("STREAM.INFO.{stream}"), &json!({})).await {
            Ok(info) => Ok(Some(info)),
            Err(Failed::Code(ErrorCode::STREAM_NOT_FOUND, _)) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Returns what a stream is.
    pub async fn info(&self, stream: &str) -> Result<Info, BusError> {
        self.find(stream).await?.ok_or_else(|| BusError::unavailable(format!("the stream `{stream}` is gone")))
    }
}

pub fn lost() -> BusError {
    BusError::unavailable("the connection to NATS was lost")
}

/// Returns the error of the bus for an error of JetStream.
pub fn of_jetstream(code: ErrorCode, error: impl Into<BoxError>) -> BusError {
    match code {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            BusError::Refused(error.into())
        }
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            BusError::Unsupported("JetStream is not enabled for this account".into())
        }
        _ => BusError::unavailable(error),
    }
}
