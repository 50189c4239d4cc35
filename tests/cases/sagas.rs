//! Sagas and reactors as a runner runs them: each command is recorded once, whatever happens between two of them.

use std::{
    mem::take,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use eventstore::{
    Changes, Checkpoint, EventStore, Position, Processors, Raw, Rows, SagaStatus, StartFrom, State, StoreError,
    StreamId, prelude::*,
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{
    Between,
    account::{Account, AccountEvent, Deposit, Open, Withdraw},
    transfer::{BankEvent, Order, Transfer, TransferCommand::*, TransferEvent},
    world,
};

type Any = Box<dyn std::error::Error>;

pub const LEASE: Duration = Duration::from_millis(300);

/// Takes the money from one account and gives it to the other. A transfer that is not over in time expires.
macro_rules! transfers {
    ($saga:ident, $name:literal, $time:expr) => {
        #[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
        #[saga(name = $name, from = "beginning")]
        pub enum $saga {
            #[default]
            Idle,
            Taking(Order),
            Giving(Order),
            #[saga(end)]
            Settled,
        }

        impl Evolve for $saga {
            type Event = BankEvent;

            fn evolve(&mut self, event: BankEvent) {
                use {AccountEvent::*, BankEvent::*, TransferEvent::*};
                *self = match (take(self), event) {
                    (Self::Idle, Transfer(Requested(order))) => Self::Taking(order),
                    (Self::Taking(order), Account(Withdrawn { .. })) => Self::Giving(order),
                    (_, Transfer(Completed | Refused | Expired)) => Self::Settled,
                    (unchanged, _) => unchanged,
                }
            }
        }

        impl React for $saga {
            fn react(&self, event: &Recorded<BankEvent>) -> Commands {
                use {AccountEvent::*, BankEvent::*, TransferEvent::*};
                match (self, &event.data) {
                    (Self::Idle, Transfer(Requested(order))) => send(&order.from, Withdraw { amount: order.amount })
                        .or(send(&order.id, Refuse))
                        .and(send(&order.id, Expire).after($time).named("expiry")),
                    (Self::Taking(order), Account(Withdrawn { amount })) => {
                        let back = send(&order.from, Deposit { amount: *amount }).and(send(&order.id, Refuse));
                        send(&order.to, Deposit { amount: *amount }).or(back)
                    }
                    (Self::Giving(order), Account(Deposited { .. })) if event.stream == order.to => {
                        send(&order.id, Complete)
                    }
                    _ => Commands::none(),
                }
            }
        }
    };
}

transfers!(MoneyTransfer, "money_transfer", Duration::from_secs(3_600));

pub fn account(key: &str) -> Id<Account> {
    key.into()
}

pub fn transfer(key: &str) -> Id<Transfer> {
    key.into()
}

/// Opens accounts for Ann, who has 60, and for Bob.
pub async fn bank(store: &Store) -> Result<(), Any> {
    for (key, amount) in [("ann", 60), ("bob", 0)] {
        store.execute(&account(key), Open { owner: key.into() }).await?;
        if amount > 0 {
            store.execute(&account(key), Deposit { amount }).await?;
        }
    }
    Ok(())
}

/// Requests a transfer from Ann to Bob. Returns its event.
pub async fn requested(store: &Store, key: &str, amount: i64) -> Result<Recorded<Raw>, Any> {
    let request = Request { from: account("ann"), to: account("bob"), amount };
    let done = store.execute(&transfer(key), request).await?;
    let mut events: Vec<_> = store.read().after(Position(done.position.0 - 1)).raw().try_collect().await?;
    Ok(events.swap_remove(0))
}

/// Requests a transfer from Ann to Bob. Returns its correlation id, which is the key of its instance.
async fn request(store: &Store, key: &str, amount: i64) -> Result<String, Any> {
    Ok(requested(store, key, amount).await?.metadata.correlation_id.to_string())
}

pub async fn names(store: &Store) -> Result<Vec<String>, Any> {
    let log: Vec<_> = store.read().raw().try_collect().await?;
    Ok(log.iter().map(|event| event.data.name.to_string()).collect())
}

async fn balances(store: &Store) -> Result<(i64, i64), Any> {
    let (ann, bob) = (store.load(&account("ann")).await?, store.load(&account("bob")).await?);
    Ok((ann.state.balance, bob.state.balance))
}

/// Waits until a condition holds; fails after 20 seconds.
pub async fn until<F: Future<Output = Result<bool, Any>>>(condition: impl Fn() -> F) -> Result<(), Any> {
    let holds = async {
        while !condition().await? {
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Any>(())
    };
    timeout(Duration::from_secs(20), holds).await.map_err(|_| "it does not come to that")?
}

async fn is_over(store: &Store, key: &str) -> Result<bool, Any> {
    let instance = store.sagas::<MoneyTransfer>().get(key).await?;
    Ok(instance.is_some_and(|instance| instance.status == SagaStatus::Finished))
}

#[tokio::test]
async fn g1_a_saga_sends_each_command_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    bank(store).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<MoneyTransfer>().start();
    let key = request(store, "t1", 50).await?;
    until(|| is_over(store, &key)).await?;
    assert_eq!(balances(store).await?, (10, 50));
    // The withdrawal is refused: the transfer is.
    let refused = request(store, "t2", 50).await?;
    until(|| is_over(store, &refused)).await?;
    assert_eq!(balances(store).await?, (10, 50));
    let kinds = names(store).await?;
    let of = |name: &str| kinds.iter().filter(|kind| *kind == name).count();
    assert_eq!((of("account.withdrawn"), of("account.deposited"), of("transfer.completed")), (1, 2, 1));
    assert_eq!((of("transfer.refused"), of("saga.answered")), (1, 1), "{kinds:?}");
    let instance = store.sagas::<MoneyTransfer>().get(&key).await?.expect("it is kept");
    assert_eq!((instance.state, instance.timers.len()), (Some(MoneyTransfer::Settled), 0), "its timer is gone with it");
    assert!(instance.due.is_some_and(|due| due > instance.changed_at), "it is deleted later");
    // C3: the conversation goes on, each event has its cause.
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let of_key: Vec<_> = log.iter().filter(|event| event.metadata.correlation_id.to_string() == key).collect();
    assert_eq!(of_key.len(), 4);
    for event in &of_key[1..] {
        let cause = event.metadata.causation_id.expect("it has a cause");
        assert!(of_key.iter().any(|other| other.id == cause));
        assert_eq!(event.metadata.actor.as_deref(), Some("saga:money_transfer"));
    }
    runner.stop().await;
    Ok(())
}

/// The answers of commits are lost; what crashes between a command and its commit is in `examples/transfer.rs`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_saga_whose_commits_are_not_answered_sends_each_command_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    bank(store).await?;
    let mut keys = vec![];
    for n in 0..10 {
        keys.push(request(store, &format!("t{n}"), 10).await?);
    }
    // The answer of every third commit is lost; every second of these commits is not done.
    let unsure = Store::from(Arc::new(Between::new(&world.inner).unanswered(3)) as Arc<dyn EventStore>);
    let runner = Runner::new(&unsure).lease(LEASE).saga::<MoneyTransfer>().shards(2).start();
    for key in &keys {
        until(|| is_over(store, key)).await?;
    }
    runner.stop().await;
    assert_eq!(balances(store).await?, (0, 60));
    let kinds = names(store).await?;
    let of = |name: &str| kinds.iter().filter(|kind| *kind == name).count();
    assert_eq!((of("account.withdrawn"), of("transfer.completed"), of("transfer.refused")), (6, 6, 4), "{kinds:?}");
    Ok(())
}

#[tokio::test]
async fn m1_a_timer_fires_when_it_is_due_and_not_before() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    store.execute(&account("ann"), Open { owner: "ann".into() }).await?;
    store.execute(&account("ann"), Deposit { amount: 60 }).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Waiting>().start();
    let (first, second) = (request(store, "t1", 300).await?, request(store, "t2", 3_600_000).await?);
    let there = async |key: &str| store.sagas::<Waiting>().get(key).await;
    until(async || Ok(there(&second).await?.is_some())).await?;
    // In a store with a clock of its own, the clock stands still until it is moved.
    if let Some(clock) = world.clock() {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(there(&first).await?.map(|one| one.timers.len()), Some(1));
        clock.advance(Duration::from_millis(300));
    }
    until(async || Ok(there(&first).await?.is_some_and(|one| one.status == SagaStatus::Finished))).await?;
    let log: Vec<Recorded<BankEvent>> = store.read().events().try_collect().await?;
    let at = |key: &str, data: fn(&BankEvent) -> bool| {
        log.iter().find(|event| event.stream == transfer(key) && data(&event.data)).map(|event| event.recorded_at)
    };
    let requested = at("t1", |event| matches!(event, BankEvent::Transfer(TransferEvent::Requested(_))));
    let expired = at("t1", |event| matches!(event, BankEvent::Transfer(TransferEvent::Expired)));
    let (requested, expired) = (requested.expect("it was requested"), expired.expect("it has expired"));
    assert!(expired >= requested + Duration::from_millis(300), "{requested} {expired}");
    assert_eq!(there(&second).await?.map(|one| (one.status, one.timers.len())), Some((SagaStatus::Running, 1)));
    runner.stop().await;
    Ok(())
}

/// A batch whose commands are recorded, and which cannot be committed, is begun again and again: with the same ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_batch_that_cannot_be_committed_sends_the_same_commands_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    bank(store).await?;
    let down = Arc::new(AtomicBool::new(false));
    let elsewhere = Store::from(Arc::new(Between::new(&world.inner).down_while(&down)) as Arc<dyn EventStore>);
    let runner = Runner::new(&elsewhere).lease(Duration::from_secs(2)).saga::<MoneyTransfer>().start();
    runner.until(store.head().await?).await?;
    down.store(true, SeqCst);
    let key = request(store, "t1", 20).await?;
    until(async || Ok(names(store).await?.iter().any(|name| name == "account.withdrawn"))).await?;
    // Time for several tries.
    sleep(Duration::from_millis(300)).await;
    assert!(store.sagas::<MoneyTransfer>().get(&key).await?.is_none(), "nothing of it is committed");
    down.store(false, SeqCst);
    until(|| is_over(store, &key)).await?;
    runner.stop().await;
    assert_eq!(balances(store).await?, (40, 20));
    let after = ["transfer.requested", "account.withdrawn", "account.deposited", "transfer.completed"];
    assert_eq!(names(store).await?[3..], after);
    Ok(())
}

/// Waits as many milliseconds as a transfer has cents; then the transfer expires.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning")]
enum Waiting {
    #[default]
    Idle,
    Waits,
    #[saga(end)]
    Over,
}

impl Evolve for Waiting {
    type Event = BankEvent;

    fn evolve(&mut self, event: BankEvent) {
        match event {
            BankEvent::Transfer(TransferEvent::Requested(_)) => *self = Self::Waits,
            BankEvent::Transfer(TransferEvent::Expired | TransferEvent::Completed) => *self = Self::Over,
            _ => {}
        }
    }
}

impl React for Waiting {
    fn react(&self, event: &Recorded<BankEvent>) -> Commands {
        let BankEvent::Transfer(TransferEvent::Requested(order)) = &event.data else { return Commands::none() };
        send(&order.id, Expire).after(Duration::from_millis(order.amount.unsigned_abs()))
    }
}

/// The timer goes with the write that ends the instance, so it cannot fire afterwards.
#[tokio::test]
async fn g10_an_instance_that_is_over_has_no_timers() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Waiting>().start();
    let key = request(store, "t1", 1_000).await?;
    let there = async || store.sagas::<Waiting>().get(&key).await;
    until(async || Ok(there().await?.is_some_and(|one| one.timers.len() == 1))).await?;
    let requested: Vec<_> = store.read().raw().try_collect().await?;
    store.execute(&transfer("t1"), Complete).caused_by(&requested[0]).await?;
    until(async || Ok(there().await?.is_some_and(|one| one.status == SagaStatus::Finished))).await?;
    assert_eq!(there().await?.map(|one| one.timers.len()), Some(0));
    match world.clock() {
        Some(clock) => clock.advance(Duration::from_secs(2)),
        None => sleep(Duration::from_millis(1_100)).await,
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(names(store).await?, ["transfer.requested", "transfer.completed"]);
    // Its row is deleted when it was kept for 7 days.
    if let Some(clock) = world.clock() {
        clock.advance(Duration::from_secs(8 * 86_400));
        until(async || Ok(there().await?.is_none())).await?;
        assert_eq!(names(store).await?, ["transfer.requested", "transfer.completed", "saga.ended"]);
    }
    runner.stop().await;
    Ok(())
}

/// One instance for each transfer, by its stream; over at once.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning", stream)]
enum Once {
    #[default]
    New,
    #[saga(end)]
    Over,
}

impl Evolve for Once {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        *self = Self::Over;
    }
}

impl React for Once {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        publish(StreamId::new("once", event.stream.key()), AccountEvent::Closed)
    }
}

/// The end of an instance is known after its row was deleted, where another event may have its key.
#[tokio::test]
async fn g10_an_instance_whose_row_was_deleted_does_not_begin_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The clock of a server cannot be moved.
    let Some(clock) = world.clock() else { return Ok(()) };
    let runner = Runner::new(store).lease(LEASE).saga::<Once>().start();
    request(store, "t1", 1).await?;
    let there = async || store.sagas::<Once>().get("t1").await;
    until(async || Ok(there().await?.is_some_and(|one| one.status == SagaStatus::Finished))).await?;
    clock.advance(Duration::from_secs(8 * 86_400));
    until(async || Ok(there().await?.is_none())).await?;
    let refused = store.execute(&transfer("t1"), Refuse).await?;
    runner.until(refused.position).await?;
    assert!(there().await?.is_none());
    assert_eq!(names(store).await?.iter().filter(|name| *name == "account.closed").count(), 1);
    runner.stop().await;
    Ok(())
}

static BROKEN: AtomicBool = AtomicBool::new(true);

/// Panics at a transfer of 13 while the code is broken.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning", stream)]
struct Fragile {
    seen: u32,
}

impl Evolve for Fragile {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Fragile {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        let TransferEvent::Requested(order) = &event.data else { return Commands::none() };
        assert!(order.amount != 13 || !BROKEN.load(SeqCst), "thirteen");
        send(&order.id, Complete)
    }
}

/// P3 holds for sagas: an instance whose code panics waits, and the others go on.
#[tokio::test]
async fn p3_an_instance_that_cannot_be_answered_waits_by_itself() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Fragile>().start();
    request(store, "t1", 13).await?;
    request(store, "t2", 12).await?;
    let there = async |key: &str| store.sagas::<Fragile>().get(key).await;
    until(async || Ok(there("t2").await?.is_some_and(|one| one.state == Some(Fragile { seen: 2 })))).await?;
    until(async || Ok(there("t1").await?.is_some())).await?;
    let parked = there("t1").await?.expect("it is parked");
    assert_eq!((parked.status, parked.state), (SagaStatus::Parked, None));
    assert!(parked.error.as_ref().is_some_and(|error| error.contains("thirteen")), "{:?}", parked.error);
    assert_eq!(store.sagas::<Fragile>().list(SagaStatus::Parked, 10).await?.len(), 1);
    // An event behind it waits, too.
    store.execute(&transfer("t1"), Refuse).await?;
    until(async || Ok(Processors::new(store).dead_letters("fragile").list().await?.len() == 2)).await?;
    BROKEN.store(false, SeqCst);
    store.sagas::<Fragile>().retry("t1").await?;
    until(async || Ok(there("t1").await?.is_some_and(|one| one.state == Some(Fragile { seen: 2 })))).await?;
    let mended = there("t1").await?.expect("it is there");
    // The rule has refused the command by now, which is an answer.
    assert_eq!((mended.status, mended.error.as_deref()), (SagaStatus::Running, Some("the transfer is over")));
    assert_eq!(names(store).await?.iter().filter(|name| *name == "transfer.completed").count(), 1);
    runner.stop().await;
    Ok(())
}

/// Publishes how many events it has seen of a stream.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning", stream)]
struct Counting {
    seen: i64,
}

impl Evolve for Counting {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Counting {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        publish(StreamId::new("count", event.stream.key()), AccountEvent::Deposited { amount: self.seen })
    }
}

/// A node that was frozen before it read the rows of a batch must not answer the batch on rows that another node has
/// written since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g4_a_node_that_was_frozen_sends_nothing_on_rows_of_another() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let open = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let frozen = Store::from(Arc::new(Between::new(&world.inner).frozen_by(&open)) as Arc<dyn EventStore>);
    let runner = Runner::new(&frozen).lease(Duration::from_secs(2)).saga::<Counting>().start();
    request(store, "t1", 1).await?;
    until(async || Ok(names(store).await? == ["transfer.requested", "account.deposited"])).await?;
    runner.until(Position(2)).await?;
    let permits = open.forget_permits(usize::MAX);
    let refused = store.execute(&transfer("t1"), Refuse).await?;
    // It has read the event by then, and waits for the rows.
    sleep(Duration::from_millis(200)).await;
    // Another node takes the shard over, and answers the event: here with nothing but the row.
    let table = eventstore_sagas::table::table("counting");
    let mut transaction = world.inner.begin().await?;
    let shards = transaction.lock_projection("counting").await?;
    let at = shards[0].1;
    let rows = transaction.rows(Rows::Keys { table, keys: vec!["t1".into()] }).await?;
    let row = rows[0].1.get().replace("{\\\"seen\\\":1}", "{\\\"seen\\\":2}");
    assert_ne!(row, rows[0].1.get());
    let upserts = vec![("t1".into(), RawValue::from_string(row)?)];
    transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
    let taken = Checkpoint { epoch: at.epoch + 1, owner: None, position: refused.position, event: None };
    transaction.put_shards("counting", vec![(shards[0].0.clone(), taken)]).await?;
    transaction.commit().await?;
    open.add_permits(permits);
    request(store, "t2", 1).await?;
    until(async || Ok(store.sagas::<Counting>().get("t2").await?.is_some())).await?;
    runner.stop().await;
    let expected =
        ["transfer.requested", "account.deposited", "transfer.refused", "transfer.requested", "account.deposited"];
    assert_eq!(names(store).await?, expected);
    let log: Vec<Recorded<AccountEvent>> = store.read().events().try_collect().await?;
    assert!(log.iter().all(|event| event.data == AccountEvent::Deposited { amount: 0 }), "{log:?}");
    Ok(())
}

/// Thanks for each transfer that is completed.
struct Thanks;

impl Reactor for Thanks {
    const NAME: &'static str = "thanks";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = TransferEvent;

    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        let TransferEvent::Requested(order) = &event.data else { return Commands::none() };
        send(&order.id, Complete)
    }
}

#[tokio::test]
async fn g1_a_reactor_on_three_nodes_answers_each_event_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let node = || Runner::new(store).lease(LEASE).reactor(Thanks).shards(4).start();
    let nodes = [node(), node(), node()];
    for n in 0..40 {
        request(store, &format!("t{n}"), n).await?;
    }
    until(async || Ok(names(store).await?.len() == 80)).await?;
    for node in nodes {
        node.stop().await;
    }
    let kinds = names(store).await?;
    assert_eq!(kinds.iter().filter(|name| *name == "transfer.completed").count(), 40);
    Ok(())
}

/// Thanks, and waits at one transfer until the sender is dropped.
struct ThanksLater(Mutex<Receiver<()>>);

impl Reactor for ThanksLater {
    const NAME: &'static str = "thanks_later";
    const FROM: Option<StartFrom> = Some(StartFrom::Beginning);
    type Event = TransferEvent;

    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        if event.stream.key() == "t500" {
            let _ = self.0.lock().map(|held| held.recv());
        }
        Thanks.react(event)
    }
}

/// A node that is killed every few seconds gets on: its checkpoint moves while it catches up, and not at the end only.
#[tokio::test(flavor = "multi_thread")]
async fn g1_a_reactor_that_catches_up_answers_in_small_batches() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for n in 0..600 {
        request(store, &format!("t{n}"), 1).await?;
    }
    let (release, held) = channel();
    let runner = Runner::new(store).reactor(ThanksLater(Mutex::new(held))).start();
    let checkpoint = async || {
        let shards = store.as_ref().shards(Some("thanks_later")).await?;
        Ok::<_, Any>(shards.iter().map(|(_, at)| at.position).min())
    };
    until(async || Ok(checkpoint().await? >= Some(Position(250)))).await?;
    assert!(checkpoint().await? <= Some(Position(500)));
    drop(release);
    runner.until(Position(600)).await?;
    runner.stop().await;
    assert_eq!(names(store).await?.iter().filter(|name| *name == "transfer.completed").count(), 600);
    Ok(())
}

/// On a log that has events, a saga says where it begins.
#[tokio::test]
async fn g8_a_saga_that_does_not_say_where_it_begins_stops_on_a_log_with_events() -> Result<(), Any> {
    struct Silent;
    impl Reactor for Silent {
        const NAME: &'static str = "silent";
        type Event = TransferEvent;

        fn react(&self, _: &Recorded<TransferEvent>) -> Commands {
            Commands::none()
        }
    }
    let world = world().await;
    let store = &world.store;
    request(store, "t1", 1).await?;
    let runner = Runner::new(store).lease(LEASE).reactor(Silent).start();
    let error = runner.until(Position(1)).await;
    assert!(matches!(error, Err(StoreError::Stopped { .. })), "{error:?}");
    runner.stop().await;
    let runner = Runner::new(store).lease(LEASE).reactor(Silent).from_now().start();
    runner.until(Position(1)).await?;
    assert!(runner.status().iter().all(|status| status.state == State::Active));
    runner.stop().await;
    Ok(())
}
