//! Reads a queue: one channel a reading, closed with it, so that what is not done comes again at once.

use std::sync::{Arc, atomic::Ordering};

use eventstore_messaging::{BusError, Delivery};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use lapin::{
    Consumer,
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use crate::{
    inner::{Inner, locked},
    link::{ask, failure},
    reading::Reading,
    topology, wire,
};

/// Reads the queue of a group and a partition.
pub async fn read(
    inner: &Arc<Inner>,
    topic: &str,
    group: &str,
    partition: u16,
) -> Result<BoxStream<'static, Result<Delivery, BusError>>, BusError> {
    let queue = topology::queue(topic, group, partition)?;
    // In a task, so that it comes to its end if this is dropped, and is closed as any other.
    let opening = tokio::spawn(open(inner.clone(), queue));
    let open = opening.await.map_err(BusError::unavailable)??;
    // It ends after an error.
    let deliveries = stream::unfold(Some(open), async |open| {
        let mut open = open?;
        match open.consumer.as_mut()?.next().await {
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

async fn open(inner: Arc<Inner>, queue: ShortString) -> Result<Open, BusError> {
    let channel = inner.reading.channel().await?;
    ask(channel.basic_qos(inner.options.prefetch, BasicQosOptions::default())).await.map_err(failure)?;
    let reading = Arc::new(Reading::new(queue.clone(), channel.clone()));
    let id = {
        let mut readings = locked(&inner.readings);
        readings.last += 1;
        let id = readings.last;
        readings.open.insert(id, reading.clone());
        id
    };
    let mut open = Open { inner, id, reading, consumer: None };
    // The server chooses the tag.
    let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
    let consumer = ask(channel.basic_consume(queue, tag, options, FieldTable::default())).await.map_err(failure)?;
    open.consumer = Some(consumer);
    Ok(open)
}

/// A reading that is open.
struct Open {
    inner: Arc<Inner>,
    id: u64,
    reading: Arc<Reading>,
    consumer: Option<Consumer>,
}

impl Drop for Open {
    /// Closes the channel: the server puts back what is not done, and then makes the next consumer the active one.
    ///
    /// A dropped consumer cancels itself, and that must not come first: the next consumer would get newer messages at
    /// once, and those that are not done behind them.
    fn drop(&mut self) {
        locked(&self.inner.readings).open.remove(&self.id);
        let (channel, consumer) = (self.reading.channel.clone(), self.consumer.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = channel.close(200, "done".into()).await;
                drop(consumer);
            });
        }
    }
}
