//! A relay and an inbox over real brokers, which `scripts/brokers` starts: what each adapter promises is tested beside it,
//! in `brokers/`.

use std::{collections::HashMap, error::Error, time::Duration};

use eventstore::{
    Bus, EventStore, Expected, Inbox, MemoryStore, Processors, RunMessaging, Start, Store, StreamId, Uuid, prelude::*,
};
use futures::TryStreamExt;
use tokio::time::{Instant, sleep};

type Any = Box<dyn Error>;

#[derive(Event, Clone, Debug, PartialEq)]
enum TicketEvent {
    Sold { seat: u32 },
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "ticket", topic = "tests.tickets", rename_all = "camelCase")]
enum TicketMessage {
    Sold { seat_number: u32 },
}

impl Publish for TicketMessage {
    type From = TicketEvent;

    fn publish(event: &Recorded<TicketEvent>) -> Vec<Self> {
        let TicketEvent::Sold { seat } = event.data;
        vec![Self::Sold { seat_number: seat }]
    }
}

async fn bus(variable: &str) -> Result<Bus, Any> {
    let url = std::env::var(variable);
    let url = url.map_err(|_| format!("{variable} names no broker: `export $(scripts/brokers for $$)` starts one"))?;
    Ok(eventstore::connect_bus(&url).await?)
}

/// How many messages each key has, and the seats of each in the order of the log.
async fn seats(store: &Store) -> Result<HashMap<String, Vec<u32>>, Any> {
    let mut seats = HashMap::<String, Vec<u32>>::new();
    let mut events = store.read().events::<TicketMessage>();
    while let Some(event) = events.try_next().await? {
        let TicketMessage::Sold { seat_number } = event.data;
        seats.entry(event.stream.key().to_owned()).or_default().push(seat_number);
    }
    Ok(seats)
}

/// Two services over a broker. The relay crashes between the confirm and its checkpoint, and both nodes are stopped and
/// started again.
async fn services_talk(bus: Bus) -> Result<(), Any> {
    let (inner, shipping) = (std::sync::Arc::new(MemoryStore::new()), Store::from(MemoryStore::new()));
    let orders = Store::from(inner.clone() as std::sync::Arc<dyn EventStore>).with_source("orders");
    // The broker may have messages of an earlier run.
    let group = format!("run.{}", Uuid::now_v7().simple());
    let inbox =
        || Runner::new(&shipping).inbox(Inbox::<TicketMessage>::new(&bus).group(&group).start(Start::Latest)).start();
    let relay = || Runner::new(&orders).relay::<TicketMessage>(&bus).start();
    let mut receiving = inbox();
    receiving.settle().await?;
    let mut publishing = relay();
    for turn in 0..4 {
        for seat in turn * 25..(turn + 1) * 25 {
            for hall in ["a", "b", "c"] {
                let stream = StreamId::new("ticket", &format!("{group}-{hall}"));
                orders.append(&stream, Expected::Any, [TicketEvent::Sold { seat }]).await?;
            }
        }
        publishing.settle().await?;
        publishing.stop().await;
        if turn == 1 {
            // As after a crash between the confirm and the commit: the checkpoint is behind the topic.
            let mut transaction = inner.begin().await?;
            transaction.lock_projection("relay:tests.tickets").await?;
            transaction.put_shards("relay:tests.tickets", vec![]).await?;
            transaction.commit().await?;
        }
        if turn == 2 {
            receiving.stop().await;
            receiving = inbox();
        }
        publishing = relay();
    }
    publishing.settle().await?;
    let late = Instant::now() + Duration::from_secs(30);
    while seats(&shipping).await?.values().map(Vec::len).sum::<usize>() < 300 && Instant::now() < late {
        sleep(Duration::from_millis(20)).await;
    }
    let all: Vec<u32> = (0..100).collect();
    let received = seats(&shipping).await?;
    assert_eq!(received.len(), 3);
    for (hall, seats) in received {
        assert_eq!(seats, all, "{hall}: each once, in order");
    }
    assert!(Processors::new(&orders).dead_letters("relay:tests.tickets").list().await?.is_empty());
    publishing.stop().await;
    receiving.stop().await;
    Ok(())
}

#[tokio::test]
async fn r2_services_talk_over_nats() -> Result<(), Any> {
    services_talk(bus("EVENTSTORE_TEST_NATS_URL").await?).await
}

#[tokio::test]
async fn r2_services_talk_over_rabbitmq() -> Result<(), Any> {
    services_talk(bus("EVENTSTORE_TEST_RABBITMQ_URL").await?).await
}
