//! Publishes the messages of a partition so that each is in the stream behind the one before it, or not at all.
//!
//! Up to 256 messages are on their way at once. Each but the first names the id of the one before it
//! (`Nats-Expected-Last-Msg-Id`), and each the sequence that the stream has before it (`Nats-Expected-Last-Sequence`).
//! The server refuses a message whose predecessor is not there.
//!
//! Neither header alone does: if another program publishes one message at the right moment, the sequences fit again for
//! the message *behind* one that was refused; and a server that has started anew and has nothing in its window of ids
//! knows no last id, and would refuse the first message for ever.
//!
//! The server answers a known id with `duplicate`, before it looks at either header, and its sequence does not move: so
//! the messages behind it are refused, and are sent again with the right sequence. What another program has published
//! since is looked at before anything is sent again: a message may be among it, published by the node that has taken over
//! this one's shard, longer ago than the server knows ids.

use std::collections::HashSet;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::{PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use eventstore_messaging::{BusError, Envelope, Outcome};
use futures::{StreamExt, stream::FuturesUnordered};

use crate::{
    connection::{Connection, lost, of_jetstream},
    stream::{self, Partition},
    topic::Topic,
    wire::{self, Wire},
};

/// The most messages on their way, and about the most bytes.
const WINDOW: usize = 256;
const WINDOW_BYTES: usize = 1 << 20;
/// How often a message is tried with an expected sequence while other programs publish. Then it is published without, one
/// at a time.
const COLLISIONS: u32 = 8;
/// How often nothing may come of a window.
const IDLE: u32 = 32;
/// How many messages of others are looked at.
const OTHERS: u64 = 10_000;

/// What became of a batch.
pub struct Published {
    pub outcomes: Vec<Outcome>,
    /// Whether the stream was not found.
    pub gone: bool,
}

/// What became of a message that was sent.
enum Sent {
    Stored(u64),
    Known,
    /// What it expected is not so.
    Unexpected,
    Failed(BusError),
    Gone,
}

impl Topic {
    /// Publishes messages of one partition, in their order.
    pub async fn publish(&self, connection: &Connection, partition: u16, messages: &[&Envelope]) -> Published {
        let mut batch = Batch { outcomes: messages.iter().map(|_| None).collect(), gone: false };
        let ended = match self.partition(partition) {
            Ok(partition) => batch.publish(connection, partition, messages, self.abilities.message_bytes).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended
            && let Some(first) = batch.outcomes.iter_mut().find(|outcome| outcome.is_none())
        {
            *first = Some(Outcome::Failed(error));
        }
        let outcomes = batch.outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::NotTried)).collect();
        Published { outcomes, gone: batch.gone }
    }
}

struct Batch {
    outcomes: Vec<Option<Outcome>>,
    gone: bool,
}

impl Batch {
    /// Publishes messages until all have an outcome or one has failed. Fails for the first message without one.
    async fn publish(
        &mut self,
        connection: &Connection,
        partition: &Partition,
        messages: &[&Envelope],
        message_bytes: usize,
    ) -> Result<(), BusError> {
        // If this is dropped, nothing is known of the stream.
        let mut chain = partition.chain.lock().await;
        let mut last = match chain.take() {
            Some(last) => last,
            None => connection.info(&partition.stream).await?.state.last_sequence,
        };
        let (mut width, mut collisions, mut idle) = (WINDOW, 0, 0);
        let max_payload = connection.context.client().max_payload();
        loop {
            let (mut window, mut bytes, mut refused) = (vec![], 0, None);
            for place in (0..messages.len()).filter(|place| self.outcomes[*place].is_none()) {
                let message = messages[place];
                bytes += message.bytes();
                if window.len() == width || !window.is_empty() && bytes > WINDOW_BYTES {
                    break;
                }
                match Wire::of(message, &partition.subject, message_bytes, max_payload) {
                    Ok(wire) => window.push((place, wire)),
                    Err(error) => {
                        refused = Some((place, error));
                        break;
                    }
                }
            }
            if window.is_empty() {
                *chain = Some(last);
                if let Some((place, error)) = refused {
                    self.outcomes[place] = Some(Outcome::Failed(error));
                }
                return Ok(());
            }
            let expected = (collisions < COLLISIONS).then_some(last);
            let places: Vec<_> = window.iter().map(|(place, _)| *place).collect();
            let sent = send(connection, window, messages, expected).await?;
            let (before, mut unexpected, mut failed) = (self.left(), false, false);
            let stored = sent.iter().rposition(|sent| matches!(sent, Sent::Stored(_)));
            for (n, (place, sent)) in places.into_iter().zip(sent).enumerate() {
                self.outcomes[place] = match sent {
                    Sent::Stored(sequence) => {
                        // Behind one that was refused, it fits the messages of another program: those are looked at.
                        if !unexpected {
                            last = sequence;
                        }
                        Some(Outcome::Done)
                    }
                    Sent::Known => Some(Outcome::Done),
                    Sent::Unexpected => {
                        unexpected = true;
                        None
                    }
                    // One behind it is stored, which it is only if this one is.
                    Sent::Failed(BusError::Unavailable(_)) if expected.is_some() && !unexpected && stored > Some(n) => {
                        Some(Outcome::Done)
                    }
                    Sent::Failed(error) => {
                        failed = true;
                        Some(Outcome::Failed(error))
                    }
                    Sent::Gone => {
                        (failed, self.gone) = (true, true);
                        Some(Outcome::Failed(BusError::unavailable(
                            "the topic has no stream for this message any more",
                        )))
                    }
                };
            }
            if failed {
                return Ok(());
            }
            idle = if self.left() < before { 0 } else { idle + 1 };
            if !unexpected {
                (width, collisions) = ((width * 2).min(WINDOW), 0);
                continue;
            }
            if idle > IDLE {
                return Err(BusError::unavailable("other programs publish to the partition all the time"));
            }
            let now = connection.info(&partition.stream).await?.state.last_sequence;
            if now > last {
                let known = others(connection, partition, last, now).await?;
                for (outcome, message) in self.outcomes.iter_mut().zip(messages) {
                    if outcome.is_none() && known.contains(&message.event_id().to_string()) {
                        *outcome = Some(Outcome::Done);
                    }
                }
                (width, collisions) = (1, collisions + 1);
            }
            last = now;
        }
    }

    /// Returns how many messages have no outcome yet.
    fn left(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_none()).count()
    }
}

/// Sends messages, and returns what became of each; fewer, if the last ones were not sent.
async fn send(
    connection: &Connection,
    window: Vec<(usize, Wire)>,
    messages: &[&Envelope],
    expected: Option<u64>,
) -> Result<Vec<Sent>, BusError> {
    let mut watch = connection.watch()?;
    let denied = connection.denied();
    let (mut acks, mut before) = (FuturesUnordered::new(), None);
    let mut sent = vec![];
    for (n, (place, mut wire)) in window.into_iter().enumerate() {
        if let Some(sequence) = expected {
            wire.headers.insert("Nats-Expected-Last-Sequence", (sequence + n as u64).to_string());
            if let Some(before) = &before {
                wire.headers.insert("Nats-Expected-Last-Msg-Id", String::clone(before));
            }
        }
        before = Some(wire.id);
        let message = PublishMessage::build().headers(wire.headers).payload(messages[place].data.clone().into());
        match connection.context.send_publish(wire.subject, message).await {
            Ok(ack) => {
                sent.push(None);
                acks.push(async move { (n, ack.await) });
            }
            Err(error) => {
                sent.push(Some(became(Err(error), connection, denied)));
                break;
            }
        }
    }
    loop {
        tokio::select! {
            ack = acks.next() => match ack {
                Some((n, ack)) => sent[n] = Some(became(ack, connection, denied)),
                None => break,
            },
            () = watch.lost() => break,
        }
    }
    Ok(sent.into_iter().map(|sent| sent.unwrap_or_else(|| Sent::Failed(lost()))).collect())
}

fn became(ack: Result<PublishAck, PublishError>, connection: &Connection, denied: u64) -> Sent {
    let error = match ack {
        Ok(ack) if ack.duplicate => return Sent::Known,
        Ok(ack) => return Sent::Stored(ack.sequence),
        Err(error) => error,
    };
    match error.kind() {
        PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => Sent::Unexpected,
        PublishErrorKind::StreamNotFound => Sent::Gone,
        PublishErrorKind::TimedOut => Sent::Failed(connection.unanswered(denied)),
        PublishErrorKind::MaxPayloadExceeded => Sent::Failed(BusError::Refused(error.into())),
        PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => Sent::Failed(BusError::unavailable(error)),
        PublishErrorKind::Other => {
            let source = std::error::Error::source(&error);
            let code = source.and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>());
            match code.map(async_nats::jetstream::Error::error_code) {
                // A newer server, of a message that it is about to store for another connection.
                Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) => {
                    Sent::Unexpected
                }
                Some(code) => Sent::Failed(of_jetstream(code, error)),
                None => Sent::Failed(BusError::unavailable(error)),
            }
        }
    }
}

/// Returns the ids of the messages in a part of a stream.
async fn others(
    connection: &Connection,
    partition: &Partition,
    after: u64,
    until: u64,
) -> Result<HashSet<String>, BusError> {
    if until - after > OTHERS {
        let why = format!("other programs have published {} messages since this one has looked", until - after);
        return Err(BusError::unavailable(why));
    }
    let mut ids = HashSet::new();
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ack_policy: AckPolicy::None,
        headers_only: true,
        ..stream::consumer()
    };
    let (name, mut reading) = stream::open(connection, partition, config).await?;
    let mut watch = connection.watch()?;
    loop {
        let next = tokio::select! {
            next = reading.next() => next,
            () = watch.lost() => return Err(lost()),
            () = tokio::time::sleep(connection.confirm_within) => {
                // The last of them may have been removed since.
                let state = connection.info(&partition.stream).await?.state;
                if state.messages == 0 || state.first_sequence > until { break }
                return Err(BusError::unavailable("NATS has not delivered messages that the stream has"));
            }
        };
        let message = next.ok_or_else(lost)?.map_err(BusError::unavailable)?;
        ids.insert(wire::id(message.headers.as_ref()));
        let at = message.info().map_err(BusError::unavailable)?;
        if at.stream_sequence >= until || at.pending == 0 {
            break;
        }
    }
    stream::close(connection, partition, name);
    Ok(ids)
}
