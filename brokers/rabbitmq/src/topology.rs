//! Exchanges, queues and bindings.
//!
//! Names have a colon between their parts: names of topics and groups have dots, and none.

use eventstore_core::Invalid;
use eventstore_messaging::{BusError, check_group, check_topic};
use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::AMQPSoftError,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::link::{Link, ask, failure, refusal};

/// How often a message may be delivered: servers from 4.0 on drop one after 20 times otherwise.
const DELIVERIES: i64 = i32::MAX as i64;

fn invalid(error: Invalid) -> BusError {
    BusError::Refused(error.into())
}

/// Returns a name as AMQP has it.
pub fn name(text: impl Into<String>) -> Result<ShortString, BusError> {
    ShortString::try_new(text).map_err(|error| BusError::Refused(error.into()))
}

/// Returns the queue of a group and a partition.
pub fn queue(topic: &str, group: &str, partition: u16) -> Result<ShortString, BusError> {
    name(format!("{topic}:{group}:{partition}"))
}

/// Makes a topic, unless it exists, and returns how many partitions it has.
pub async fn topic(link: &Link, topic: &str, partitions: u16) -> Result<u16, BusError> {
    check_topic(topic).map_err(invalid)?;
    if topic.starts_with("amq.") {
        return Err(BusError::Refused("names that begin with `amq.` are RabbitMQ's own".into()));
    }
    let channel = link.channel().await?;
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    ask(channel.exchange_declare(name(topic)?, ExchangeKind::Topic, options, FieldTable::default())).await.map_err(
        |error| match refusal(&error) {
            Some((AMQPSoftError::PRECONDITIONFAILED, _)) => {
                BusError::Unsupported(format!("the exchange `{topic}` is not a durable topic exchange"))
            }
            _ => failure(error),
        },
    )?;
    // RabbitMQ has no place for the number of partitions but the arguments of a queue, which it compares. Nothing is ever
    // in it.
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(partitions.into()));
    match ask(channel.queue_declare(name(format!("{topic}:partitions"))?, durable(), arguments)).await {
        Ok(_) => Ok(partitions),
        Err(error) => match refusal(&error) {
            // "inequivalent arg 'x-max-length' for queue … received '5' but current is '3'"
            Some((AMQPSoftError::PRECONDITIONFAILED, text)) => {
                let current =
                    text.rsplit_once("current is '").and_then(|(_, text)| text.split('\'').next()?.parse().ok());
                current.filter(|number| (1..=1_024).contains(number)).ok_or_else(|| {
                    BusError::Unsupported(format!(
                        "the queue `{topic}:partitions` does not say how many partitions there are"
                    ))
                })
            }
            _ => Err(failure(error)),
        },
    }
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

/// Makes and binds the queues of a group, unless they exist.
pub async fn group(link: &Link, topic: &str, group: &str, partitions: u16) -> Result<(), BusError> {
    check_group(group).map_err(invalid)?;
    let mut channel = link.channel().await?;
    for partition in 0..partitions {
        let queue = queue(topic, group, partition)?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES));
        if let Err(error) = ask(channel.queue_declare(queue.clone(), durable(), arguments)).await {
            match refusal(&error) {
                // An operator has made it, with other arguments. Without one active consumer there is no order.
                Some((AMQPSoftError::PRECONDITIONFAILED, text)) if !text.contains("x-single-active-consumer") => {
                    tracing::warn!(queue = queue.as_str(), %error, "a queue has other arguments than this program gives it");
                    channel = link.channel().await?;
                }
                Some((AMQPSoftError::PRECONDITIONFAILED, text)) => {
                    return Err(BusError::Unsupported(format!("the queue `{queue}` keeps no order: {text}")));
                }
                _ => return Err(failure(error)),
            }
        }
        let key = name(format!("{partition}.#"))?;
        let bind = channel.queue_bind(queue, name(topic)?, key, QueueBindOptions::default(), FieldTable::default());
        ask(bind).await.map_err(failure)?;
    }
    Ok(())
}

/// Returns how many messages wait in a queue to be delivered.
pub async fn waiting(link: &Link, queue: &ShortString) -> Result<u64, BusError> {
    let channel = link.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = ask(channel.queue_declare(queue.clone(), options, FieldTable::default())).await.map_err(failure)?;
    Ok(declared.message_count().into())
}
