//! A transfer between two accounts, by a saga: takes the money from one, gives it to the other, and gives it back where
//! that is refused. The program runs itself as a process that is killed at each command in turn, starts it again, and
//! checks in the end that each command was recorded once and no money is lost.
//!
//! ```sh
//! cargo run --example transfer
//! ```

use std::{
    env,
    error::Error,
    mem::take,
    process::{Command as Process, abort},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use eventstore::{SagaStatus, prelude::*};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

type Any = Box<dyn Error>;

// An account, and its rules.

#[derive(Event, Clone, Debug)]
enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}

#[derive(Aggregate)]
struct Account {
    balance: i64,
    closed: bool,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount } => self.balance -= amount,
            AccountEvent::Closed => self.closed = true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Deposit(i64);

#[derive(Clone, Debug, PartialEq)]
struct Withdraw(i64);

#[derive(Clone, Debug, PartialEq)]
struct Close;

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit(amount): Deposit) -> Decision<Self> {
        killed_here();
        ensure!(!self.closed, "the account is closed");
        Ok(vec![AccountEvent::Deposited { amount }])
    }
}

impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw(amount): Withdraw) -> Decision<Self> {
        killed_here();
        ensure!(amount <= self.balance, "only {} left", self.balance);
        Ok(vec![AccountEvent::Withdrawn { amount }])
    }
}

impl Decide<Close> for Account {
    fn decide(&self, Close: Close) -> Decision<Self> {
        Ok(vec![AccountEvent::Closed])
    }
}

// A transfer: what was ordered, and how it has ended.

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Order {
    id: Id<Transfer>,
    from: Id<Account>,
    to: Id<Account>,
    amount: i64,
}

#[derive(Event, Clone, Debug)]
enum TransferEvent {
    Requested(Order),
    Completed,
    Refused,
}

#[derive(Aggregate)]
struct Transfer {
    #[aggregate(id)]
    id: Id<Transfer>,
    over: bool,
}

impl Evolve for Transfer {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.over = !matches!(event, TransferEvent::Requested(_));
    }
}

#[derive(Clone, Debug, PartialEq)]
enum TransferCommand {
    Request { from: Id<Account>, to: Id<Account>, amount: i64 },
    Complete,
    Refuse,
}
use TransferCommand::{Complete, Refuse, Request};

impl Decide<TransferCommand> for Transfer {
    fn decide(&self, command: TransferCommand) -> Decision<Self> {
        if !matches!(command, Request { .. }) {
            killed_here();
        }
        ensure!(!self.over, "the transfer is over");
        Ok(vec![match command {
            Request { from, to, amount } => TransferEvent::Requested(Order { id: self.id.clone(), from, to, amount }),
            Complete => TransferEvent::Completed,
            Refuse => TransferEvent::Refused,
        }])
    }
}

// The saga: a state that is folded from events, and an answer to each event.

#[derive(Event, Clone, Debug)]
#[event(transparent)]
enum BankEvent {
    Account(AccountEvent),
    Transfer(TransferEvent),
}

#[derive(Saga, Serialize, Deserialize, Clone, Default, Debug)]
#[saga(from = "beginning")]
enum MoneyTransfer {
    #[default]
    Idle,
    Taking(Order),
    Giving(Order),
    #[saga(end)]
    Settled,
}

impl Evolve for MoneyTransfer {
    type Event = BankEvent;

    fn evolve(&mut self, event: BankEvent) {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        *self = match (take(self), event) {
            (Idle, Transfer(Requested(order))) => Taking(order),
            (Taking(order), Account(Withdrawn { .. })) => Giving(order),
            (_, Transfer(Completed | Refused)) => Settled,
            (unchanged, _) => unchanged,
        }
    }
}

impl React for MoneyTransfer {
    fn react(&self, event: &Recorded<BankEvent>) -> Commands {
        use {AccountEvent::*, BankEvent::*, MoneyTransfer::*, TransferEvent::*};
        match (self, &event.data) {
            (Idle, Transfer(Requested(order))) => send(&order.from, Withdraw(order.amount)).or(send(&order.id, Refuse)),
            (Taking(order), Account(Withdrawn { amount })) => {
                let back = send(&order.from, Deposit(*amount)).and(send(&order.id, Refuse));
                send(&order.to, Deposit(*amount)).or(back)
            }
            (Giving(order), Account(Deposited { .. })) if event.stream == order.to => send(&order.id, Complete),
            _ => Commands::none(),
        }
    }
}

// The processes.

static CALLS: AtomicU64 = AtomicU64::new(0);
static KILLED_AT: AtomicU64 = AtomicU64::new(0);

/// Kills this process at one of the calls of its rules: the command is not recorded, those before it are.
fn killed_here() {
    if CALLS.fetch_add(1, Ordering::Relaxed) + 1 == KILLED_AT.load(Ordering::Relaxed) {
        abort();
    }
}

/// Runs the saga until all transfers are over, or until the process is killed.
async fn node(store: Store, killed_at: u64) -> Result<(), Any> {
    KILLED_AT.store(killed_at, Ordering::Relaxed);
    let runner = Runner::new(&store).lease(Duration::from_millis(200)).saga::<MoneyTransfer>().start();
    let over = async {
        while store.sagas::<MoneyTransfer>().list(SagaStatus::Finished, 10).await?.len() < TRANSFERS.len() {
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(60), over).await.map_err(|_| "a transfer hangs")??;
    runner.stop().await;
    Ok(())
}

/// From whom, to whom, how much: one succeeds, one is refused at once, one is refused after the money was taken.
const TRANSFERS: [(&str, &str, i64); 3] = [("ann", "bob", 70), ("ann", "bob", 50), ("bob", "eve", 20)];

#[tokio::main]
async fn main() -> Result<(), Any> {
    let arguments: Vec<_> = env::args().collect();
    if let [_, url, killed_at] = &arguments[..] {
        return node(eventstore::connect(url).await?, killed_at.parse()?).await;
    }
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}", folder.path().join("bank.db").display());
    let store = eventstore::connect(&url).await?;
    let account = |key: &str| Id::<Account>::from(key);
    store.execute(&account("ann"), Deposit(100)).await?;
    store.execute(&account("bob"), Deposit(20)).await?;
    store.execute(&account("eve"), Close).await?;
    for (n, (from, to, amount)) in TRANSFERS.into_iter().enumerate() {
        let request = Request { from: account(from), to: account(to), amount };
        store.execute(&Id::<Transfer>::from(format!("t{n}")), request).await?;
    }

    let mut killed_at = 1;
    loop {
        let done = Process::new(env::current_exe()?).args([&url, &killed_at.to_string()]).status()?;
        let events = store.head().await?;
        if done.success() {
            println!("a process ends by itself: {events} events");
            break;
        }
        if done.code().is_some() {
            return Err(format!("a process has failed: {done}").into());
        }
        println!("a process is killed at command {killed_at} of its own: {events} events");
        killed_at += 1;
    }

    let mut balances = vec![];
    for key in ["ann", "bob", "eve"] {
        balances.push((key, store.load(&account(key)).await?.state.balance));
    }
    let log: Vec<Recorded<BankEvent>> = store.read().events().try_collect().await?;
    let count = |of: fn(&BankEvent) -> bool| log.iter().filter(|event| of(&event.data)).count();
    let withdrawn = count(|event| matches!(event, BankEvent::Account(AccountEvent::Withdrawn { .. })));
    let deposited = count(|event| matches!(event, BankEvent::Account(AccountEvent::Deposited { .. })));
    let completed = count(|event| matches!(event, BankEvent::Transfer(TransferEvent::Completed)));
    let refused = count(|event| matches!(event, BankEvent::Transfer(TransferEvent::Refused)));
    println!("{balances:?}: {completed} completed, {refused} refused");
    let right = balances == [("ann", 30), ("bob", 90), ("eve", 0)];
    if !right || (withdrawn, deposited, completed, refused) != (2, 4, 1, 2) {
        return Err(format!("money is made or lost: {withdrawn} withdrawals, {deposited} deposits").into());
    }
    println!("each command was recorded once, and no money is lost");
    Ok(())
}
