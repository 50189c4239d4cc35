//! Reads the stream of a partition, by its sequences.

use async_nats::jetstream::{
    consumer::{self, DeliverPolicy, pull},
    stream::Info,
};
use eventstore_core::Timestamp;
use eventstore_messaging::{BusError, Delivery, Offset, Start};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use serde_json::json;

use crate::{
    connection::{Connection, Watch, lost},
    stream::{Partition, QUIET, close, consumer, last_message, make, open, stored},
    topic::Topic,
    wire,
};

/// A place in a stream: behind a message, or at the beginning.
///
/// `sequence/created/id`. A stream that was made anew has another time of creation; one that has lost its end has
/// another message under the sequence.
struct Place {
    sequence: u64,
    /// When the stream was made, in nanoseconds.
    created: i128,
    /// The id of the message; empty if it is not known.
    id: String,
}

impl Place {
    fn offset(&self) -> Offset {
        Offset(format!("{}/{}/{}", self.sequence, self.created, self.id))
    }

    fn of(offset: &Offset) -> Result<Self, BusError> {
        let mut parts = offset.0.splitn(3, '/');
        let (sequence, created, id) = (parts.next(), parts.next(), parts.next());
        let numbers = sequence.and_then(|text| text.parse().ok()).zip(created.and_then(|text| text.parse().ok()));
        match numbers.zip(id) {
            Some(((sequence, created), id)) => Ok(Self { sequence, created, id: id.into() }),
            None => Err(BusError::Unsupported(format!("`{}` is not an offset of NATS", offset.0))),
        }
    }
}

fn created(info: &Info) -> i128 {
    info.created.unix_timestamp_nanos()
}

impl Topic {
    /// Returns the offset of a group that begins.
    pub async fn offset(&self, connection: &Connection, partition: u16, start: Start) -> Result<Offset, BusError> {
        let partition = self.partition(partition)?;
        let info = connection.info(&partition.stream).await?;
        let (created, state) = (created(&info), info.state);
        let place = match start {
            Start::Earliest => Place { sequence: state.first_sequence.max(1) - 1, created, id: String::new() },
            Start::Latest => match last_message(connection, partition).await? {
                // The last message may have been removed, and its sequence stays.
                Some(last) if last.sequence >= state.last_sequence => {
                    Place { sequence: last.sequence, created, id: wire::id(Some(&last.headers)) }
                }
                _ => Place { sequence: state.last_sequence, created, id: String::new() },
            },
            Start::Since(time) => {
                let start_time = to_time(time)?;
                let config = pull::Config {
                    deliver_policy: DeliverPolicy::ByStartTime { start_time },
                    headers_only: true,
                    ..consumer()
                };
                let consumer = make(connection, partition, config).await?;
                let info: &consumer::Info = consumer.cached_info();
                // A consumer that has delivered nothing is in front of the first message that it would deliver.
                let sequence = info.delivered.stream_sequence;
                close(connection, partition, info.name.clone());
                Place { sequence: sequence.min(state.last_sequence), created, id: String::new() }
            }
        };
        Ok(place.offset())
    }

    /// Reads a partition after an offset.
    pub async fn read(
        &self,
        connection: &Connection,
        partition: u16,
        after: Option<Offset>,
    ) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
        let partition = self.partition(partition)?;
        let info = connection.info(&partition.stream).await?;
        let sequence = match &after {
            Some(offset) => check(connection, partition, &info, offset).await?,
            None => info.state.first_sequence.max(1) - 1,
        };
        let watch = connection.watch()?;
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 };
        let (name, messages) = open(connection, partition, pull::Config { deliver_policy, ..consumer() }).await?;
        let reading = Reading {
            connection: connection.clone(),
            partition: Partition {
                stream: partition.stream.clone(),
                subject: partition.subject.clone(),
                chain: Default::default(),
            },
            name,
            messages,
            watch,
            at: Place { sequence, created: created(&info), id: String::new() },
            after: after.clone().unwrap_or(Offset(format!("{sequence}/{}/", created(&info)))),
            delivered: 0,
        };
        // It ends after an error.
        let deliveries = stream::unfold(Some(reading), async |reading| {
            let mut reading = reading?;
            match reading.next().await {
                Ok(delivery) => Some((Ok(delivery), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(deliveries.boxed())
    }

    /// Returns how many messages a partition has after an offset.
    pub async fn lag(&self, connection: &Connection, partition: u16, after: Option<&Offset>) -> Result<u64, BusError> {
        let partition = self.partition(partition)?;
        let info = connection.info(&partition.stream).await?;
        let Some(offset) = after else { return Ok(info.state.messages) };
        let place = Place::of(offset)?;
        if place.created != created(&info) {
            return Err(BusError::Trimmed { offset: offset.clone() });
        }
        Ok(info.state.last_sequence.saturating_sub(place.sequence).min(info.state.messages))
    }
}

/// Returns the sequence of an offset. Fails with [`BusError::Trimmed`] if the stream lacks messages behind it, or has
/// another message there.
async fn check(connection: &Connection, partition: &Partition, info: &Info, offset: &Offset) -> Result<u64, BusError> {
    let place = Place::of(offset)?;
    let trimmed = || BusError::Trimmed { offset: offset.clone() };
    let state = &info.state;
    if place.created != created(info)
        || place.sequence > state.last_sequence
        || place.sequence + 1 < state.first_sequence
    {
        return Err(trimmed());
    }
    if !place.id.is_empty() && place.sequence >= state.first_sequence {
        let stored = stored(connection, partition, &json!({ "seq": place.sequence })).await?;
        // One message alone may have been deleted; those behind it are there.
        if stored.is_some_and(|message| wire::id(Some(&message.headers)) != place.id) {
            return Err(trimmed());
        }
    }
    Ok(place.sequence)
}

fn to_time(time: Timestamp) -> Result<time::OffsetDateTime, BusError> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.as_micros()) * 1_000)
        .map_err(|error| BusError::Unsupported(format!("{time} as a time of NATS: {error}")))
}

/// A reading of a partition.
struct Reading {
    connection: Connection,
    partition: Partition,
    /// The consumer.
    name: String,
    messages: pull::Stream,
    watch: Watch,
    /// The last message that was delivered.
    at: Place,
    /// The offset after which was read.
    after: Offset,
    /// How many messages the consumer has delivered.
    delivered: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            close(&self.connection, &self.partition, std::mem::take(&mut self.name));
        }
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Delivery, BusError> {
        let message = loop {
            tokio::select! {
                message = self.messages.next() => break message.ok_or_else(lost)?.map_err(BusError::unavailable)?,
                // The server takes what it has sent for delivered: what was on its way is not sent again.
                () = self.watch.lost() => return Err(lost()),
                () = tokio::time::sleep(QUIET) => self.check_stream().await?,
            }
        };
        let info = message.info().map_err(BusError::unavailable)?;
        let (sequence, nth) = (info.stream_sequence, info.consumer_sequence);
        self.delivered += 1;
        if nth != self.delivered {
            return Err(BusError::unavailable("a message was lost on its way"));
        }
        if sequence != self.at.sequence + 1 {
            self.check_stream().await?;
        }
        self.at.sequence = sequence;
        self.at.id = wire::id(message.headers.as_ref());
        self.after = self.at.offset();
        Ok(wire::delivery(self.after.clone(), message.headers.as_ref(), &message.payload))
    }

    /// Looks whether the stream still has what comes next. Messages in the middle that an operator has deleted are passed.
    async fn check_stream(&self) -> Result<(), BusError> {
        let info = self.connection.info(&self.partition.stream).await?;
        match created(&info) != self.at.created || info.state.first_sequence > self.at.sequence + 1 {
            true => Err(BusError::Trimmed { offset: self.after.clone() }),
            false => Ok(()),
        }
    }
}
