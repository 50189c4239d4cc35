//! The stream of a partition: its messages, and consumers of it.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, Consumer, pull},
    message::StreamMessage,
};
use eventstore_messaging::BusError;
use serde_json::{Value as Json, json};
use tokio::sync::Mutex;

use crate::connection::{Connection, Failed, lost};

/// The most messages that are on their way to a reader.
const BATCH: usize = 256;
/// How long nothing may come until the stream is looked at.
pub const QUIET: Duration = Duration::from_secs(30);

/// A partition of a topic.
pub struct Partition {
    /// The name of its stream.
    pub stream: String,
    /// What its subjects begin with.
    pub subject: String,
    /// The last sequence of the stream, as far as this program has seen it. Held while a batch is published; `None` after
    /// one has failed or was dropped.
    pub chain: Mutex<Option<u64>>,
}

/// The settings of all consumers: they end by themselves, and leave nothing.
pub fn consumer() -> pull::Config {
    pull::Config {
        ack_policy: AckPolicy::None,
        inactive_threshold: Duration::from_secs(60),
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    }
}

/// Makes a consumer, and returns its name and its messages.
pub async fn open(
    connection: &Connection,
    partition: &Partition,
    config: pull::Config,
) -> Result<(String, pull::Stream), BusError> {
    let consumer = make(connection, partition, config).await?;
    let name = consumer.cached_info().name.clone();
    let messages = consumer.stream().max_messages_per_batch(BATCH).expires(QUIET).heartbeat(QUIET / 6).messages().await;
    Ok((name, messages.map_err(BusError::unavailable)?))
}

pub async fn make(
    connection: &Connection,
    partition: &Partition,
    config: pull::Config,
) -> Result<Consumer<pull::Config>, BusError> {
    let mut watch = connection.watch()?;
    let make = connection.context.create_consumer_on_stream(config, &partition.stream);
    tokio::select! {
        made = make => made.map_err(BusError::unavailable),
        () = watch.lost() => Err(lost()),
    }
}

/// Removes a consumer, sooner than it would end by itself.
pub fn close(connection: &Connection, partition: &Partition, name: String) {
    let (context, stream) = (connection.context.clone(), partition.stream.clone());
    tokio::spawn(async move {
        let _ = context.delete_consumer_from_stream(name, stream).await;
    });
}

/// Returns a message that a stream has.
pub async fn stored(
    connection: &Connection,
    partition: &Partition,
    which: &Json,
) -> Result<Option<StreamMessage>, BusError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        message: async_nats::jetstream::stream::RawMessage,
    }
    match connection.ask::<Answer>(format!("STREAM.MSG.GET.{}", partition.stream), which).await {
        Ok(answer) => Ok(Some(StreamMessage::try_from(answer.message).map_err(BusError::unavailable)?)),
        Err(Failed::Code(ErrorCode::NO_MESSAGE_FOUND, _)) => Ok(None),
        Err(failed) => Err(failed.into()),
    }
}

/// Returns the last message of a stream.
pub async fn last_message(connection: &Connection, partition: &Partition) -> Result<Option<StreamMessage>, BusError> {
    stored(connection, partition, &json!({ "last_by_subj": format!("{}.>", partition.subject) })).await
}
