//! What the shop is doing: topics with their rates, how far each group is behind, dead letters, and the last orders.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use eventstore::{BoxError, Bus, Position, Processors, ReadInboxes, State, Store};
use tokio::time::{Instant, sleep};

use crate::{gateway::OrderPage, service::Place, shop::SERVICES};

const TOPICS: [&str; 5] = ["orders", "payments", "inventory", "shipping", "notifications"];

/// Prints what the shop is doing, every second or once.
pub async fn watch(place: &Place, once: bool) -> Result<(), BoxError> {
    let mut stores = BTreeMap::new();
    for service in SERVICES {
        stores.insert(service, place.store(service).await?);
    }
    let gateway = place.store("gateway").await?;
    let bus = place.bus().await?;
    let mut topics = Topics::default();
    loop {
        let mut screen = topics.count(&gateway).await?;
        screen.push('\n');
        for (service, store) in &stores {
            screen.push_str(&service_of(service, store, &bus).await?);
        }
        screen.push_str(&last_orders(&gateway).await?);
        if once {
            print!("{screen}");
            return Ok(());
        }
        print!("\x1b[2J\x1b[H{screen}");
        sleep(Duration::from_secs(1)).await;
    }
}

/// The messages of each topic, as the gateway has recorded them.
#[derive(Default)]
struct Topics {
    counted: Option<(Position, Instant)>,
    messages: BTreeMap<&'static str, u64>,
}

impl Topics {
    /// Counts what has come since the last time.
    async fn count(&mut self, gateway: &Store) -> Result<String, BoxError> {
        let (head, now) = (gateway.head().await?, Instant::now());
        let mut screen = format!("{:<16}{:>10}{:>12}\n", "topic", "messages", "per second");
        for topic in TOPICS {
            let after = self.counted.map_or(Position(0), |(position, _)| position);
            let new = gateway.read().category(format!("in.{topic}")).after(after).until(head).count().await?;
            let messages = self.messages.entry(topic).or_default();
            *messages += new;
            let rate = match self.counted {
                Some((_, then)) => format!("{:.1}", new as f64 / (now - then).as_secs_f64()),
                None => "-".into(),
            };
            writeln!(screen, "{topic:<16}{messages:>10}{rate:>12}")?;
        }
        self.counted = Some((head, now));
        Ok(screen)
    }
}

/// A service: what of it is behind or waits, and how far its groups are behind on the bus.
async fn service_of(service: &str, store: &Store, bus: &Bus) -> Result<String, BoxError> {
    let processors = Processors::new(store);
    let (mut behind, mut notes) = (0, vec![]);
    let all = processors.status().await?;
    if all.iter().all(|status| matches!(status.state, State::Detached | State::New)) {
        notes.push("does not run".to_owned());
    }
    for status in all {
        behind = behind.max(status.head.0.saturating_sub(status.position.0));
        if status.parked > 0 {
            let letters = processors.dead_letters(&status.name).list().await?;
            notes.push(format!("{}: {} dead letters", status.name, letters.len()));
        }
        if matches!(status.state, State::Paused | State::Failed | State::Aside) {
            let why = status.error.map_or_else(String::new, |error| format!(", {error}"));
            notes.push(format!("{}: {:?}{why}", status.name, status.state));
        }
    }
    for topic in TOPICS {
        for at in store.inboxes().offsets(topic).await? {
            let lag = bus.source.lag(topic, &at.group, at.partition, at.offset.as_ref()).await?;
            if lag > 0 {
                notes.push(format!("{topic}: {lag} messages behind"));
            }
        }
    }
    let notes = if notes.is_empty() { "caught up with its topics".into() } else { notes.join(", ") };
    Ok(format!("{service:<16}{behind:>10} events behind; {notes}\n"))
}

/// The orders that changed last, with their steps.
async fn last_orders(gateway: &Store) -> Result<String, BoxError> {
    let pages = gateway.read_model::<OrderPage>().list().order_by("changed").descending().limit(10).await;
    let mut screen = String::from("\n");
    match pages {
        Ok(pages) => {
            for (order, page) in pages {
                writeln!(screen, "{order}  {}", page.steps.join(" → "))?;
            }
        }
        Err(error) if error.is_retryable() => writeln!(screen, "the gateway has not run yet")?,
        Err(error) => return Err(error.into()),
    }
    Ok(screen)
}
