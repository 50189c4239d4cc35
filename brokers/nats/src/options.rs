//! How a bus connects, and how it makes topics.

use std::time::Duration;

/// How a [`NatsBus`](crate::NatsBus) connects, and how it makes topics.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    pub(crate) partitions: u16,
    pub(crate) replicas: usize,
    pub(crate) keep: Duration,
    pub(crate) confirm_within: Duration,
}

impl Default for NatsOptions {
    fn default() -> Self {
        Self { partitions: 1, replicas: 1, keep: Duration::ZERO, confirm_within: Duration::from_secs(10) }
    }
}

impl NatsOptions {
    /// Sets how many partitions a topic has that this bus makes, 1 to 1,024. By default 1. A topic that exists keeps its
    /// number.
    pub fn partitions(self, partitions: u16) -> Self {
        Self { partitions: partitions.clamp(1, 1_024), ..self }
    }

    /// Sets how many servers of a cluster keep the messages of a topic that this bus makes. By default 1.
    pub fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// Sets how long a topic that this bus makes keeps messages. By default for ever. A group that is behind for longer
    /// is told so by [`BusError::Trimmed`](eventstore_messaging::BusError::Trimmed).
    pub fn keep(self, keep: Duration) -> Self {
        Self { keep, ..self }
    }

    /// Sets how long a confirmation is waited for. By default 10 seconds.
    pub fn confirm_within(self, confirm_within: Duration) -> Self {
        Self { confirm_within, ..self }
    }
}
