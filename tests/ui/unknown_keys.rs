//! Keys that are misspelt, unknown, in the wrong place, said twice, or without what belongs to them.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
#[event(perfix = "account")]
enum AccountEvent {
    #[event(nmae = "account.opened", alias = "account.created")]
    Opened {
        #[event(tags)]
        account: Id<Account>,
    },
    #[event(tag)]
    Closed,
    #[event(colour = "red")]
    Painted,
    #[event]
    Frozen,
    #[event(name)]
    Thawed,
    #[event(name = "account.moved", name = "account.gone")]
    Moved,
    #[event(name = account.seen)]
    Seen,
    #[event(name = "account.left" alias = "account.gone")]
    Left,
    #[event("account.lost")]
    Lost,
}

#[derive(Aggregate)]
#[aggregate(errors = AccountError, bytag, cached, snapshots = 100, name = "account", by_tag = true)]
struct Account {
    #[aggregate(key)]
    id: Option<Id<Account>>,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {}
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[read_model(indx, version = 2)]
struct Balance {
    #[read_model(indx)]
    owner: String,
    #[read_model(name = "cents")]
    balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(_: &mut Row<Self>, _: &Recorded<AccountEvent>) {}
}

async fn one_mistake_is_one_message(store: Store, account: Id<Account>) {
    let _ = store.load(&account).await;
    let _ = store.read_model::<Balance>();
}

fn main() {}
