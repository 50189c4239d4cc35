//! es-entity: a table of entities and a table of their events; optimistic, by the latter's unique index.
//!
//! Its macros ask a database about their statements when they are compiled; what it answered is in `.sqlx`. After a
//! change here, with a database where `migrations/es_entity.sql` was run:
//! `SQLX_OFFLINE=false DATABASE_URL=… cargo sqlx prepare`.

use es_entity::*;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    domain::Outcome,
    peer::{self, Payment, Peer, payment},
};

es_entity::entity_id! { AccountId }

#[derive(Deserialize, EsEvent, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[es_event(id = "AccountId")]
pub enum AccountEvent {
    Deposited(Payment),
}

#[derive(EsEntity)]
pub struct Account {
    pub id: AccountId,
    pub balance: i64,
    events: EntityEvents<AccountEvent>,
}

impl Account {
    fn deposit(&mut self, payment: Payment) {
        self.balance += payment.amount;
        self.events.push(AccountEvent::Deposited(payment));
    }
}

impl TryFromEvents<AccountEvent> for Account {
    fn try_from_events(events: EntityEvents<AccountEvent>) -> Result<Self, EntityHydrationError> {
        let balance = events.iter_all().map(|AccountEvent::Deposited(payment)| payment.amount).sum();
        let mut hydrator = Account::hydrator();
        hydrator.id(*events.id()).balance(balance);
        hydrator.build(events)
    }
}

pub struct NewAccount {
    deposits: usize,
}

impl IntoEvents<AccountEvent> for NewAccount {
    type IdSource = FromRepo;

    fn into_events(self, builder: EntityEventsBuilder<AccountEvent, FromRepo>) -> EntityEvents<AccountEvent> {
        builder.initial_events((0..self.deposits).map(|_| AccountEvent::Deposited(payment())))
    }
}

#[derive(Clone, EsRepo)]
#[es_repo(entity = "Account")]
pub struct Accounts {
    pool: PgPool,
}

impl Accounts {
    pub async fn connect(url: &str) -> Outcome<Self> {
        let pool = peer::pool(url, "es_entity", include_str!("../migrations/es_entity.sql")).await?;
        Ok(Self { pool })
    }
}

impl Peer for Accounts {
    fn name(&self) -> String {
        peer::named("es-entity")
    }

    async fn open(&self, deposits: usize) -> Outcome<Uuid> {
        Ok(self.create(NewAccount { deposits }).await?.id.into())
    }

    async fn load(&self, id: Uuid) -> Outcome<i64> {
        Ok(self.find_by_id(AccountId::from(id)).await?.balance)
    }

    async fn deposit(&self, id: Uuid) -> Outcome<()> {
        let mut account = self.find_by_id(AccountId::from(id)).await?;
        account.deposit(payment());
        self.update(&mut account).await?;
        Ok(())
    }
}
