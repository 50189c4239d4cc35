//! Checks the streams of a topic.

use std::time::Duration;

use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy, StorageType};
use eventstore_core::doctor::Report;
use eventstore_messaging::BusError;

use crate::{
    connection::Connection,
    topic::{DUPLICATE_WINDOW, Topic},
};

/// Checks the streams of a topic.
pub async fn doctor(connection: &Connection, topic: &Topic) -> Result<Report, BusError> {
    let mut report = Report::default();
    for partition in &topic.partitions {
        let info = connection.info(&partition.stream).await?;
        let (stream, config) = (&partition.stream, info.config);
        match config.storage {
            StorageType::File => report.ok("storage", format!("{stream} is in files")),
            StorageType::Memory => report.danger(
                "storage",
                format!("{stream} is in memory: a server that starts anew has lost all messages"),
                "Make the stream anew with storage `file`.",
            ),
        }
        match config.num_replicas {
            0 | 1 => report.warning(
                "replicas",
                format!(
                    "{stream} has one replica: while its server is away, nothing is published or read, and a lost disk \
                         loses messages. A crash of the machine may lose what was confirmed since the last sync"
                ),
                "Run three servers and set three replicas; on one server, set `sync_interval: always`.",
            ),
            replicas => report.ok("replicas", format!("{stream} has {replicas} replicas")),
        }
        let bounded = config.max_messages > 0 || config.max_bytes > 0 || config.max_messages_per_subject > 0;
        match (config.discard, bounded) {
            (DiscardPolicy::Old, true) => report.danger(
                "discard",
                format!("{stream} is bounded and discards old messages, which a group may not have read"),
                "Set `discard: new`: a full stream then refuses messages, and relays wait.",
            ),
            (DiscardPolicy::Old, false) => report.warning(
                "discard",
                format!("{stream} discards old messages, once it gets a bound"),
                "Set `discard: new`.",
            ),
            (DiscardPolicy::New, _) => report.ok("discard", format!("{stream} refuses messages when it is full")),
        }
        if config.max_messages_per_subject > 0 {
            report.danger(
                "max_msgs_per_subject",
                format!("{stream} keeps {} messages of a type", config.max_messages_per_subject),
                "Set `max_msgs_per_subject: -1`.",
            );
        }
        if config.retention != RetentionPolicy::Limits {
            report.danger(
                "retention",
                format!("{stream} removes messages that one consumer has read; other groups never get them"),
                "Make the stream anew with retention `limits`.",
            );
        }
        if config.no_ack {
            report.danger("no_ack", format!("{stream} confirms nothing"), "Set `no_ack: false`.");
        }
        if config.duplicate_window < DUPLICATE_WINDOW && config.duplicate_window < Duration::from_secs(20) {
            let found = format!("{stream} knows ids for {:?}, less than a retry takes", config.duplicate_window);
            report.warning("duplicate_window", found, "Set `duplicate_window: 2m`.");
        }
        if !config.max_age.is_zero() {
            report.ok(
                "max_age",
                format!("{stream} keeps messages for {:?}; a group must not be away longer", config.max_age),
            );
        }
    }
    Ok(report)
}
