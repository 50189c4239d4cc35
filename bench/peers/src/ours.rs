//! eventstore itself.

use eventstore::{Expected, Id, PgStore, Store, Uuid, Version};

use crate::{
    domain::{Account, Deposit, Outcome, deposited},
    peer::Peer,
};

#[derive(Clone)]
pub struct Ours(Store);

impl Ours {
    pub async fn connect(url: &str) -> Outcome<Self> {
        Ok(Self(PgStore::connect(url).await?.into()))
    }
}

impl Peer for Ours {
    fn name(&self) -> String {
        "eventstore".into()
    }

    async fn open(&self, deposits: usize) -> Outcome<Uuid> {
        let id = Uuid::now_v7();
        let events = (0..deposits).map(|_| deposited(1));
        self.0.append(Id::<Account>::from(id), Expected::Version(Version(0)), events).await?;
        Ok(id)
    }

    async fn load(&self, id: Uuid) -> Outcome<i64> {
        Ok(self.0.load(Id::<Account>::from(id)).await?.balance)
    }

    async fn deposit(&self, id: Uuid) -> Outcome<()> {
        self.0.execute(Id::<Account>::from(id), Deposit(1)).await?;
        Ok(())
    }
}
