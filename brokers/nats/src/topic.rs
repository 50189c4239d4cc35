//! A topic: its streams, and what they can do.

use async_nats::jetstream::{
    ErrorCode,
    stream::{Config, DiscardPolicy, Info, StorageType},
};
use eventstore_messaging::{Abilities, BusError, Kind, Last, Order, check_topic};
use futures::future::join_all;
use std::time::Duration;
use tokio::sync::Mutex;

use crate::{
    connection::{Connection, Failed},
    options::NatsOptions,
    stream::{Partition, last_message},
    wire,
};

/// How long the server knows ids. A chain looks into the stream for what is older.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// What is left of the server's limit for headers, beyond the attributes as [`Envelope::bytes`] counts them.
///
/// [`Envelope::bytes`]: eventstore_messaging::Envelope::bytes
const RESERVED_BYTES: usize = 4 << 10;

/// A topic.
pub struct Topic {
    pub abilities: Abilities,
    pub partitions: Vec<Partition>,
}

/// Returns the name of the stream of a partition. Names of streams have no dots, names of topics no dashes.
fn stream_name(topic: &str, partition: u16) -> String {
    format!("{}-{partition}", topic.replace('.', "-"))
}

/// Returns what the subjects of a partition begin with. The topic is one token: subjects of a topic `a.0` would be
/// subjects of the topic `a` otherwise.
fn subject(topic: &str, partition: u16) -> String {
    format!("{}.{partition}", topic.replace('.', "-"))
}

/// What the descriptions of streams begin with. They keep the number of partitions, which servers before 2.10 have no
/// other place for.
fn description(topic: &str, partition: u16, partitions: u16) -> String {
    format!("topic {topic} of eventstore, partition {partition} of {partitions}")
}

/// Returns the number of partitions that the first stream of a topic says.
fn partitions_of(info: &Info) -> Result<u16, BusError> {
    let text = info.config.description.as_deref().unwrap_or_default();
    let number = text.rsplit_once(" of ").and_then(|(_, number)| number.parse().ok());
    number.filter(|number| (1..=1_024).contains(number)).ok_or_else(|| {
        let why = "the description of the stream `{}` does not end with the number of partitions, `partition 0 of 1`";
        BusError::Unsupported(why.replace("{}", &info.config.name))
    })
}

impl Topic {
    /// Opens a topic; makes what it lacks of its streams.
    pub async fn open(connection: &Connection, options: &NatsOptions, name: &str) -> Result<Self, BusError> {
        check_topic(name).map_err(|error| BusError::Refused(error.into()))?;
        let first = stream_name(name, 0);
        let info = match connection.find(&first).await? {
            Some(info) => info,
            None => {
                // The first stream comes last: where it is, all are, or another program is about to make them.
                for partition in (1..options.partitions).rev() {
                    make(connection, options, name, partition, options.partitions).await?;
                }
                make(connection, options, name, 0, options.partitions).await?
            }
        };
        // Another program may have made it, with another number.
        let partitions = partitions_of(&info)?;
        for partition in 1..partitions {
            if partitions != options.partitions || connection.find(&stream_name(name, partition)).await?.is_none() {
                make(connection, options, name, partition, partitions).await?;
            }
        }
        let partition = |partition| Partition {
            stream: stream_name(name, partition),
            subject: subject(name, partition),
            chain: Mutex::default(),
        };
        let max_payload = connection.context.client().max_payload();
        let of_stream = usize::try_from(info.config.max_message_size).ok().filter(|bytes| *bytes > 0);
        let bytes = max_payload.min(of_stream.unwrap_or(usize::MAX)).saturating_sub(RESERVED_BYTES);
        let abilities = Abilities::new(Order::Prefix, Kind::Log).partitions(partitions).message_bytes(bytes);
        Ok(Self { abilities, partitions: (0..partitions).map(partition).collect() })
    }

    /// Whether its streams are there.
    pub async fn is_there(&self, connection: &Connection) -> Result<bool, BusError> {
        let found = join_all(self.partitions.iter().map(|partition| connection.find(&partition.stream))).await;
        let found: Vec<_> = found.into_iter().collect::<Result<_, _>>()?;
        Ok(found.iter().all(Option::is_some))
    }

    /// Returns a partition.
    pub fn partition(&self, partition: u16) -> Result<&Partition, BusError> {
        self.partitions
            .get(usize::from(partition))
            .ok_or_else(|| BusError::Unsupported(format!("the topic has no partition {partition}")))
    }

    /// Returns the last message of a partition.
    pub async fn last(&self, connection: &Connection, partition: u16) -> Result<Option<Last>, BusError> {
        let partition = self.partition(partition)?;
        let mut chain = partition.chain.lock().await;
        // A batch begins its chain here: what came since is noticed, and looked at. One that is under way keeps its place.
        if chain.is_none() {
            *chain = Some(connection.info(&partition.stream).await?.state.last_sequence);
        }
        let message = last_message(connection, partition).await?;
        Ok(message.map(|message| Last {
            id: wire::attribute(&message.headers, "id").unwrap_or_default(),
            relayed: wire::attribute(&message.headers, "relayed").unwrap_or_default(),
        }))
    }
}

/// Makes a stream, unless it exists, and returns what it is.
async fn make(
    connection: &Connection,
    options: &NatsOptions,
    topic: &str,
    partition: u16,
    partitions: u16,
) -> Result<Info, BusError> {
    let name = stream_name(topic, partition);
    let config = Config {
        name: name.clone(),
        description: Some(description(topic, partition, partitions)),
        subjects: vec![format!("{}.>", subject(topic, partition))],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        num_replicas: options.replicas,
        max_age: options.keep,
        // The server wants no window that is longer than messages are kept.
        duplicate_window: if options.keep.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(options.keep) },
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..Config::default()
    };
    let config = serde_json::to_value(config).map_err(BusError::unavailable)?;
    match connection.ask(format!("STREAM.CREATE.{name}"), &config).await {
        Ok(info) => Ok(info),
        // It exists with another configuration, which is the operator's.
        Err(Failed::Code(ErrorCode::STREAM_NAME_EXIST, _)) => connection.info(&name).await,
        Err(failed) => Err(failed.into()),
    }
}
