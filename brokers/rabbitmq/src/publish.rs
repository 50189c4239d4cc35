//! Publishes a wave: messages of different keys, all at once.
//!
//! Each call has a channel to itself while it runs. A message that no queue gets is returned *and* confirmed, and on a
//! channel of several calls it would not be clear whose it is.

use std::collections::HashSet;

use eventstore_messaging::{BusError, Envelope, Outcome, partition};
use futures::{StreamExt, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, Error,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPSoftError,
};

use crate::{
    inner::{Inner, locked},
    link::{ask, failure, refusal, within},
    topology, wire,
};

/// The most channels that are kept for later.
const IDLE: usize = 16;

/// Returns outcomes of messages of which none was published.
pub fn failed(count: usize, error: BusError) -> Vec<Outcome> {
    let mut outcomes: Vec<_> = (0..count).map(|_| Outcome::NotTried).collect();
    outcomes.iter_mut().take(1).zip([error]).for_each(|(first, error)| *first = Outcome::Failed(error));
    outcomes
}

/// Publishes messages. Messages of one key are not in order if there are several.
pub async fn publish(inner: &Inner, topic: &str, partitions: u16, messages: &[Envelope]) -> Vec<Outcome> {
    let all: Vec<_> = messages.iter().collect();
    let (mut outcomes, refused) = wave(inner, topic, partitions, &all).await;
    // The server has closed the channel over a message that is too large, with all that was on its way, and does not say
    // which one it was: one by one it does.
    if refused && messages.len() > 1 {
        for (message, outcome) in messages.iter().zip(&mut outcomes) {
            if matches!(outcome, Outcome::Done) {
                continue;
            }
            if let Some(alone) = wave(inner, topic, partitions, &[message]).await.0.pop() {
                *outcome = alone;
            }
            if matches!(outcome, Outcome::Failed(BusError::Unavailable(_))) {
                break;
            }
        }
    }
    outcomes
}

/// Publishes messages at once. Returns what became of them, and whether the server has refused one and closed the channel.
async fn wave(inner: &Inner, topic: &str, partitions: u16, messages: &[&Envelope]) -> (Vec<Outcome>, bool) {
    let channel = match channel(inner).await {
        Ok(channel) => channel,
        Err(error) => return (failed(messages.len(), error), false),
    };
    let mut refused = false;
    let (mut confirms, mut outcomes, mut returned) = (FuturesUnordered::new(), vec![], HashSet::new());
    for (n, message) in messages.iter().enumerate() {
        match send(inner, &channel, topic, partitions, message).await {
            Ok(confirm) => {
                outcomes.push(None);
                confirms.push(async move { (n, confirm.await) });
            }
            Err(error) => outcomes.push(Some(Outcome::Failed(error))),
        }
    }
    let confirmed = async {
        while let Some((n, confirmation)) = confirms.next().await {
            let (outcome, message) = match confirmation {
                Ok(Confirmation::Ack(message)) => (Outcome::Done, message),
                Ok(Confirmation::Nack(message)) => {
                    (Outcome::Failed(BusError::unavailable("RabbitMQ could not store the message")), message)
                }
                Ok(Confirmation::NotRequested) => {
                    (Outcome::Failed(BusError::unavailable("RabbitMQ does not confirm on this channel")), None)
                }
                Err(error) => {
                    let error = of_publish(error);
                    refused |= matches!(error, BusError::Refused(_));
                    (Outcome::Failed(error), None)
                }
            };
            if let Some(message) = message {
                returned.insert(message.properties.message_id().as_ref().map(ToString::to_string));
            }
            outcomes[n] = Some(outcome);
        }
    };
    let in_time = within(inner.options.confirm_within, confirmed).await.is_ok();
    let late = || Outcome::Failed(BusError::unavailable("RabbitMQ has not confirmed in time"));
    let mut outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(late)).collect();
    for (message, outcome) in messages.iter().zip(&mut outcomes) {
        if returned.contains(&Some(wire::id(message))) {
            let why = format!("the topic `{topic}` has no group that reads: a message would be confirmed, and gone");
            *outcome = Outcome::Failed(BusError::unavailable(why));
        }
    }
    // A channel that is in doubt is closed: a later call must not get its confirmations.
    if in_time && channel.status().connected() {
        let mut idle = locked(&inner.idle);
        if idle.len() < IDLE {
            idle.push(channel);
        }
    }
    (outcomes, refused)
}

/// Returns a channel that no other call uses.
async fn channel(inner: &Inner) -> Result<Channel, BusError> {
    while let Some(channel) = { locked(&inner.idle).pop() } {
        if channel.status().connected() {
            return Ok(channel);
        }
    }
    let channel = inner.publishing.channel().await?;
    ask(channel.confirm_select(ConfirmSelectOptions::default())).await.map_err(failure)?;
    Ok(channel)
}

async fn send(
    inner: &Inner,
    channel: &Channel,
    topic: &str,
    partitions: u16,
    message: &Envelope,
) -> Result<lapin::PublisherConfirm, BusError> {
    let most = inner.options.message_bytes;
    if message.bytes() > most {
        return Err(BusError::Refused(format!("the message has more than {most} bytes").into()));
    }
    let frame = inner.publishing.connection().await?.configuration().frame_max();
    let frame = if frame == 0 { usize::MAX } else { frame as usize };
    let properties = wire::properties(message, frame)?;
    let key = wire::routing_key(message, partition(&message.key, partitions))?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publish = channel.basic_publish(topology::name(topic)?, key, options, &message.data, properties);
    // A server that is out of memory or disk reads nothing.
    within(inner.options.confirm_within, publish).await?.map_err(of_publish)
}

/// Returns the error of a message. The server closes the channel over one that is larger than it takes.
fn of_publish(error: Error) -> BusError {
    match refusal(&error) {
        Some((AMQPSoftError::PRECONDITIONFAILED, text)) if text.contains("larger than") => {
            BusError::Refused(error.into())
        }
        Some((AMQPSoftError::CONTENTTOOLARGE, _)) => BusError::Refused(error.into()),
        _ => failure(error),
    }
}
