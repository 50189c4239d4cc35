//! A command for which nobody has a rule, alone and for two aggregates together.

use eventstore::prelude::*;

#[derive(Event, Clone)]
enum AccountEvent {
    Opened,
}

#[derive(Aggregate)]
struct Account {
    open: bool,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, _: AccountEvent) {
        self.open = true;
    }
}

#[derive(Clone)]
struct Open;

impl Decide<Open> for Account {
    fn decide(&self, Open: Open) -> Decision<Self> {
        Ok(vec![AccountEvent::Opened])
    }
}

#[derive(Clone)]
struct Close;

async fn close(store: Store, account: Id<Account>, other: Id<Account>) {
    let _ = store.execute(&account, Close).await;
    let _ = store.execute((&account, &other), Close).await;
}

fn main() {}
