use AccountEvent::*;
use eventstore::prelude::*;

#[derive(Event, Clone, Debug, PartialEq)]
enum AccountEvent { Deposited { amount: i64 }, Withdrawn { amount: i64 } }      // what can happen

#[derive(Aggregate)]
struct Account { balance: i64 }                                                 // what the rules need to know

impl Evolve for Account {                                                       // event → state
    type Event = AccountEvent;
    fn evolve(&mut self, event: AccountEvent) {
        match event {
            Deposited { amount } => self.balance += amount,
            Withdrawn { amount } => self.balance -= amount,
        }
    }
}

#[derive(Clone)]
struct Deposit { amount: i64 }
#[derive(Clone)]
struct Withdraw { amount: i64 }

impl Decide<Deposit> for Account {                                              // command → events
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        ensure!(amount > 0, "an amount must be positive");
        ensure!(self.balance.checked_add(amount).is_some(), "the account is full");
        Ok(vec![Deposited { amount }])
    }
}
impl Decide<Withdraw> for Account {                                             // or a refusal
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(amount > 0, "an amount must be positive");
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![Withdrawn { amount }])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = eventstore::connect("memory:").await?;      // or "sqlite://bank.db", or "postgres://…": the same code
    let ann = Id::<Account>::new();
    let monday = store.execute(&ann, Deposit { amount: 100 }).await?.events[0].recorded_at;
    let done = store.execute(&ann, Withdraw { amount: 30 }).by("teller-7").await?;
    assert_eq!(done.state.balance, 70);
    let refused = store.execute(&ann, Withdraw { amount: 100 }).await.err().expect("too much");
    assert_eq!(refused.to_string(), "only 70 left");
    assert_eq!(store.load(&ann).as_of(monday).await?.balance, 100);
    use serde::{Deserialize, Serialize};

    #[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
    struct Balance { balance: i64 }

    impl Project for Balance {                                                  // event → row
        type Event = AccountEvent;
        fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
            match event.data {
                Deposited { amount } => row.balance += amount,
                Withdrawn { amount } => row.balance -= amount,
            }
        }
    }

    let runner = Runner::new(&store).read_model::<Balance>().start();
    let deposited = store.execute(&ann, Deposit { amount: 30 }).await?;
    let balances = store.read_model::<Balance>();
    assert_eq!(balances.get(&ann).after(deposited.position).await?, Some(Balance { balance: 100 }));
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    assert_eq!(balances.as_of(yesterday).list().await?, []);                    // the whole table, as it was
    runner.stop().await;
    Ok(())
}

#[test]
fn an_account_is_never_overdrawn() {
    Account::given([Deposited { amount: 100 }])
        .when(Withdraw { amount: 30 })
        .then([Withdrawn { amount: 30 }])
        .when(Withdraw { amount: 80 })
        .then_rejected("only 70 left");
}
