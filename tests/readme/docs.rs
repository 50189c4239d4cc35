//! The Rust of the pages in `docs/`, compiled: each block that a page does not compile by itself is here or in another test,
//! line by line, and some of it runs.

#![allow(dead_code, unused_variables, reason = "what a page shows stands in a frame that does not use all of it")]
#![allow(
    clippy::let_and_return,
    clippy::needless_question_mark,
    clippy::unwrap_used,
    reason = "a page shows a part of a larger program"
)]

use std::{fs, marker::PhantomData, path::Path, time::Duration};

use eventstore::{
    BoxError, Event, MemoryStore, PgStore, Processors, Timestamp,
    prelude::*,
    sqlx::{self, PgConnection, SqliteConnection},
    testing::Clock,
};
use serde::{Deserialize, Serialize};

type Any = Box<dyn std::error::Error>;

#[derive(Event, Clone, Debug, PartialEq)]
enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: i64 },
    Closed,
}
use AccountEvent::*;

#[derive(Aggregate, Serialize, Deserialize, Debug, PartialEq)]
#[aggregate(snapshot = 100)]
struct Account {
    owner: String,
    balance: i64,
}

impl Evolve for Account {
    type Event = AccountEvent;

    fn evolve(&mut self, event: AccountEvent) {
        match event {
            Opened { owner } => self.owner = owner,
            Deposited { amount } => self.balance += amount,
            Closed => {}
        }
    }
}

#[derive(Clone)]
struct Deposit {
    amount: i64,
}
#[derive(Clone)]
struct Withdraw {
    amount: i64,
}

impl Decide<Deposit> for Account {
    fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
        Ok(vec![Deposited { amount }])
    }
}
impl Decide<Withdraw> for Account {
    fn decide(&self, Withdraw { amount }: Withdraw) -> Decision<Self> {
        ensure!(self.balance >= amount, "too little");
        Ok(vec![Deposited { amount: -amount }])
    }
}

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Balance {
    owner: String,
    balance: i64,
}

impl Project for Balance {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        match &event.data {
            Opened { owner } => row.owner = owner.clone(),
            Deposited { amount } => row.balance += amount,
            Closed => row.delete(),
        }
    }
}

#[derive(ReadModel, Serialize, Deserialize, Default, Debug, PartialEq)]
struct Turnover {
    cents: i64,
}

impl Project for Turnover {
    type Event = AccountEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<AccountEvent>) {
        if let Deposited { amount } = event.data {
            row.cents += amount;
        }
    }
}

/// Stands for the client of a search engine.
struct Client;
type Document = String;

impl Client {
    async fn put(&self, documents: impl Iterator<Item = (eventstore::Uuid, Document)>) -> Result<(), BoxError> {
        documents.for_each(drop);
        Ok(())
    }
}

fn document(event: &Recorded<AccountEvent>) -> Document {
    event.stream.to_string()
}

mod snapshots {
    use super::*;

    #[derive(Aggregate, Serialize, Deserialize)]
    #[aggregate(snapshot = 100)]
    struct Account {
        balance: i64,
    }

    impl Evolve for Account {
        type Event = AccountEvent;

        fn evolve(&mut self, _: AccountEvent) {}
    }

    #[test]
    fn a_state_survives_snapshots() {
        use super::Account;
        Account::survives_snapshots([Opened { owner: "Ann".into() }, Deposited { amount: 100 }]);
    }
}

mod operating {
    use super::*;

    async fn a_new_version(store: Store) -> Result<(), Any> {
        let building = Processors::new(&store).building("balance@2").await?;
        println!("{}", building.progress().await?); // 73.1 %: position 731000 of 1000000, 183000 events/s, 2 s left
        building.wait().await?;
        Ok(())
    }

    async fn a_rebuild(projections: Processors) -> Result<(), Any> {
        let rebuild = projections.rebuild("balance").await?;
        rebuild.wait().await?;
        println!("{}", projections.compare("balance").await?);
        projections.promote("balance").await?; // the two change names, in one transaction
        projections.discard("balance@1~shadow").await?; // or first: projections.rollback("balance").await?
        Ok(())
    }

    async fn more_shards(projections: Processors) -> Result<(), Any> {
        projections.reshard("balance", 16).await?; // Processors::new(&store), or the runner itself
        Ok(())
    }
}

mod operations {
    async fn refuse(url: &str) -> Result<(), super::Any> {
        use eventstore::{PgStore, doctor::Policy};

        let store = PgStore::options().doctor(Policy::Refuse).connect(url).await?; // or StoreError::Unhealthy(report)
        Ok(())
    }
}

async fn roles() -> Result<(), Any> {
    let log = PgStore::options().schema("bank").tables_schema("bank_rows");
    std::fs::write("roles.sql", log.roles_sql()?)?;
    Ok(())
}

async fn migrations(owner_url: &str, url: &str) -> Result<(), Any> {
    let log = PgStore::options().schema("bank");
    let migrations = log.migrations(owner_url).await?;
    println!("{migrations}"); // applied 001_log …, missing …
    std::fs::write("next.sql", migrations.script())?; // for psql; or
    migrations.apply().await?;

    log.migrate(false).connect(url).await?; // a node: StoreError::Unmigrated names what is missing
    Ok(())
}

fn functions() -> Result<(), Any> {
    std::fs::write("functions.sql", PgStore::options().schema("archive").functions_sql()?)?; // for psql, as the owner
    Ok(())
}

mod sql {
    use super::*;

    struct Ledger;

    impl Projection for Ledger {
        const NAME: &'static str = "ledger"; // of the checkpoint: another name starts from the first event
        type Event = AccountEvent;
        type Db = sqlx::Postgres;

        async fn prepare(&self, db: &mut PgConnection) -> Result<(), BoxError> {
            sqlx::query("CREATE TABLE IF NOT EXISTS public.ledger (account text, cents bigint)").execute(db).await?;
            Ok(())
        }

        async fn project(&self, event: &Recorded<AccountEvent>, db: &mut PgConnection) -> Result<(), BoxError> {
            if let Deposited { amount } = event.data {
                let add =
                    sqlx::query("INSERT INTO public.ledger VALUES ($1, $2)").bind(event.stream.key()).bind(amount);
                add.execute(db).await?;
            }
            Ok(())
        }
    }

    async fn run(store: Store) {
        let runner = Runner::new(&store).read_model::<Balance>().projection(Ledger).start();
        runner.stop().await; // after the batch at hand
    }
}

mod sql_on_two_databases {
    use super::*;

    struct Ledger<Db>(PhantomData<Db>);

    impl Projection for Ledger<sqlx::Postgres> {
        const NAME: &'static str = "ledger";
        type Event = AccountEvent;
        type Db = sqlx::Postgres;

        async fn project(&self, _: &Recorded<AccountEvent>, _: &mut PgConnection) -> Result<(), BoxError> {
            Ok(())
        }
    }

    impl Projection for Ledger<sqlx::Sqlite> {
        const NAME: &'static str = "ledger";
        type Event = AccountEvent;
        type Db = sqlx::Sqlite;

        async fn project(&self, _: &Recorded<AccountEvent>, _: &mut SqliteConnection) -> Result<(), BoxError> {
            Ok(())
        }
    }

    fn run(store: Store, production: bool) -> Runner {
        let runner = Runner::new(&store);
        let runner = match production {
            true => runner.projection(Ledger::<sqlx::Postgres>(PhantomData)),
            false => runner.projection(Ledger::<sqlx::Sqlite>(PhantomData)),
        };
        runner
    }
}

struct Search {
    client: Client,
}

impl Subscription for Search {
    const NAME: &'static str = "search";
    type Event = AccountEvent;

    async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
        let documents = events.iter().map(|event| (event.id, document(event)));
        Ok(self.client.put(documents).await?)
    }
}

async fn subscribe(store: Store, client: Client) {
    #[rustfmt::skip] // as it is on the page
    struct Search { client: Client }

    impl Subscription for Search {
        const NAME: &'static str = "search"; // of the checkpoint: another name starts from the first event
        type Event = AccountEvent;

        async fn handle(&self, events: &[&Recorded<AccountEvent>]) -> Result<(), BoxError> {
            let documents = events.iter().map(|event| (event.id, document(event)));
            Ok(self.client.put(documents).await?)
        }
    }

    let runner = Runner::new(&store).subscription(Search { client }).start();
}

#[tokio::test]
async fn rows_are_kept_with_each_append_and_settle_for_tests() -> Result<(), Any> {
    let ann = Id::<Account>::from("ann");
    let store = eventstore::connect("memory:").await?;
    let store = store.with_inline::<Balance>().with_inline::<Turnover>();
    store.execute(&ann, Deposit { amount: 100 }).await?;
    let balance = store.read_model::<Balance>().get(&ann).await?; // it is in there
    assert_eq!(balance.map(|row| row.balance), Some(100));

    Balance::after(&ann, [Opened { owner: "Ann".into() }, Deposited { amount: 5 }])
        .then(&ann, Balance { owner: "Ann".into(), balance: 5 })
        .after(&ann, [Closed])
        .then_none(&ann);

    let client = Client;
    let clock = Clock::new(); // eventstore::testing
    let store = Store::from(MemoryStore::with_clock(&clock));
    let runner = Runner::new(&store).read_model::<Balance>().subscription(Search { client }).from_beginning().start();
    store.execute(&ann, Deposit { amount: 100 }).await?;
    runner.settle().await?; // or StoreError::Parked, Stopped, Behind
    clock.advance(Duration::from_secs(2)); // what was parked is due
    runner.settle().await?; // and has been tried again

    let balances = store.read_model::<Balance>();
    let done = store.execute(&ann, Deposit { amount: 1 }).await?;
    let header = store.token(done.position).await?.to_string(); // `018f….1.1840`
    let position = store.position_of(&header.parse()?).await?; // of another log: `Forked`; garbage: `Invalid`
    let balance = balances.get(&ann).after(position).await?;
    assert_eq!(balance.map(|row| row.balance), Some(101));
    let rich = balances.list().filter("owner", "Ann").order_by("balance").descending().skip(20).limit(10).await?;
    assert_eq!(rich, []);

    let token = store.token(done.position).await?.to_string(); // {log id}.{epoch}.{position}
    let position = store.position_of(&token.parse()?).await?; // StoreError::Forked: of another log, or of a lost end
    store.execute(&ann, Withdraw { amount: 30 }).expecting_position(position).await?;
    runner.stop().await;
    Ok(())
}

async fn the_past(store: Store, ann: Id<Account>, start: Timestamp, end: Timestamp) {
    let november = store.read().category("account").recorded_after(start).as_of(end).events::<AccountEvent>();
    let last_ten = store.read().stream(&ann).backwards().limit(10).events::<AccountEvent>();
    let accounts = store.streams("account"); // each with its version and the position of its last event
}

async fn each_friday(store: Store, fridays: Vec<Timestamp>) -> Result<(), Any> {
    let mut balances = store.read_model::<Balance>().replay();
    for friday in fridays {
        balances.until(store.position_at(friday).await?).await?;
        println!("{friday}: {}", balances.iter().map(|(_, row)| row.balance).sum::<i64>());
    }
    Ok(())
}

/// What a crate with a store of its own writes: here, one in memory.
mod a_store_of_ones_own {
    use std::{path::Path, sync::Arc};

    use eventstore::{EventStore, MemoryStore, StoreError};
    use tempfile::TempDir;

    struct MyStore;

    impl MyStore {
        async fn open(_: &Path) -> Result<MemoryStore, StoreError> {
            Ok(MemoryStore::new())
        }
    }

    // tests/conformance.rs
    async fn fresh() -> (Arc<dyn EventStore>, TempDir) {
        let folder = TempDir::new().unwrap();
        (Arc::new(MyStore::open(folder.path()).await.unwrap()), folder)
    }

    eventstore_core::conformance!(fresh);
}

/// The frame of `docs/processes.md`; its saga is in `examples/transfer.rs`.
mod processes {
    use eventstore::SagaStatus;

    use super::*;

    #[derive(Saga, Serialize, Deserialize, Clone, Default, Debug)]
    struct MoneyTransfer {
        events: u64,
    }

    impl Evolve for MoneyTransfer {
        type Event = AccountEvent;

        fn evolve(&mut self, _: AccountEvent) {
            self.events += 1;
        }
    }

    impl React for MoneyTransfer {
        fn react(&self, _: &Recorded<AccountEvent>) -> Commands {
            Commands::none()
        }
    }

    #[derive(Clone, Debug, PartialEq)]
    struct Deposit {
        amount: i64,
    }

    impl Decide<Deposit> for Account {
        fn decide(&self, Deposit { amount }: Deposit) -> Decision<Self> {
            Ok(vec![Deposited { amount }])
        }
    }

    async fn reacting(store: Store) {
        /// Gives one cent for each deposit of more than a hundred.
        struct Bonus;

        impl Reactor for Bonus {
            const NAME: &'static str = "bonus";
            type Event = AccountEvent;

            fn react(&self, event: &Recorded<AccountEvent>) -> Commands {
                match event.data {
                    Deposited { amount } if amount > 100 => {
                        send(Id::<Account>::from(event.stream.key()), Deposit { amount: 1 })
                    }
                    _ => Commands::none(),
                }
            }
        }

        let runner = Runner::new(&store).reactor(Bonus).from_now().start();
    }

    async fn looking(store: Store, key: String) -> Result<(), Any> {
        let runner = Runner::new(&store).saga::<MoneyTransfer>().start();
        if let Some(instance) = store.sagas::<MoneyTransfer>().get(&key).await? {
            println!("{:?}: {:?}, due {:?}, {:?}", instance.status, instance.state, instance.due, instance.error);
        }
        let parked = store.sagas::<MoneyTransfer>().list(SagaStatus::Parked, 100).await?;
        store.sagas::<MoneyTransfer>().retry(&key).await?;
        let transfers = store.sagas::<MoneyTransfer>().by("ann@bank");
        transfers.cancel(&key, "a mistake").await?;
        Ok(())
    }
}

/// Timers, scheduled commands, cron.
mod timers {
    use std::time::{Duration, SystemTime};

    use eventstore::{Missed, Tick, Timestamp, Unscheduled, prelude::*};
    use serde::{Deserialize, Serialize};

    use super::Any;

    #[derive(Event, Clone, Debug, PartialEq)]
    enum AccountEvent {
        Closed,
        Reminded { text: String },
    }

    #[derive(Aggregate)]
    struct Account;

    impl Evolve for Account {
        type Event = AccountEvent;

        fn evolve(&mut self, _: AccountEvent) {}
    }

    #[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
    struct Remind {
        text: String,
    }

    impl Decide<Remind> for Account {
        fn decide(&self, Remind { text }: Remind) -> Decision<Self> {
            Ok(vec![AccountEvent::Reminded { text }])
        }
    }

    async fn scheduling(
        store: Store,
        (ann, bob): (Id<Account>, Id<Account>),
        friday: SystemTime,
        text: String,
    ) -> Result<(), Any> {
        impl Decide<Close> for Account {
            fn decide(&self, _: Close) -> Decision<Self> {
                Ok(vec![AccountEvent::Closed])
            }
        }

        #[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
        #[command(name = "account.close")]
        struct Close {}

        let scheduled = store.schedule(&ann, Close {}).at(friday).id("close-ann").by("teller-7").await?;
        store.schedule(&bob, Remind { text }).after(Duration::from_secs(3 * 86_400)).await?;

        let runner = Runner::new(&store).executes::<Account, (Close, Remind)>().start();
        Ok(())
    }

    #[derive(Event, Clone, Debug, PartialEq)]
    enum InvoiceEvent {
        Issued,
        WrittenOff,
    }

    #[derive(Aggregate)]
    struct Invoice;

    impl Evolve for Invoice {
        type Event = InvoiceEvent;

        fn evolve(&mut self, _: InvoiceEvent) {}
    }

    #[derive(Clone)]
    struct Issue {
        amount: i64,
    }

    impl Decide<Issue> for Invoice {
        fn decide(&self, _: Issue) -> Decision<Self> {
            Ok(vec![InvoiceEvent::Issued])
        }
    }

    #[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
    struct WriteOff {}

    impl Decide<WriteOff> for Invoice {
        fn decide(&self, _: WriteOff) -> Decision<Self> {
            Ok(vec![InvoiceEvent::WrittenOff])
        }
    }

    async fn in_a_transaction(store: Store, invoice: Id<Invoice>, sixty_days: Duration) -> Result<(), Any> {
        let amount = 1;
        let tx = store.begin().await?;
        let issued = tx.execute(&invoice, Issue { amount }).await?;
        tx.schedule(&invoice, WriteOff {}).after(sixty_days).id("write-off-42").caused_by(&issued.events[0]).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn cancelling(store: Store) -> Result<(), Any> {
        match store.unschedule("close-ann").await? {
            Unscheduled::Cancelled => {}              // it is never executed
            Unscheduled::Fired { at, position } => {} // it was; this is the position of its last event
            Unscheduled::Unknown => {}                // nothing is scheduled under the id
            _ => {}
        }
        Ok(())
    }

    #[derive(Event, Clone, Debug, PartialEq)]
    enum BankEvent {
        Credited { month: Timestamp },
    }

    #[derive(Aggregate)]
    struct Bank;

    impl Evolve for Bank {
        type Event = BankEvent;

        fn evolve(&mut self, _: BankEvent) {}
    }

    #[derive(Clone, Debug, PartialEq)]
    struct CreditInterest {
        month: Timestamp,
    }

    impl Decide<CreditInterest> for Bank {
        fn decide(&self, CreditInterest { month }: CreditInterest) -> Decision<Self> {
            Ok(vec![BankEvent::Credited { month }])
        }
    }

    async fn cron(store: Store) {
        struct Interest;

        impl Schedule for Interest {
            const NAME: &'static str = "interest";
            const CRON: &'static str = "0 3 1 * *";
            const ZONE: &'static str = "Europe/Berlin";
            const MISSED: Missed = Missed::All;

            fn tick(&self, tick: &Tick) -> Commands {
                send(Id::<Bank>::from("main"), CreditInterest { month: tick.at })
            }
        }

        let runner = Runner::new(&store).schedule(Interest).start();
    }
}

/// Text without blanks: how it is wrapped is no matter.
fn squeezed(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn sources(folder: &Path, into: &mut String) {
    for file in fs::read_dir(folder).expect("a folder of the project") {
        let path = file.expect("a file").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *into += &squeezed(&fs::read_to_string(path).expect("text"));
        }
    }
}

/// A page must not show what does not compile any more. What a page leaves out, it writes `…`.
#[test]
fn each_block_of_rust_in_the_docs_is_in_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut compiled, mut blocks) = (String::new(), 0);
    sources(&root.join("tests"), &mut compiled);
    sources(&root.join("examples"), &mut compiled);
    for file in fs::read_dir(root.join("docs")).expect("the docs") {
        let path = file.expect("a file").path();
        let Ok(page) = fs::read_to_string(&path) else { continue };
        for block in page.split("```rust,ignore\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            // In a comment, `…` is of the text.
            let mut parts = vec![String::new()];
            for line in block.lines() {
                let code = line.split("//").next().unwrap_or_default();
                match code.split_once('…') {
                    Some((before, _)) => {
                        parts.last_mut().expect("one").push_str(before);
                        parts.push(String::new());
                    }
                    None => parts.last_mut().expect("one").push_str(line),
                }
            }
            for part in parts {
                let part = squeezed(&part);
                assert!(compiled.contains(&part), "{}: in no test: {part}", path.display());
            }
            blocks += 1;
        }
    }
    assert!(blocks > 30, "{blocks}");
}
