//! Counters, gauges and histograms of relays and inboxes. docs/operations.md lists their names. No label has a key.

use eventstore_core::Timestamp;
use metrics::{counter, gauge, histogram};

use crate::envelope::Envelope;

/// Counts messages of a relay: `done`, `known` (in the topic already) or `failed`.
pub fn relayed(topic: &'static str, outcome: &'static str, messages: usize) {
    if messages > 0 {
        counter!("eventstore.relay.messages", "topic" => topic, "outcome" => outcome).increment(messages as u64);
    }
}

/// Records the sizes of the messages of a batch that were confirmed, and the seconds since their events happened.
pub fn published<'a>(topic: &'static str, messages: impl Iterator<Item = &'a Envelope>) {
    let (bytes, delay) =
        (counter!("eventstore.relay.bytes", "topic" => topic), histogram!("eventstore.relay.delay", "topic" => topic));
    let mut sum = 0;
    for message in messages {
        sum += message.bytes();
        if let Some(time) = message.time {
            delay.record(since(time));
        }
    }
    bytes.increment(sum as u64);
}

/// Counts messages of an inbox: `recorded`, `known`, `passed_over`, `expired` or `rejected`.
pub fn arrived(topic: &'static str, group: &str, outcome: &'static str, messages: usize) {
    if messages > 0 {
        let counter = counter!(
            "eventstore.inbox.messages", "topic" => topic, "group" => group.to_owned(), "outcome" => outcome
        );
        counter.increment(messages as u64);
    }
}

/// Records the seconds between what the messages of a batch tell of and their recording.
pub fn delays(topic: &'static str, group: &str, times: impl Iterator<Item = Timestamp>) {
    let delay = histogram!("eventstore.inbox.delay", "topic" => topic, "group" => group.to_owned());
    times.for_each(|time| delay.record(since(time)));
}

/// Records how many messages a partition has that are not recorded.
pub fn lag(topic: &'static str, group: &str, partition: u16, messages: u64) {
    let (group, partition) = (group.to_owned(), partition.to_string());
    gauge!("eventstore.inbox.lag", "topic" => topic, "group" => group, "partition" => partition).set(messages as f64);
}

fn since(time: Timestamp) -> f64 {
    (Timestamp::now() - time).as_secs_f64()
}
