//! Reads a queue: one channel a reading, closed with it, so that what is not done comes again at once.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use eventstore_messaging::{BusError, Delivery};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use crate::{
    Inner,
    link::{ask, failure},
    locked, topology, wire,
};

/// A reading of a queue.
pub struct Reading {
    pub queue: ShortString,
    channel: Channel,
    /// How many messages were delivered, and how many of them are done.
    delivered: AtomicU64,
    done: AtomicU64,
    /// Up to where all are acknowledged, and those beyond that are.
    acknowledged: Mutex<(u64, BTreeSet<u64>)>,
}

impl Reading {
    /// Acknowledges deliveries by their tags.
    pub async fn done(&self, tags: HashSet<u64>) -> Result<(), BusError> {
        let (upto, single) = {
            let mut acknowledged = locked(&self.acknowledged);
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

/// Reads the queue of a group and a partition.
pub async fn read(
    inner: &Arc<Inner>,
    topic: &str,
    group: &str,
    partition: u16,
) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
    let queue = topology::queue(topic, group, partition)?;
    let channel = inner.reading.channel().await?;
    ask(channel.basic_qos(inner.options.prefetch, BasicQosOptions::default())).await.map_err(failure)?;
    // The server chooses the tag.
    let consume = channel.basic_consume(
        queue.clone(),
        ShortString::default(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let consumer = ask(consume).await.map_err(failure)?;
    let (delivered, done, acknowledged) = Default::default();
    let reading = Arc::new(Reading { queue, channel, delivered, done, acknowledged });
    let id = {
        let mut readings = locked(&inner.readings);
        readings.last += 1;
        let id = readings.last;
        readings.open.insert(id, reading.clone());
        id
    };
    let open = Open { inner: inner.clone(), id, reading, consumer };
    // It ends after an error.
    let deliveries = stream::unfold(Some(open), async |open| {
        let mut open = open?;
        match open.consumer.next().await {
            Some(Ok(delivery)) => {
                open.reading.delivered.fetch_add(1, Ordering::Relaxed);
                let receipt = format!("{}/{}", open.id, delivery.delivery_tag);
                Some((Ok(wire::delivery(receipt, delivery)), Some(open)))
            }
            Some(Err(error)) => Some((Err(failure(error)), None)),
            None => Some((Err(BusError::unavailable("RabbitMQ has ended the reading: is the queue gone?")), None)),
        }
    });
    Ok(deliveries.boxed())
}

/// A reading that is open.
struct Open {
    inner: Arc<Inner>,
    id: u64,
    reading: Arc<Reading>,
    consumer: Consumer,
}

impl Drop for Open {
    fn drop(&mut self) {
        locked(&self.inner.readings).open.remove(&self.id);
        let channel = self.reading.channel.clone();
        // The server puts back what is not done, and makes the next consumer the active one.
        if channel.status().connected()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = channel.close(200, "done".into()).await;
            });
        }
    }
}
