//! How a bus connects, and how it makes topics.

use std::time::Duration;

/// How a [`RabbitMqBus`](crate::RabbitMqBus) connects, and how it makes topics.
#[derive(Clone, Debug)]
pub struct RabbitMqOptions {
    pub(crate) partitions: u16,
    pub(crate) message_bytes: usize,
    pub(crate) prefetch: u16,
    pub(crate) confirm_within: Duration,
}

impl Default for RabbitMqOptions {
    fn default() -> Self {
        Self { partitions: 1, message_bytes: 16 << 20, prefetch: 1_000, confirm_within: Duration::from_secs(10) }
    }
}

impl RabbitMqOptions {
    /// Sets how many partitions a topic has that this bus makes, 1 to 1,024. By default 1. A topic that exists keeps its
    /// number.
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions: partitions.clamp(1, 1_024), ..self }
    }

    /// Sets the most bytes of a message. By default 16 MiB, which every version takes unless its `max_message_size` is
    /// less: the server does not say it.
    pub fn message_bytes(self, message_bytes: usize) -> Self {
        Self { message_bytes, ..self }
    }

    /// Sets how many messages of a partition are delivered before the first of them is done. By default 1,000.
    pub fn prefetch(self, prefetch: u16) -> Self {
        Self { prefetch: prefetch.max(1), ..self }
    }

    /// Sets how long a confirmation is waited for. By default 10 seconds.
    pub fn confirm_within(self, confirm_within: Duration) -> Self {
        Self { confirm_within, ..self }
    }
}
