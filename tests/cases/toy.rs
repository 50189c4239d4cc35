use eventstore::prelude::*;

#[derive(Event, Clone, Debug, PartialEq)]
enum Money {
    Deposited(i64),
    Withdrawn(i64),
}

#[derive(Aggregate)]
struct Wallet {
    balance: i64,
}

impl Evolve for Wallet {
    type Event = Money;
    fn evolve(&mut self, event: Money) {
        match event {
            Money::Deposited(amount) => self.balance += amount,
            Money::Withdrawn(amount) => self.balance -= amount,
        }
    }
}

#[derive(Clone)]
struct Withdraw(i64);

impl Decide<Withdraw> for Wallet {
    fn decide(&self, Withdraw(amount): Withdraw) -> Decision<Self> {
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![Money::Withdrawn(amount)])
    }
}

#[derive(Clone)]
struct Deposit(i64);

impl Decide<Deposit> for Wallet {
    fn decide(&self, Deposit(amount): Deposit) -> Decision<Self> {
        Ok(vec![Money::Deposited(amount)])
    }
}

#[tokio::test]
async fn toy() -> Result<(), Box<dyn std::error::Error>> {
    let world = super::world().await;
    let store = &world.store;
    let mine = Id::<Wallet>::new();
    store.execute(&mine, Deposit(100)).await?;
    let wallet = store.execute(&mine, Withdraw(30)).await?.state;
    assert_eq!(wallet.balance, 70);
    let refused = store.execute(&mine, Withdraw(100)).await.err().unwrap();
    assert_eq!(refused.to_string(), "only 70 left");
    Ok(())
}
