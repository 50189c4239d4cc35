//! disintegrate: decisions on what a query finds (DCB); serializable transactions.

use disintegrate::{
    Decision, DecisionError, Event, EventSourcedStateStore, EventStore, LoadState, NoSnapshot, StateMutate, StateQuery,
    query, serde::json::Json,
};
use disintegrate_postgres::{Error, PgDecisionMaker, PgEventId, PgEventStore, decision_maker};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    domain::Outcome,
    peer::{self, Payment, Peer, payment},
};

#[derive(Clone, Debug, Deserialize, Event, PartialEq, Eq, Serialize)]
enum AccountEvent {
    Deposited {
        #[id]
        account_id: Uuid,
        payment: Payment,
    },
}

#[derive(Clone, Default, Deserialize, Serialize, StateQuery)]
#[state_query(AccountEvent)]
struct Account {
    #[id]
    account_id: Uuid,
    balance: i64,
}

impl StateMutate for Account {
    fn mutate(&mut self, AccountEvent::Deposited { payment, .. }: AccountEvent) {
        self.balance += payment.amount;
    }
}

struct Deposit {
    account_id: Uuid,
    payment: Payment,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing to deposit")]
struct Nothing;

impl Decision for Deposit {
    type Event = AccountEvent;
    type StateQuery = Account;
    type Error = Nothing;

    fn state_query(&self) -> Account {
        Account { account_id: self.account_id, balance: 0 }
    }

    fn process(&self, _: &Account) -> Result<Vec<AccountEvent>, Nothing> {
        let Self { account_id, payment } = self;
        if payment.amount <= 0 {
            return Err(Nothing);
        }
        Ok(vec![AccountEvent::Deposited { account_id: *account_id, payment: payment.clone() }])
    }
}

type Events = PgEventStore<AccountEvent, Json<AccountEvent>>;

#[derive(Clone)]
pub struct Disintegrate {
    events: Events,
    states: EventSourcedStateStore<PgEventId, AccountEvent, Events, NoSnapshot>,
    decisions: PgDecisionMaker<AccountEvent, Json<AccountEvent>, NoSnapshot>,
}

impl Disintegrate {
    pub async fn connect(url: &str) -> Outcome<Self> {
        let pool = peer::pool(url, "disintegrate", include_str!("../migrations/disintegrate.sql")).await?;
        let events = Events::new_uninitialized(pool, Json::default());
        let states = EventSourcedStateStore::new(events.clone(), NoSnapshot);
        Ok(Self { states, decisions: decision_maker(events.clone(), NoSnapshot), events })
    }
}

/// Whether two transactions met that PostgreSQL could not put one after the other: then one tries again.
fn met(error: &Error) -> bool {
    let database =
        |error: &sqlx::Error| error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("40001"));
    match error {
        Error::Concurrency => true,
        Error::Database(error) => database(error),
        _ => false,
    }
}

impl Peer for Disintegrate {
    fn name(&self) -> String {
        peer::named("disintegrate-postgres")
    }

    async fn open(&self, deposits: usize) -> Outcome<Uuid> {
        let account_id = Uuid::now_v7();
        let deposited = || AccountEvent::Deposited { account_id, payment: payment() };
        let events: Vec<_> = (0..deposits).map(|_| deposited()).collect();
        loop {
            let nothing = query!(AccountEvent; account_id == account_id);
            match self.events.append(events.clone(), nothing, 0).await {
                Ok(_) => return Ok(account_id),
                Err(error) if met(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn load(&self, id: Uuid) -> Outcome<i64> {
        Ok(self.states.load(Account { account_id: id, balance: 0 }).await?.state().balance)
    }

    async fn deposit(&self, id: Uuid) -> Outcome<()> {
        loop {
            match self.decisions.make(Deposit { account_id: id, payment: payment() }).await {
                Ok(_) => return Ok(()),
                Err(DecisionError::StateStore(error)) if error.downcast_ref().is_some_and(met) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
