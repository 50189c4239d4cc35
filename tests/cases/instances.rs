//! Instances of sagas beside another release, beside an operator, and beside mistakes in the rules: one instance waits,
//! nothing of it is lost, and the others go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use eventstore::{Changes, Expected, Invalid, Processors, Rows, Running, SagaStatus, StoreError, StreamId, prelude::*};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::{
    World,
    account::{Account, AccountEvent, Deposit, Open, Withdraw},
    sagas::{LEASE, names, requested as request, transfer, until},
    transfer::{Order, TransferCommand::*, TransferEvent},
    world,
};

type Any = Box<dyn std::error::Error>;

/// Lets time pass: the clock of a server cannot be moved.
pub async fn pass(world: &World, time: Duration) {
    match world.clock() {
        Some(clock) => clock.advance(time),
        None => sleep(time).await,
    }
}

fn count(names: &[String], name: &str) -> usize {
    names.iter().filter(|one| *one == name).count()
}

/// The row of an instance is written by a release with another version of the state.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(name = "counted", stream, from = "beginning")]
struct Counted {
    seen: u32,
}

#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(name = "counted", stream, from = "beginning", version = 2, upcast(1 => with_sum))]
struct CountedAndSummed {
    seen: u32,
    sum: i64,
}

fn with_sum(Counted { seen }: Counted) -> CountedAndSummed {
    CountedAndSummed { seen, sum: 0 }
}

/// The time after which the timers of both are due.
const TIME: Duration = Duration::from_secs(2);

fn timers(event: &Recorded<TransferEvent>) -> Commands {
    let TransferEvent::Requested(order) = &event.data else { return Commands::none() };
    let timer = |name: &str| publish(StreamId::new(name, event.stream.key()), AccountEvent::Closed).after(TIME);
    if order.amount == 1 { timer("first") } else { timer("first").and(timer("second")) }
}

impl Evolve for Counted {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Counted {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        timers(event)
    }
}

impl Evolve for CountedAndSummed {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        self.seen += 1;
        if let TransferEvent::Requested(order) = event {
            self.sum += order.amount;
        }
    }
}

impl React for CountedAndSummed {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        timers(event)
    }
}

/// G9: a node of the release before leaves an instance whose state it cannot read as it is, with its timers and its
/// events, and a node of the release that can read it goes on.
#[tokio::test]
async fn g9_an_instance_of_a_later_release_waits_for_a_node_of_it() -> Result<(), Any> {
    for amount in [1, 2] {
        let world = world().await;
        let store = &world.store;
        let there = async || store.sagas::<CountedAndSummed>().get("t1").await;
        let new = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
        let requested = request(store, "t1", amount).await?;
        new.until(requested.position).await?;
        new.stop().await;
        let before = there().await?;
        let old = Runner::new(store).lease(LEASE).saga::<Counted>().start();
        old.until(request(store, "t2", 1).await?.position).await?;
        pass(&world, TIME).await;
        let refused = store.execute(&transfer("t1"), Refuse).await?;
        let waits = async || Ok(Processors::new(store).dead_letters("counted").list().await?.len() == 1);
        until(waits).await?;
        // A later timer of an instance that it can read fires meanwhile.
        let other = async || store.sagas::<Counted>().get("t2").await;
        until(async || Ok(other().await?.is_some_and(|one| one.timers.is_empty()))).await?;
        old.stop().await;
        let after = there().await?.ok_or("it is gone")?;
        assert_eq!((after.status, Some(&after.timers)), (SagaStatus::Parked, before.as_ref().map(|one| &one.timers)));
        assert_eq!(Some(after.state), before.map(|one| one.state));
        assert_eq!(count(&names(store).await?, "account.closed"), 1);

        let new = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
        let seen = Some(CountedAndSummed { seen: 2, sum: amount });
        let goes_on = async || Ok(there().await?.is_some_and(|one| one.timers.is_empty() && one.state == seen));
        until(goes_on).await?;
        assert!(refused.position > requested.position);
        assert_eq!(count(&names(store).await?, "account.closed"), 1 + amount as usize);
        new.stop().await;
    }
    Ok(())
}

/// M3: rows that only a later release can read take no place among those that are due.
#[tokio::test]
async fn m3_instances_of_a_later_release_keep_no_timer_waiting() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
    runner.until(request(store, "t1", 1).await?.position).await?;
    let there = async || store.sagas::<CountedAndSummed>().get("t1").await;
    let table = eventstore_sagas::table::table("counted");
    let rows = world.inner.rows(Rows::Keys { table, keys: vec!["t1".into()] }).await?;
    let mut row: serde_json::Value = serde_json::from_str(rows[0].1.get())?;
    (row["status"], row["due"]) = ("asleep".into(), 1.into());
    let row = RawValue::from_string(row.to_string())?;
    let upserts = (0..600).map(|n| (format!("later-{n}"), row.clone())).collect();
    let mut transaction = world.inner.begin().await?;
    transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    pass(&world, TIME).await;
    until(async || Ok(there().await?.is_some_and(|one| one.timers.is_empty()))).await?;
    runner.stop().await;
    Ok(())
}

/// M1: a runner that has settled has fired each timer that is due, and no other.
#[tokio::test]
async fn m1_timers_that_are_due_have_fired_once_a_runner_has_settled() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
    request(store, "t1", 1).await?;
    request(store, "t2", 2).await?;
    runner.settle().await?;
    assert_eq!(count(&names(store).await?, "account.closed"), 0);
    pass(&world, TIME).await;
    runner.settle().await?;
    assert_eq!(count(&names(store).await?, "account.closed"), 3);
    runner.stop().await;
    Ok(())
}

/// M1: a timer that was claimed by a node that is gone fires as soon as another node has the shard.
#[tokio::test]
async fn m1_a_timer_of_a_node_that_is_gone_fires_at_once() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
    runner.until(request(store, "t1", 1).await?.position).await?;
    runner.stop().await;
    pass(&world, TIME).await;
    let table = eventstore_sagas::table::table("counted");
    let rows = world.inner.rows(Rows::Keys { table, keys: vec!["t1".into()] }).await?;
    let mut row = eventstore_sagas::table::read(&table, "t1", &rows[0].1)?;
    assert_eq!(row.claim(world.inner.time().await?).len(), 1);
    let upserts = vec![("t1".into(), eventstore_sagas::table::written(&table, &row)?)];
    let mut transaction = world.inner.begin().await?;
    transaction.write(Changes { table, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    let runner = Runner::new(store).lease(LEASE).saga::<CountedAndSummed>().start();
    let fired =
        async || Ok(store.sagas::<CountedAndSummed>().get("t1").await?.is_some_and(|one| one.timers.is_empty()));
    until(fired).await?;
    assert_eq!(count(&names(store).await?, "account.closed"), 1);
    runner.stop().await;
    Ok(())
}

/// Whether the rules of the sagas below have a mistake.
static BROKEN: AtomicBool = AtomicBool::new(true);

/// Takes and gives. Panics after the end of a transfer of 13.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[saga(steps, stream, from = "beginning")]
struct Stepped {
    order: Order,
}

impl Steps for Stepped {
    type Event = TransferEvent;

    fn begin(event: &Recorded<TransferEvent>) -> Option<Self> {
        let TransferEvent::Requested(order) = &event.data else { return None };
        Some(Self { order: order.clone() })
    }

    fn steps(&self) -> Plan<TransferEvent> {
        let amount = self.order.amount;
        let back = send(Id::<Account>::from("returns"), Deposit { amount });
        let take = Plan::new().step("take", send(&self.order.from, Withdraw { amount })).undo(back);
        if amount == 13 { take } else { take.step("give", send(&self.order.to, Deposit { amount })) }
    }

    fn ended(&self, _: &End) -> Commands {
        assert!(self.order.amount != 13 || !BROKEN.load(SeqCst), "thirteen");
        publish(StreamId::new("over", self.order.id.key()), AccountEvent::Closed)
    }
}

async fn ann(store: &Store) -> Result<(), Any> {
    store.execute(&Id::<Account>::from("ann"), Open { owner: "Ann".into() }).await?;
    store.execute(&Id::<Account>::from("ann"), Deposit { amount: 1_000 }).await?;
    Ok(())
}

/// G6: an operator's retry is made, whatever events the instance reads meanwhile, and whether a node runs at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_retry_is_made_though_the_instance_reads_events() -> Result<(), Any> {
    const INSTANCES: usize = 5;
    let world = world().await;
    let store = &world.store;
    ann(store).await?;
    let key = |n: usize| format!("t{n}");
    let there = async |n: usize| Ok::<_, Any>(store.sagas::<Stepped>().get(&key(n)).await?);
    let runner = Runner::new(store).lease(LEASE).saga::<Stepped>().start();
    for n in 0..=INSTANCES {
        request(store, &key(n), 5).await?;
    }
    for n in 0..=INSTANCES {
        until(async || Ok(there(n).await?.is_some_and(|one| one.status == SagaStatus::Parked))).await?;
    }
    store.execute(&Id::<Account>::from("returns"), Open { owner: "Bank".into() }).await?;
    let (stop, other) = (Arc::new(AtomicBool::new(false)), store.clone());
    let refuse = {
        let stop = stop.clone();
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                for n in 0..INSTANCES {
                    let stream = StreamId::new("transfer", &format!("t{n}"));
                    other.append(stream, Expected::Any, [TransferEvent::Refused]).await?;
                }
                sleep(Duration::from_millis(2)).await;
            }
            Ok::<_, StoreError>(())
        })
    };
    for n in 0..INSTANCES {
        timeout(Duration::from_secs(20), store.sagas::<Stepped>().retry(&key(n))).await??;
    }
    stop.store(true, SeqCst);
    refuse.await??;
    runner.stop().await;

    // The event comes between the operator's word and the next node.
    let other = store.clone();
    let retry = tokio::spawn(async move { other.sagas::<Stepped>().retry(&format!("t{INSTANCES}")).await });
    until(async || Ok(there(INSTANCES).await?.is_some_and(|one| one.due.is_some()))).await?;
    store.execute(&transfer(&key(INSTANCES)), Refuse).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Stepped>().start();
    timeout(Duration::from_secs(20), retry).await???;
    runner.stop().await;
    Ok(())
}

/// Panics when it is asked whether a transfer of 13 is over.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(stream, from = "beginning", end = is_over)]
struct Ending {
    amount: i64,
}

fn is_over(Ending { amount }: &Ending) -> bool {
    assert!(*amount != 13, "thirteen");
    false
}

impl Evolve for Ending {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        if let TransferEvent::Requested(order) = event {
            self.amount = order.amount;
        }
    }
}

impl React for Ending {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        publish(StreamId::new("ending", event.stream.key()), AccountEvent::Closed)
    }
}

/// G6: a panic in any rule of a saga parks the instance, and keeps no other waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_panic_at_the_end_of_an_instance_parks_that_instance() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    ann(store).await?;
    store.execute(&Id::<Account>::from("bob"), Open { owner: "Bob".into() }).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Stepped>().saga::<Ending>().start();
    request(store, "t1", 13).await?;
    request(store, "t2", 12).await?;
    let stepped = async |key: &str| Ok::<_, Any>(store.sagas::<Stepped>().get(key).await?.ok_or("none")?);
    let ending = async |key: &str| Ok::<_, Any>(store.sagas::<Ending>().get(key).await?.ok_or("none")?);
    until(async || Ok(stepped("t2").await.is_ok_and(|one| one.status == SagaStatus::Finished))).await?;
    until(async || Ok(ending("t2").await.is_ok_and(|one| one.state == Some(Ending { amount: 12 })))).await?;
    until(async || Ok(stepped("t1").await.is_ok_and(|one| one.status == SagaStatus::Parked))).await?;
    until(async || Ok(ending("t1").await.is_ok_and(|one| one.status == SagaStatus::Parked))).await?;
    for error in [stepped("t1").await?.error, ending("t1").await?.error] {
        assert!(error.as_ref().is_some_and(|error| error.contains("it panicked: thirteen")), "{error:?}");
    }
    BROKEN.store(false, SeqCst);
    store.sagas::<Stepped>().retry("t1").await?;
    assert_eq!(stepped("t1").await?.status, SagaStatus::Finished);
    assert_eq!(count(&names(store).await?, "account.withdrawn"), 2);
    runner.stop().await;
    Ok(())
}

/// The command of its timer panics while the rules have a mistake.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning", stream)]
enum Ends {
    #[default]
    New,
    Waits,
    #[saga(end)]
    Over,
}

impl Evolve for Ends {
    type Event = TransferEvent;

    fn evolve(&mut self, event: TransferEvent) {
        *self = if matches!(event, TransferEvent::Requested(_)) { Self::Waits } else { Self::Over };
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Fail;

static FAILS: AtomicBool = AtomicBool::new(true);

impl Decide<Fail> for Account {
    fn decide(&self, _: Fail) -> Decision<Self> {
        assert!(!FAILS.load(SeqCst), "it fails");
        Ok(vec![AccountEvent::Closed])
    }
}

impl React for Ends {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        if !matches!(event.data, TransferEvent::Requested(_)) {
            return Commands::none();
        }
        send(Id::<Account>::from("ann"), Fail).after(Duration::from_millis(100))
    }
}

/// G6: a timer that has fired and could not be answered stays visible and can be retried after the end of its instance,
/// which is then deleted like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_a_timer_that_failed_can_be_retried_after_the_end() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    ann(store).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Ends>().start();
    runner.until(request(store, "t1", 1).await?.position).await?;
    let there = async || Ok::<_, Any>(store.sagas::<Ends>().get("t1").await?);
    let stands = async |status| Ok(there().await?.is_some_and(|one| one.status == status));
    pass(&world, Duration::from_millis(200)).await;
    until(async || stands(SagaStatus::Parked).await).await?;
    store.execute(&transfer("t1"), Refuse).await?;
    until(async || Ok(there().await?.is_some_and(|one| one.state == Some(Ends::Over)))).await?;
    assert!(stands(SagaStatus::Parked).await?);
    FAILS.store(false, SeqCst);
    store.sagas::<Ends>().retry("t1").await?;
    until(async || stands(SagaStatus::Finished).await).await?;
    assert_eq!(count(&names(store).await?, "account.closed"), 1);
    if let Some(clock) = world.clock() {
        clock.advance(Duration::from_secs(8 * 86_400));
        until(async || Ok(there().await?.is_none())).await?;
    }
    runner.stop().await;
    Ok(())
}

/// Thanks the customer of the third transfer.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(key = all, from = "beginning")]
struct Thanks {
    seen: u32,
}

fn all(_: &Recorded<TransferEvent>) -> Option<String> {
    Some("ann".into())
}

impl Evolve for Thanks {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Thanks {
    fn react(&self, _: &Recorded<TransferEvent>) -> Commands {
        if self.seen != 2 {
            return Commands::none();
        }
        publish(StreamId::new("thanks", "ann"), AccountEvent::Closed)
    }
}

/// G8: a saga is not rebuilt, since its commands were sent. One that is discarded begins with no instance.
#[tokio::test]
async fn g8_a_saga_is_not_rebuilt_and_begins_anew_once_it_is_discarded() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let start = || Runner::new(store).lease(LEASE).saga::<Thanks>().start();
    let seen = async |running: &Running, position| {
        running.until(position).await?;
        Ok::<_, Any>(store.sagas::<Thanks>().get("ann").await?.and_then(|one| one.state))
    };
    let runner = start();
    request(store, "t1", 1).await?;
    let position = request(store, "t2", 1).await?.position;
    assert_eq!(seen(&runner, position).await?, Some(Thanks { seen: 2 }));
    let processors = Processors::new(store);
    let refused = processors.rebuild("thanks").await.err();
    assert!(matches!(refused, Some(StoreError::Invalid(Invalid::Request(_)))), "{refused:?}");
    runner.stop().await;
    processors.discard("thanks").await?;
    assert_eq!(store.sagas::<Thanks>().get("ann").await?.map(|one| one.key), None);
    let runner = start();
    assert_eq!(seen(&runner, position).await?, Some(Thanks { seen: 2 }));
    assert_eq!(count(&names(store).await?, "account.closed"), 0);
    runner.stop().await;
    Ok(())
}

/// The instance of a conversation, which its first event ends.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning")]
enum OfConversation {
    #[default]
    New,
    #[saga(end)]
    Over,
}

impl Evolve for OfConversation {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        *self = Self::Over;
    }
}

impl React for OfConversation {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        publish(StreamId::new("conversation", event.stream.key()), AccountEvent::Closed)
    }
}

/// G10: a late event of a conversation does not begin its instance again, which was deleted after its end.
#[tokio::test]
async fn g10_a_conversation_that_was_deleted_does_not_begin_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The clock of a server cannot be moved.
    let Some(clock) = world.clock() else { return Ok(()) };
    let runner = Runner::new(store).lease(LEASE).saga::<OfConversation>().start();
    let requested = request(store, "t1", 1).await?;
    let correlation_id = requested.metadata.correlation_id.to_string();
    let there = async || store.sagas::<OfConversation>().get(&correlation_id).await;
    until(async || Ok(there().await?.is_some_and(|one| one.status == SagaStatus::Finished))).await?;
    clock.advance(Duration::from_secs(8 * 86_400));
    until(async || Ok(there().await?.is_none())).await?;
    let refused = store.execute(&transfer("t1"), Refuse).caused_by(&requested).await?;
    runner.until(refused.position).await?;
    assert!(there().await?.is_none());
    assert_eq!(count(&names(store).await?, "account.closed"), 1);
    runner.stop().await;
    Ok(())
}

/// Has the key that the amount of a transfer stands for.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(key = odd, from = "beginning")]
struct Odd {
    seen: u32,
}

fn odd(event: &Recorded<TransferEvent>) -> Option<String> {
    let TransferEvent::Requested(order) = &event.data else { return None };
    Some(match order.amount {
        1 => String::new(),
        2 => "k".repeat(5_000),
        3 => "ä".repeat(200),
        4 => "nul\0".into(),
        _ => "plain".into(),
    })
}

impl Evolve for Odd {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Odd {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        publish(StreamId::new("odd", event.stream.key()), AccountEvent::Closed)
    }
}

/// G6: an instance with a key that no row can have is parked; a key that no dead letter can have stops the saga with an
/// error that names the event.
#[tokio::test]
async fn g6_a_key_that_no_row_can_have_is_reported() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Odd>().start();
    for amount in 1..=3 {
        request(store, &format!("t{amount}"), amount).await?;
    }
    request(store, "t5", 5).await?;
    let there = async |key: &str| Ok::<_, Any>(store.sagas::<Odd>().get(key).await?.and_then(|one| one.state));
    for key in ["plain", &"ä".repeat(200)] {
        until(async || Ok(there(key).await? == Some(Odd { seen: 1 }))).await?;
    }
    let letters = Processors::new(store).dead_letters("odd").list().await?;
    let keys: Vec<_> = letters.iter().map(|letter| letter.key.len()).collect();
    assert_eq!(keys, [0, 5_000], "{letters:?}");
    let bad = request(store, "t4", 4).await?;
    let stopped = runner.until(bad.position).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(stopped.contains("transfer-t4") && stopped.contains("has a control character"), "{stopped}");
    runner.stop().await;
    Ok(())
}

/// Writes an event of a later release: `note` came with version 2.
#[derive(Event, Clone, Debug, PartialEq)]
enum LaterAccount {
    #[event(name = "account.deposited", version = 2, upcast(1 => with_note))]
    Deposited { amount: i64, note: String },
}

#[derive(Deserialize)]
struct WithoutNote {
    amount: i64,
}

fn with_note(WithoutNote { amount }: WithoutNote) -> LaterAccount {
    LaterAccount::Deposited { amount, note: String::new() }
}

/// G9: a command whose target has events of a later release is tried again, until a node of that release sends it.
#[tokio::test]
async fn g9_a_command_to_a_target_of_a_later_release_is_tried_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    ann(store).await?;
    let later = LaterAccount::Deposited { amount: 5, note: "a gift".into() };
    store.append(StreamId::new("account", "ann"), Expected::Any, [later]).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Stepped>().start();
    request(store, "t1", 12).await?;
    let letters = Processors::new(store).dead_letters("stepped");
    until(async || Ok(letters.list().await.is_ok_and(|list| !list.is_empty()))).await?;
    runner.stop().await;
    let letters = letters.list().await?;
    assert!(letters[0].retry_at.is_some(), "{letters:?}");
    Ok(())
}
