//! Commands sent to a store, and their results.

use std::time::Duration;

use super::{Book, LampEvent, Off, On, answering, answering_to, hours, lamp};
use crate::{
    Command, Commands, Expected, MemoryStore, Raw, Recorded, Store, StoreError, StreamId, ask,
    process::{Answering, Failure, Mark, StoredInstance, Todo, Told, end},
    publish, send,
};

fn store() -> Store {
    MemoryStore::new().into()
}

async fn all(store: &Store) -> Vec<Recorded<Raw>> {
    use futures::TryStreamExt;
    store.read().raw().try_collect().await.expect("read")
}

/// Performs all operations of an answer.
async fn answer(store: &Store, answering: &mut Answering) -> Vec<Told> {
    let mut all = vec![];
    while let Some(todo) = answering.todo() {
        let told = todo.perform(store).await.expect("done");
        all.push(told.clone());
        answering.told(told);
    }
    all
}

async fn says(store: &Store, commands: Commands) -> Vec<Told> {
    answer(store, &mut answering(commands)).await
}

#[tokio::test]
async fn g1_who_sends_again_gets_the_first_answer() {
    let store = store();
    let said =
        || send(lamp("a"), On(1)).and(ask("grid", Book { watts: 60 })).and(publish(out(), LampEvent::SwitchedOn));
    assert_eq!(says(&store, said()).await, [Told::Recorded, Told::Recorded, Told::Recorded]);
    assert_eq!(says(&store, said()).await, [Told::Recorded, Told::Recorded, Told::Recorded], "also where it is on");
    let log = all(&store).await;
    let names: Vec<_> = log.iter().map(|event| (event.stream.as_str(), &*event.data.name)).collect();
    assert_eq!(
        names,
        [("lamp-a", "lamp.switched_on"), ("service.grid-l1", "command.grid.book"), ("out-1", "lamp.switched_on"),]
    );
    // C3: the conversation goes on, the cause is the event, the actor is the process.
    for event in &log {
        let metadata = &event.metadata;
        assert_eq!(metadata.correlation_id, uuid::Uuid::from_u128(7));
        assert_eq!(metadata.causation_id, Some(uuid::Uuid::from_u128(1 << 64)));
        assert_eq!(metadata.actor.as_deref(), Some("saga:lamps"));
    }
    // The code has other commands at these places now: the first recorded one counts, if it is of the same kind.
    let other =
        || send(lamp("a"), On(2)).and(ask("grid", Book { watts: 1 })).and(publish(out(), LampEvent::SwitchedOn));
    assert_eq!(says(&store, other()).await, [Told::Recorded, Told::Recorded, Told::Recorded]);
    assert_eq!(all(&store).await.len(), 3);
}

fn out() -> StreamId {
    StreamId::new("out", "1")
}

#[tokio::test]
async fn g1_what_stands_at_the_place_of_something_else_is_the_instances_trouble() {
    let store = store();
    says(&store, send(lamp("a"), On(1))).await;
    for other in [send(lamp("b"), On(1)), ask("grid", Book { watts: 1 }), publish(out(), LampEvent::SwitchedOff)] {
        let todo = answering(other).todo().expect("something to do");
        let Err(Failure::Parked(parked)) = todo.perform(&store).await else { panic!("it is recorded elsewhere") };
        assert!(!parked.later && parked.reason.contains("lamp-a"), "{parked:?}");
    }
}

#[tokio::test]
async fn g2_a_mark_keeps_a_refused_command_from_being_recorded_later() {
    let store = store();
    store.execute(lamp("a"), On(0)).await.expect("on");
    let said = || send(lamp("a"), On(1)).or(send(lamp("b"), On(2)));
    let told = says(&store, said()).await;
    assert_eq!(told, [Told::Refused("it is on".into()), Told::Recorded, Told::Recorded]);
    // The lamp could be switched on now, but the mark holds.
    store.execute(lamp("a"), Off).await.expect("off");
    assert_eq!(says(&store, said()).await, [Told::Marked(Some("it is on".into())), Told::Recorded]);
    let marks: Vec<_> = all(&store).await.into_iter().filter(|event| &*event.data.name == Mark::NAME).collect();
    assert_eq!(marks.len(), 1);
    assert_eq!(marks[0].stream.as_str(), "saga.lamps-l1");
    assert_eq!(marks[0].metadata.actor.as_deref(), Some("saga:lamps"));
    // A mark of nothing to do holds too.
    let off = || send(lamp("c"), Off).then(send(lamp("d"), On(3)));
    let told = answer(&store, &mut answering_to(2, off())).await;
    assert_eq!(told, [Told::Nothing, Told::Recorded, Told::Recorded]);
}

#[tokio::test]
async fn g2_of_a_command_and_its_mark_the_first_counts() {
    let store = store();
    store.execute(lamp("a"), On(0)).await.expect("on");
    let said = || send(lamp("a"), On(1)).or(send(lamp("b"), On(2)));
    // Two nodes: on one the command is refused, on the other it is recorded.
    let (mut slow, mut fast) = (answering(said()), answering(said()));
    let refused = slow.todo().expect("a command").perform(&store).await.expect("told");
    assert_eq!(refused, Told::Refused("it is on".into()));
    slow.told(refused);
    store.execute(lamp("a"), Off).await.expect("off");
    assert_eq!(answer(&store, &mut fast).await, [Told::Recorded]);
    assert_eq!(answer(&store, &mut slow).await, [Told::Taken, Told::Recorded], "it learns that it is recorded");
    // Both are refused, with different words: the first mark counts.
    let (mut slow, mut fast) = (answering_to(2, said()), answering_to(2, said()));
    slow.told(Told::Refused("for another reason".into()));
    store.execute(lamp("b"), Off).await.expect("off");
    let told = answer(&store, &mut fast).await;
    assert_eq!(told, [Told::Refused("it is on".into()), Told::Recorded, Told::Recorded]);
    assert_eq!(answer(&store, &mut slow).await, [Told::Taken, Told::Marked(Some("it is on".into())), Told::Recorded]);
    assert_eq!(slow.known(), fast.known());
}

#[tokio::test]
async fn a_message_says_how_long_it_is_of_use() {
    let store = store();
    says(&store, ask("grid", Book { watts: 60 }).within(hours(2))).await;
    let log = all(&store).await;
    assert_eq!(log[0].metadata.extra["expires"], "1970-01-01T03:00:00Z", "two hours after the event");
    assert_eq!((log[0].schema, &*log[0].data.body), (Book::VERSION, br#"{"watts":60}"#.as_slice()));
    assert_eq!(Book::decode(1, &log[0].data.body).expect("a command"), Book { watts: 60 });
    assert!(Book::decode(2, b"{}").is_err());
    assert!(Duration::ZERO < hours(1));
}

#[tokio::test]
async fn g10_an_instance_that_is_over_is_known_after_its_row_is_gone() {
    let store = store();
    let look_up = |key: &str| {
        let todo = answering(send(lamp("a"), Off)).look_up();
        let Todo::LookUp(delivery) = todo else { panic!("{todo:?}") };
        Todo::LookUp(crate::process::Delivery { key: key.into(), ..delivery })
    };
    assert_eq!(look_up("l1").perform(&store).await.expect("told"), Told::Over(false));
    let row = StoredInstance::new("l1");
    end(&store, "lamps", &row).await.expect("written");
    end(&store, "lamps", &row).await.expect("written once");
    assert_eq!(all(&store).await.len(), 1);
    assert_eq!(look_up("l1").perform(&store).await.expect("told"), Told::Over(true));
    assert_eq!(look_up("l2").perform(&store).await.expect("told"), Told::Over(false));
}

#[tokio::test]
async fn g6_the_store_is_to_blame_for_what_may_succeed_later_and_the_instance_for_the_rest() {
    let retryable = [StoreError::Busy("".into()), StoreError::Unavailable("".into()), StoreError::Unknown("".into())];
    for error in retryable {
        assert!(matches!(Failure::from(error), Failure::Store(_)));
    }
    let conflict = crate::Conflict::new(out(), Expected::Any, crate::Version(1));
    assert!(matches!(Failure::from(StoreError::Conflict(conflict)), Failure::Parked(parked) if parked.later));
    let damaged = StoreError::Damaged("".into());
    assert!(matches!(Failure::from(damaged), Failure::Parked(parked) if !parked.later));
}
