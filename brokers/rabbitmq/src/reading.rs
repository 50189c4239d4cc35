//! What is delivered of a queue, and what of it is done.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use eventstore_messaging::BusError;
use lapin::{Channel, options::BasicAckOptions, types::ShortString};

use crate::link::failure;

/// A reading of a queue.
pub struct Reading {
    pub queue: ShortString,
    pub channel: Channel,
    /// How many messages were delivered, and how many of them are done.
    pub delivered: AtomicU64,
    done: AtomicU64,
    /// Up to where all are acknowledged, and those beyond that are.
    acknowledged: Mutex<(u64, BTreeSet<u64>)>,
}

impl Reading {
    pub fn new(queue: ShortString, channel: Channel) -> Self {
        let (delivered, done, acknowledged) = Default::default();
        Self { queue, channel, delivered, done, acknowledged }
    }

    /// Acknowledges deliveries by their tags.
    pub async fn done(&self, tags: HashSet<u64>) -> Result<(), BusError> {
        let (upto, single) = {
            let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            let (upto, beyond) = &mut *acknowledged;
            let new: Vec<_> = tags.into_iter().filter(|tag| *tag > *upto && !beyond.contains(tag)).collect();
            self.done.fetch_add(new.len() as u64, Ordering::Relaxed);
            beyond.extend(&new);
            let begun = *upto;
            while beyond.remove(&(*upto + 1)) {
                *upto += 1;
            }
            let single: Vec<_> = new.into_iter().filter(|tag| *tag > *upto).collect();
            ((*upto > begun).then_some(*upto), single)
        };
        // All up to one, in one frame; those behind a gap one by one.
        let all = upto.into_iter().map(|tag| (tag, true)).chain(single.into_iter().map(|tag| (tag, false)));
        for (tag, multiple) in all {
            self.channel.basic_ack(tag, BasicAckOptions { multiple }).await.map_err(failure)?;
        }
        Ok(())
    }

    /// Returns how many messages are delivered and not done.
    pub fn on_its_way(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed).saturating_sub(self.done.load(Ordering::Relaxed))
    }
}
