//! cqrs-es with postgres-es: one table of events; optimistic, by its primary key. No view, no snapshots.

use std::{collections::HashMap, sync::Arc};

use cqrs_es::{
    Aggregate, CqrsFramework, DomainEvent, EventStore,
    event_sink::EventSink,
    persist::{EventStoreAggregateContext, PersistedEventStore},
};
use postgres_es::{PostgresCqrs, PostgresEventRepository};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::Outcome,
    peer::{self, Payment, Peer, payment},
};

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
enum Event {
    Deposited(Payment),
}

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        "Deposited".into()
    }

    fn event_version(&self) -> String {
        "1.0".into()
    }
}

#[derive(Default, Deserialize, Serialize)]
struct Account {
    balance: i64,
}

struct Deposit(Payment);

#[derive(Debug, thiserror::Error)]
#[error("nothing to deposit")]
struct Nothing;

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = Deposit;
    type Event = Event;
    type Error = Nothing;
    type Services = ();

    async fn handle(&mut self, Deposit(payment): Deposit, (): &(), sink: &EventSink<Self>) -> Result<(), Nothing> {
        if payment.amount <= 0 {
            return Err(Nothing);
        }
        sink.write(Event::Deposited(payment), self).await;
        Ok(())
    }

    fn apply(&mut self, Event::Deposited(payment): Event) {
        self.balance += payment.amount;
    }
}

type Events = PersistedEventStore<PostgresEventRepository, Account>;

#[derive(Clone)]
pub struct CqrsEs {
    store: Arc<Events>,
    cqrs: Arc<PostgresCqrs<Account>>,
}

impl CqrsEs {
    pub async fn connect(url: &str) -> Outcome<Self> {
        let pool = peer::pool(url, "cqrs_es", include_str!("../migrations/cqrs_es.sql")).await?;
        let store = || Events::new_event_store(PostgresEventRepository::new(pool.clone()));
        Ok(Self { store: Arc::new(store()), cqrs: Arc::new(CqrsFramework::new(store(), vec![], ())) })
    }
}

impl Peer for CqrsEs {
    fn name(&self) -> String {
        peer::named("postgres-es")
    }

    async fn open(&self, deposits: usize) -> Outcome<Uuid> {
        let id = Uuid::now_v7();
        // What `execute` does after it has loaded an aggregate that is not there.
        let new = EventStoreAggregateContext {
            aggregate_id: id.to_string(),
            aggregate: Account::default(),
            current_sequence: 0,
            current_snapshot: None,
        };
        let events = (0..deposits).map(|_| Event::Deposited(payment())).collect();
        self.store.commit(events, new, HashMap::new()).await?;
        Ok(id)
    }

    async fn load(&self, id: Uuid) -> Outcome<i64> {
        Ok(self.store.load_aggregate(&id.to_string()).await?.aggregate.balance)
    }

    async fn deposit(&self, id: Uuid) -> Outcome<()> {
        self.cqrs.execute(&id.to_string(), Deposit(payment())).await?;
        Ok(())
    }
}
