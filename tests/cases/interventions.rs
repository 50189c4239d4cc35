//! What an operator does to an instance of a saga, and what its history says.

use std::{sync::Arc, time::Duration};

use eventstore::{
    CommandStatus, EventStore, Expected, Invalid, Position, Processors, SagaStatus, StoreError, StreamId, prelude::*,
};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    Between, World,
    account::{AccountEvent, Deposit, Open, Withdraw},
    instances::pass,
    sagas::{LEASE, MoneyTransfer, account, bank, names, requested, transfer, until},
    transfer::{Order, TransferCommand::*, TransferEvent},
    world,
};

type Any = Box<dyn std::error::Error>;

/// Takes a fee and the money, waits for an approval, and gives the money.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[saga(steps, stream, from = "beginning")]
struct Approved {
    order: Order,
}

impl Steps for Approved {
    type Event = TransferEvent;

    fn begin(event: &Recorded<TransferEvent>) -> Option<Self> {
        let TransferEvent::Requested(order) = &event.data else { return None };
        Some(Self { order: order.clone() })
    }

    fn steps(&self) -> Plan<TransferEvent> {
        let Order { from, to, amount, .. } = &self.order;
        let amount = *amount;
        Plan::new()
            .step("fee", send(from, Withdraw { amount: 1 }))
            .undo(send(account("fees"), Deposit { amount: 1 }))
            .step("take", send(from, Withdraw { amount }))
            .undo(send(account("returns"), Deposit { amount }))
            .step("approve", Commands::none())
            .done(|event| matches!(event, TransferEvent::Completed))
            .failed(|event| matches!(event, TransferEvent::Refused))
            .within(Duration::from_secs(3_600))
            .pivot()
            .step("give", send(to, Deposit { amount }))
    }

    fn ended(&self, _: &End) -> Commands {
        publish(StreamId::new("over", self.order.id.key()), AccountEvent::Closed)
    }
}

async fn open(store: &Store, key: &str, amount: i64) -> Result<(), Any> {
    store.execute(&account(key), Open { owner: key.into() }).await?;
    store.append(account(key), Expected::Any, [AccountEvent::Deposited { amount }]).await?;
    Ok(())
}

async fn balance(store: &Store, key: &str) -> Result<i64, Any> {
    Ok(store.load(&account(key)).await?.state.balance)
}

fn is_refused<T: std::fmt::Debug>(result: &Result<T, StoreError>, why: &str) {
    let refused =
        matches!(result, Err(error @ StoreError::Invalid(Invalid::Request(_))) if error.to_string().contains(why));
    assert!(refused, "{result:?}");
}

/// The names of the events, of all instances, in the streams of the instances themselves: with the operation, the reason
/// and the actor.
async fn interventions(store: &Store) -> Result<Vec<(String, String, String)>, Any> {
    let log: Vec<_> = store.read().raw().try_collect().await?;
    let of = |event: &Recorded<eventstore::Raw>| {
        let body: serde_json::Value = serde_json::from_slice(&event.data.body).ok()?;
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        Some((text("what"), text("reason"), event.metadata.actor.clone().unwrap_or_default()))
    };
    Ok(log.iter().filter(|event| &*event.data.name == "saga.intervened").filter_map(of).collect())
}

fn told(what: &str, reason: &str, actor: &str) -> (String, String, String) {
    (what.into(), reason.into(), actor.into())
}

/// G7: an undo that cannot be made is skipped by an operator, and the undos before it are made.
#[tokio::test]
async fn g7_a_step_that_cannot_be_undone_is_skipped_by_an_operator() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    open(store, "ann", 100).await?;
    open(store, "fees", 0).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<Approved>().start();
    let sagas = store.sagas::<Approved>().by("ops");
    let there = async || Ok::<_, Any>(sagas.get("t1").await?.ok_or("it is not there")?);
    let stands = async |status| Ok(there().await.is_ok_and(|one| one.status == status));
    requested(store, "t1", 20).await?;
    is_refused(&sagas.skip("t2", "there is none").await, "does not exist");
    until(async || stands(SagaStatus::Running).await).await?;
    is_refused(&sagas.skip("t1", "it runs").await, "is not parked");
    store.execute(&transfer("t1"), Refuse).await?;
    until(async || stands(SagaStatus::Parked).await).await?;
    assert!(matches!(sagas.retry("t1").await, Err(StoreError::Parked { .. })));
    sagas.skip("t1", "paid in cash").await?;
    until(async || stands(SagaStatus::Compensated).await).await?;
    assert_eq!((balance(store, "ann").await?, balance(store, "fees").await?), (79, 1));
    let plan = there().await?.plan.ok_or("it has a plan")?;
    let take = plan.steps.iter().find(|step| step.name == "take").and_then(|step| step.reason.clone());
    assert_eq!(take.as_deref(), Some("skipped: paid in cash"));
    assert_eq!(interventions(store).await?, [told("skip", "paid in cash", "ops")]);
    runner.stop().await;
    Ok(())
}

/// G7: an operator has an instance undone that waits before its pivot, and no other.
#[tokio::test]
async fn g7_an_instance_is_undone_by_an_operator_before_its_pivot_only() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for (key, amount) in [("ann", 100), ("fees", 0), ("returns", 0)] {
        open(store, key, amount).await?;
    }
    let runner = Runner::new(store).lease(LEASE).saga::<Approved>().start();
    let sagas = store.sagas::<Approved>().by("ops");
    let stands = async |key: &str, status| Ok(sagas.get(key).await?.is_some_and(|one| one.status == status));
    requested(store, "t1", 20).await?;
    requested(store, "t2", 30).await?;
    until(async || Ok(balance(store, "ann").await? == 48)).await?;
    until(async || Ok(sagas.get("t1").await?.is_some_and(|one| one.timers.len() == 1))).await?;
    sagas.compensate("t1", "the customer has called").await?;
    until(async || stands("t1", SagaStatus::Compensated).await).await?;
    assert_eq!((balance(store, "returns").await?, balance(store, "fees").await?), (20, 1));
    assert_eq!(sagas.get("t1").await?.map(|one| one.timers.len()), Some(0));
    is_refused(&sagas.compensate("t1", "again").await, "is over");

    // The money cannot be given yet: the step after the pivot is tried again, and not undone.
    store.execute(&transfer("t2"), Complete).await?;
    let waits = |one: eventstore::Instance<Approved>| one.plan.is_some_and(|plan| plan.steps[3].tries > 0);
    until(async || Ok(sagas.get("t2").await?.is_some_and(waits))).await?;
    is_refused(&sagas.compensate("t2", "too late").await, "has passed its pivot");
    open(store, "bob", 0).await?;
    // The clock of memory and SQLite stands still: the next try does not come by itself.
    sagas.wake("t2").await.or_else(|error| if world.clock().is_none() { Ok(()) } else { Err(error) })?;
    until(async || stands("t2", SagaStatus::Finished).await).await?;
    assert_eq!((balance(store, "bob").await?, balance(store, "returns").await?), (30, 20));
    is_refused(&sagas.wake("t2").await, "is over");
    assert_eq!(interventions(store).await?[0], told("compensate", "the customer has called", "ops"));
    runner.stop().await;
    Ok(())
}

/// Runs the saga on a node whose first append comes after an operator has asked for the instance to be undone. Returns
/// the operator's answer, and the instance once it is over.
async fn undone_while_a_node_sends<S: Saga>(
    world: &World,
    next: impl AsyncFnOnce(&Store) -> Result<(), Any>,
) -> Result<(Result<(), StoreError>, eventstore::Instance<S>), Any> {
    let store = &world.store;
    let sagas = store.sagas::<S>();
    let runner = Runner::new(store).lease(LEASE).saga::<S>().start();
    requested(store, "t1", 20).await?;
    until(async || Ok(sagas.get("t1").await?.is_some())).await?;
    runner.settle().await?;
    runner.stop().await;
    let (said, answer) = tokio::sync::oneshot::channel();
    let node = Between::new(&world.inner).let_in(move |store| async move {
        let operator = store.clone();
        tokio::spawn(async move { said.send(operator.sagas::<S>().compensate("t1", "the customer has called").await) });
        let asked = async || {
            let instance = store.sagas::<S>().get("t1").await?;
            Ok(instance.and_then(|one| one.plan).is_some_and(|plan| plan.asked.is_some() || plan.failed.is_some()))
        };
        until(asked).await.expect("the operator asks");
    });
    next(store).await?;
    let node = Store::from(Arc::new(node) as Arc<dyn EventStore>);
    let runner = Runner::new(&node).lease(LEASE).saga::<S>().start();
    let answer = timeout(Duration::from_secs(20), answer).await??;
    until(async || Ok(sagas.get("t1").await?.is_some_and(|one| one.status.is_over()))).await?;
    runner.stop().await;
    Ok((answer, sagas.get("t1").await?.ok_or("it is kept")?))
}

/// Takes the money once it is approved, and waits.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[saga(steps, stream, from = "beginning")]
struct Taking {
    order: Order,
}

impl Steps for Taking {
    type Event = TransferEvent;

    fn begin(event: &Recorded<TransferEvent>) -> Option<Self> {
        let TransferEvent::Requested(order) = &event.data else { return None };
        Some(Self { order: order.clone() })
    }

    fn steps(&self) -> Plan<TransferEvent> {
        let Order { from, amount, .. } = &self.order;
        let amount = *amount;
        Plan::new()
            .step("approve", Commands::none())
            .done(|event| matches!(event, TransferEvent::Completed))
            .step("take", send(from, Withdraw { amount }))
            .undo(send(account("returns"), Deposit { amount }))
            .step("wait", Commands::none())
            .done(|event| matches!(event, TransferEvent::Expired))
    }

    fn ended(&self, _: &End) -> Commands {
        Commands::none()
    }
}

/// G7: a step that a node is sending when an operator asks is undone, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_a_step_that_a_node_is_sending_is_undone_too() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for (key, amount) in [("ann", 100), ("returns", 0)] {
        open(store, key, amount).await?;
    }
    let complete = async |store: &Store| Ok(store.execute(&transfer("t1"), Complete).await.map(drop)?);
    let (answer, instance) = undone_while_a_node_sends::<Taking>(&world, complete).await?;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(instance.status, SagaStatus::Compensated);
    assert_eq!((balance(store, "ann").await?, balance(store, "returns").await?), (80, 20));
    Ok(())
}

/// G7: an instance that passes its pivot while an operator asks is not undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g7_an_instance_that_passes_its_pivot_meanwhile_is_not_undone() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for (key, amount) in [("ann", 100), ("bob", 0), ("fees", 0), ("returns", 0)] {
        open(store, key, amount).await?;
    }
    let complete = async |store: &Store| Ok(store.execute(&transfer("t1"), Complete).await.map(drop)?);
    let (answer, instance) = undone_while_a_node_sends::<Approved>(&world, complete).await?;
    is_refused(&answer, "has passed its pivot meanwhile, or is over");
    assert_eq!(instance.status, SagaStatus::Finished);
    let balances = (balance(store, "ann").await?, balance(store, "bob").await?, balance(store, "returns").await?);
    assert_eq!(balances, (79, 20, 0));
    Ok(())
}

/// Panics at a transfer of 13; reminds of any other.
#[derive(Saga, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[saga(from = "beginning", stream)]
struct Reminding {
    seen: u32,
}

impl Evolve for Reminding {
    type Event = TransferEvent;

    fn evolve(&mut self, _: TransferEvent) {
        self.seen += 1;
    }
}

impl React for Reminding {
    fn react(&self, event: &Recorded<TransferEvent>) -> Commands {
        let TransferEvent::Requested(order) = &event.data else {
            return publish(StreamId::new("seen", event.stream.key()), AccountEvent::Closed);
        };
        assert!(order.amount != 13, "thirteen");
        publish(StreamId::new("reminder", event.stream.key()), AccountEvent::Closed).after(Duration::from_secs(3))
    }
}

/// P3: a timer that is due and waits behind an event that is parked keeps no runner from settling, and has fired once the
/// runner has settled after that event was skipped.
#[tokio::test]
async fn p3_a_runner_settles_beside_a_timer_that_waits_for_a_parked_event() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Reminding>().start();
    requested(store, "t1", 1).await?;
    runner.settle().await?;
    let order = Order { id: "t1".into(), from: account("ann"), to: account("bob"), amount: 13 };
    store.append(StreamId::new("transfer", "t1"), Expected::Any, [TransferEvent::Requested(order)]).await?;
    let letters = Processors::new(store).dead_letters("reminding");
    until(async || Ok(letters.list().await?.len() == 1)).await?;
    pass(&world, Duration::from_secs(3)).await;
    let settled = timeout(Duration::from_secs(10), runner.settle()).await?;
    assert!(matches!(settled, Err(StoreError::Parked { .. })), "{settled:?}");
    assert!(!names(store).await?.contains(&"account.closed".into()));
    letters.skip("t1", "thirteen").await?;
    runner.settle().await?;
    assert!(names(store).await?.contains(&"account.closed".into()));
    runner.stop().await;
    Ok(())
}

/// G10: an instance that an operator has ended reads no events and fires no timer, nor does it begin again; events of it
/// that waited are skipped.
#[tokio::test]
async fn g10_an_instance_that_was_cancelled_stays_over() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Reminding>().start();
    let sagas = store.sagas::<Reminding>().by("ops");
    let letters = Processors::new(store).dead_letters("reminding");
    let there = async |key: &str| Ok::<_, Any>(sagas.get(key).await?);
    is_refused(&sagas.cancel("t1", "there is none").await, "does not exist");
    requested(store, "t1", 1).await?;
    requested(store, "t2", 13).await?;
    requested(store, "t3", 1).await?;
    store.execute(&transfer("t2"), Refuse).await?;
    until(async || Ok(there("t1").await?.is_some_and(|one| one.timers.len() == 1))).await?;
    until(async || Ok(letters.list().await?.len() == 2)).await?;
    for key in ["t1", "t2"] {
        sagas.cancel(key, "a mistake").await?;
        let one = there(key).await?.ok_or("it is gone")?;
        assert_eq!((one.status, one.timers.len(), one.error.as_deref()), (SagaStatus::Cancelled, 0, Some("a mistake")));
        is_refused(&sagas.cancel(key, "again").await, "is over");
    }
    assert!(letters.list().await?.iter().all(|letter| letter.skipped.as_deref() == Some("a mistake")));
    assert_eq!(sagas.list(SagaStatus::Cancelled, 10).await?.len(), 2);
    assert_eq!(sagas.list(SagaStatus::Parked, 10).await?.len(), 0);
    let refused = store.execute(&transfer("t1"), Refuse).await?;
    runner.until(refused.position).await?;
    pass(&world, Duration::from_secs(3)).await;
    // A later timer of another instance has fired.
    until(async || Ok(there("t3").await?.is_some_and(|one| one.timers.is_empty()))).await?;
    if let Some(clock) = world.clock() {
        clock.advance(Duration::from_secs(8 * 86_400));
        until(async || Ok(there("t1").await?.is_none() && there("t2").await?.is_none_or(|one| one.state.is_none())))
            .await?;
        for key in ["t1", "t2"] {
            let stream = StreamId::new("transfer", key);
            let refused = store.append(stream, Expected::Any, [TransferEvent::Refused]).await?;
            runner.until(refused.last).await?;
        }
    }
    let closed = names(store).await?.into_iter().filter(|name| name == "account.closed");
    assert_eq!(closed.count(), 1, "{:?}", names(store).await?);
    assert_eq!(interventions(store).await?, [told("cancel", "a mistake", "ops"), told("cancel", "a mistake", "ops")]);
    runner.stop().await;
    Ok(())
}

/// G6: an event that waits as a dead letter is skipped: it does not change the state, and the events behind it do.
#[tokio::test]
async fn g6_an_event_that_waits_is_skipped_by_an_operator() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).saga::<Reminding>().start();
    let sagas = store.sagas::<Reminding>();
    requested(store, "t1", 13).await?;
    store.execute(&transfer("t1"), Refuse).await?;
    until(async || Ok(sagas.list(SagaStatus::Parked, 10).await?.len() == 1)).await?;
    is_refused(&sagas.compensate("t1", "no").await, "is not there any more");
    sagas.skip("t1", "a bad number").await?;
    let one = sagas.get("t1").await?.ok_or("it is gone")?;
    assert_eq!((one.status, one.state), (SagaStatus::Running, Some(Reminding { seen: 1 })));
    assert_eq!(names(store).await?, ["transfer.requested", "transfer.refused", "account.closed"]);
    runner.stop().await;
    Ok(())
}

/// G11: the history of an instance has each event that it has answered, its state after it, and what became of each
/// command; its state as of a position or an instant is what it was.
#[tokio::test]
async fn g11_the_past_of_an_instance_is_what_it_was() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    bank(store).await?;
    let runner = Runner::new(store).lease(LEASE).saga::<MoneyTransfer>().start();
    let sagas = store.sagas::<MoneyTransfer>();
    let key = async |event: &Recorded<eventstore::Raw>| event.metadata.correlation_id.to_string();
    let first = requested(store, "t1", 50).await?;
    let (first_key, position) = (key(&first).await, first.position);
    let over = async |key: &str| Ok(sagas.get(key).await?.is_some_and(|one| one.status == SagaStatus::Finished));
    until(async || over(&first_key).await).await?;
    if let Some(clock) = world.clock() {
        clock.advance(Duration::from_secs(1));
    }
    let second = requested(store, "t2", 50).await?;
    let second_key = key(&second).await;
    until(async || over(&second_key).await).await?;

    let history = sagas.history(&first_key).await?;
    let states: Vec<_> = history.iter().map(|one| one.state.clone()).collect();
    let order = Order { id: transfer("t1"), from: account("ann"), to: account("bob"), amount: 50 };
    let (taking, giving) = (MoneyTransfer::Taking(order.clone()), MoneyTransfer::Giving(order));
    // The deposit is answered and changes no state.
    assert_eq!(states, [&taking, &giving, &giving, &MoneyTransfer::Settled].map(|state| Some(state.clone())));
    let commands: Vec<_> = history.iter().flat_map(|one| &one.commands).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    let events: Vec<_> = store.read().raw().try_collect::<Vec<_>>().await?;
    for command in &commands {
        let CommandStatus::Recorded(position) = command.status else { panic!("{command:?}") };
        assert_eq!(events[position.0 as usize - 1].metadata.command_id, command.id);
    }
    assert!(commands[0].command.contains("Withdraw { amount: 50 }"), "{:?}", commands[0]);

    let refused = sagas.history(&second_key).await?;
    let statuses: Vec<_> = refused[0].commands.iter().map(|command| command.status.clone()).collect();
    assert!(
        matches!(&statuses[..], [CommandStatus::Refused(words), CommandStatus::Recorded(_)] if words.contains("only 10")),
        "{statuses:?}"
    );

    assert_eq!(sagas.at_position(&first_key, Position(position.0 - 1)).await?, None);
    assert_eq!(sagas.at_position(&first_key, position).await?, Some(taking));
    let last = history.last().ok_or("it has a history")?.event.recorded_at;
    assert_eq!(sagas.as_of(&first_key, last).await?, Some(MoneyTransfer::Settled));
    assert_eq!(sagas.as_of(&first_key, first.recorded_at - Duration::from_micros(1)).await?, None);
    assert!(sagas.history("none").await?.is_empty());
    runner.stop().await;
    Ok(())
}
