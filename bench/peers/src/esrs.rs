//! esrs: a table of events for each type of aggregate; optimistic, by its unique index.

use esrs::{
    Aggregate, AggregateState,
    manager::AggregateManager,
    store::{
        EventStore,
        postgres::{PgStore, PgStoreBuilder},
    },
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::Outcome,
    peer::{self, Payment, Peer, payment},
};

#[derive(Clone, Deserialize, Serialize)]
enum Event {
    Deposited(Payment),
}

struct Account;

#[derive(Default)]
struct State {
    balance: i64,
}

struct Deposit(Payment);

#[derive(Debug, thiserror::Error)]
#[error("nothing to deposit")]
struct Nothing;

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = State;
    type Command = Deposit;
    type Event = Event;
    type Error = Nothing;

    fn handle_command(_: &State, Deposit(payment): Deposit) -> Result<Vec<Event>, Nothing> {
        if payment.amount > 0 { Ok(vec![Event::Deposited(payment)]) } else { Err(Nothing) }
    }

    fn apply_event(state: State, Event::Deposited(payment): Event) -> State {
        State { balance: state.balance + payment.amount }
    }
}

#[derive(Clone)]
pub struct Esrs(PgStore<Account>);

impl Esrs {
    pub async fn connect(url: &str) -> Outcome<Self> {
        let pool = peer::pool(url, "esrs", "").await?;
        Ok(Self(PgStoreBuilder::new(pool).try_build().await?))
    }
}

impl Peer for Esrs {
    fn name(&self) -> String {
        peer::named("esrs")
    }

    async fn open(&self, deposits: usize) -> Outcome<Uuid> {
        let id = Uuid::now_v7();
        let events = (0..deposits).map(|_| Event::Deposited(payment())).collect();
        self.0.persist(&mut AggregateState::with_id(id), events).await?;
        Ok(id)
    }

    async fn load(&self, id: Uuid) -> Outcome<i64> {
        let account = AggregateManager::new(self.0.clone()).load(id).await?;
        Ok(account.ok_or("no such account")?.inner().balance)
    }

    async fn deposit(&self, id: Uuid) -> Outcome<()> {
        let manager = AggregateManager::new(self.0.clone());
        let account = manager.load(id).await?.ok_or("no such account")?;
        manager.handle_command(account, Deposit(payment())).await??;
        Ok(())
    }
}
