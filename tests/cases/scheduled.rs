//! Commands that are executed at an instant: each once, none too early, and each cancelled or executed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use eventstore::{
    Changes, CommandError, EventStore, Invalid, Missed, Position, Processors, Raw, Rows, Schedule, ScheduledStatus,
    State, StoreError, Tick, Timestamp, Unscheduled, Uuid, prelude::*,
};
use eventstore_sagas::scheduled_table::{Answer, Row as Scheduled, TABLE};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Between, World,
    sagas::{LEASE, names, until},
    world,
};

type Any = Box<dyn std::error::Error>;

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Event, Clone, Debug, PartialEq)]
pub enum NoteEvent {
    Added { text: String },
    Erased,
}

#[derive(Aggregate)]
pub struct Note {
    texts: Vec<String>,
}

impl Evolve for Note {
    type Event = NoteEvent;

    fn evolve(&mut self, event: NoteEvent) {
        match event {
            NoteEvent::Added { text } => self.texts.push(text),
            NoteEvent::Erased => self.texts.clear(),
        }
    }
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "note.add")]
pub struct Add {
    text: String,
}

static BROKEN: AtomicBool = AtomicBool::new(true);

impl Decide<Add> for Note {
    fn decide(&self, Add { text }: Add) -> Decision<Self> {
        ensure!(text != "no", "not that\0");
        assert!(text != "panic" || !BROKEN.load(SeqCst), "it is broken");
        Ok(if text == "nothing" { vec![] } else { vec![NoteEvent::Added { text }] })
    }
}

#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "note.erase")]
pub struct Erase {}

impl Decide<Erase> for Note {
    fn decide(&self, _: Erase) -> Decision<Self> {
        Ok(vec![NoteEvent::Erased])
    }
}

/// Another command that is called as one is already.
#[derive(Command, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[command(name = "note.erase")]
pub struct Wipe {
    all: bool,
}

impl Decide<Wipe> for Note {
    fn decide(&self, _: Wipe) -> Decision<Self> {
        Ok(vec![])
    }
}

pub fn note(key: &str) -> Id<Note> {
    key.into()
}

pub fn add(text: &str) -> Add {
    Add { text: text.into() }
}

fn start(store: &Store) -> eventstore::Running {
    Runner::new(store).lease(LEASE).executes::<Note, (Add, Erase)>().start()
}

/// Lets time pass: where the clock is a server's, by waiting.
async fn pass(world: &World, time: Duration) {
    match world.clock() {
        Some(clock) => clock.advance(time),
        None => sleep(time).await,
    }
}

async fn status(store: &Store, id: &str) -> Result<Option<ScheduledStatus>, Any> {
    Ok(store.scheduled().get(id).await?.map(|command| command.status))
}

async fn comes_to(store: &Store, id: &str, wanted: ScheduledStatus) -> Result<(), Any> {
    until(async || Ok(status(store, id).await? == Some(wanted))).await
}

async fn texts(store: &Store, key: &str) -> Result<Vec<String>, Any> {
    Ok(store.load(&note(key)).await?.state.texts)
}

/// The row of a schedule, as it is stored.
async fn row(store: &Store, id: &str) -> Result<Scheduled, Any> {
    let rows = store.as_ref().rows(Rows::Keys { table: TABLE, keys: vec![id.into()] }).await?;
    Ok(Scheduled::read(&rows[0].1)?)
}

async fn put(store: &Store, id: &str, row: &Scheduled) -> Result<(), Any> {
    let mut transaction = store.as_ref().begin().await?;
    let upserts = vec![(id.into(), row.written()?)];
    transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await?;
    Ok(transaction.commit().await?)
}

#[tokio::test]
async fn m1_a_scheduled_command_is_executed_when_it_is_due_and_not_before() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let first = store.execute(&note("ann"), add("first")).correlation(Uuid::from_u128(7)).await?;
    let runner = start(store);
    let before = store.as_ref().time().await?;
    let soon = store
        .schedule(&note("ann"), add("later"))
        .after(Duration::from_millis(1_500))
        .id("soon")
        .by("teller-7")
        .caused_by(&first.events[0])
        .await?;
    assert!(soon.id == "soon" && soon.due >= before + Duration::from_millis(1_500), "{soon:?}");
    let late = store.schedule(&note("bob"), Erase {}).at(before + HOUR).await?;
    assert!(late.id.parse::<Uuid>().is_ok_and(|id| id.get_version_num() == 7) && late.due == before + HOUR);
    let listed: Vec<_> = store.scheduled().list(10).await?.into_iter().map(|one| (one.id, one.due)).collect();
    assert_eq!(listed, [("soon".into(), Some(soon.due)), (late.id.clone(), Some(late.due))]);
    let of_bob = store.scheduled().of(&note("bob")).list(10).await?;
    assert_eq!((of_bob.len(), &*of_bob[0].command, &*of_bob[0].body), (1, "note.erase", "{}"));
    // In a store with a clock of its own, the clock stands still until it is moved.
    if let Some(clock) = world.clock() {
        store.schedule(&note("carl"), add("at once")).id("at once").await?;
        comes_to(store, "at once", ScheduledStatus::Fired).await?;
        assert_eq!(status(store, "soon").await?, Some(ScheduledStatus::Waiting));
        clock.advance(Duration::from_millis(1_500));
    }
    comes_to(store, "soon", ScheduledStatus::Fired).await?;
    assert_eq!(texts(store, "ann").await?, ["first", "later"]);
    let log: Vec<Recorded<Raw>> = store.read().raw().try_collect().await?;
    let event = log.last().ok_or("it is recorded")?;
    assert!(event.recorded_at >= soon.due, "{} {}", event.recorded_at, soon.due);
    let fired = store.scheduled().get("soon").await?.expect("it is kept");
    assert_eq!((fired.position, fired.due, fired.attempts, fired.error), (Some(event.position), None, 0, None));
    // C3: the conversation goes on, the event has its cause.
    assert_eq!(event.metadata.actor.as_deref(), Some("teller-7"));
    assert_eq!(event.metadata.causation_id, Some(first.events[0].id));
    assert_eq!(event.metadata.correlation_id, Uuid::from_u128(7));
    assert_eq!(event.metadata.extra["scheduledFor"], soon.due.to_string());
    assert_eq!(status(store, &late.id).await?, Some(ScheduledStatus::Waiting));
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn m1_what_is_due_is_done_once_a_runner_has_settled() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).executes::<Note, (Add, Erase)>().schedule(EachPeriod).start();
    let second = Duration::from_secs(1);
    store.schedule(&note("ann"), add("early")).after(second).id("a").await?;
    store.schedule(&note("ann"), add("late")).after(HOUR).id("b").await?;
    runner.settle().await?;
    assert_eq!(texts(store, "ann").await?.len(), 0);
    pass(&world, 2 * second).await;
    runner.settle().await?;
    assert_eq!(texts(store, "ann").await?, ["early"]);
    assert!(!texts(store, "each_period").await?.is_empty());
    runner.stop().await;
    Ok(())
}

#[tokio::test]
async fn m2_a_command_is_cancelled_or_executed_and_the_answer_says_which() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    assert_eq!(store.unschedule("c1").await?, Unscheduled::Unknown, "nothing was ever scheduled");
    let ann = note("ann");
    let c1 = store.schedule(&ann, add("c1")).after(Duration::from_millis(100)).id("c1").await?;
    let c2 = store.schedule(&ann, add("c2")).after(Duration::from_millis(100)).id("c2").await?;
    store.schedule(&ann, add("no")).id("c3").await?;
    store.schedule(&ann, add("nothing")).id("c4").await?;
    assert_eq!(store.unschedule("c1").await?, Unscheduled::Cancelled);
    assert_eq!(store.unschedule("c1").await?, Unscheduled::Cancelled, "a call that is repeated has the same answer");
    assert_eq!(store.unschedule("c5").await?, Unscheduled::Unknown);
    let runner = start(store);
    pass(&world, Duration::from_millis(100)).await;
    comes_to(store, "c2", ScheduledStatus::Fired).await?;
    comes_to(store, "c3", ScheduledStatus::Refused).await?;
    comes_to(store, "c4", ScheduledStatus::Fired).await?;
    assert_eq!(texts(store, "ann").await?, ["c2"]);
    assert_eq!(store.unschedule("c2").await?, Unscheduled::Fired { at: c2.due, position: Some(Position(1)) });
    for id in ["c3", "c4"] {
        let fired = store.unschedule(id).await?;
        assert!(matches!(fired, Unscheduled::Fired { position: None, .. }), "{fired:?}");
    }
    let refused = store.scheduled().get("c3").await?.expect("it is kept");
    assert_eq!((refused.error.as_deref(), refused.attempts), (Some("not that\\0"), 0));
    // The id of what was cancelled is free again, also for the same instant.
    store.schedule(&ann, add("again")).at(c1.due).id("c1").await?;
    comes_to(store, "c1", ScheduledStatus::Fired).await?;
    assert_eq!(texts(store, "ann").await?, ["c2", "again"]);
    // Rows are kept for seven days.
    if let Some(clock) = world.clock() {
        clock.advance(7 * 24 * HOUR);
        until(async || Ok(status(store, "c3").await?.is_none() && status(store, "c2").await?.is_none())).await?;
        assert_eq!(store.unschedule("c2").await?, Unscheduled::Unknown);
    }
    runner.stop().await;
    Ok(())
}

/// Callers cancel while two nodes execute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_of_cancelling_and_executing_exactly_one_wins() -> Result<(), Any> {
    const ALL: usize = 120;
    let world = world().await;
    let store = &world.store;
    let nodes = [start(store), start(store)];
    let ids: Vec<_> = (0..ALL).map(|n| format!("c{n}")).collect();
    let cancel = async |id: &String| {
        store.schedule(&note(id), add("it")).id(id).await?;
        if id.len().is_multiple_of(2) {
            tokio::task::yield_now().await;
        }
        store.unschedule(id).await
    };
    let answers: Vec<_> = stream::iter(&ids).map(cancel).buffered(16).try_collect().await?;
    until(async || Ok(store.scheduled().list(1).await?.is_empty())).await?;
    for (id, answer) in ids.iter().zip(&answers) {
        let recorded = texts(store, id).await?.len();
        match answer {
            Unscheduled::Cancelled => assert_eq!(recorded, 0, "{id} was cancelled"),
            Unscheduled::Fired { position, .. } => {
                assert_eq!((recorded, position.is_some()), (1, true), "{id} was executed");
            }
            other => panic!("{id}: {other:?}"),
        }
    }
    for node in nodes {
        node.stop().await;
    }
    Ok(())
}

/// A node that has claimed a command may be frozen, and execute the command later.
#[tokio::test]
async fn m2_a_command_that_a_frozen_node_has_claimed_is_cancelled_for_that_node_too() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let claimed = async |id: &str| {
        store.schedule(&note(id), add("it")).id(id).await?;
        let mut firing = row(store, id).await?;
        firing.claim(store.as_ref().time().await?);
        put(store, id, &firing).await?;
        Ok::<_, Any>(firing)
    };
    // Cancelled before the node executes it: the command cannot be recorded any more.
    let late = claimed("late").await?;
    assert_eq!(store.unschedule("late").await?, Unscheduled::Cancelled);
    assert_eq!(status(store, "late").await?, Some(ScheduledStatus::Cancelled));
    let zombie = store.execute(&note("late"), add("it")).command_id(late.command_id).await;
    assert!(
        matches!(zombie, Err(CommandError::Store(StoreError::Reused { .. }))),
        "{:?}",
        zombie.map(|done| done.events)
    );
    // Scheduled again at the same instant, it is another command: the frozen node does not execute that one.
    store.schedule(&note("again"), add("it")).at(late.at()).id("late").await?;
    assert_ne!(row(store, "late").await?.command_id, late.command_id);
    // A crash after that was recorded, and before it was stored in the row.
    put(store, "late", &late).await?;
    // Executed before it is cancelled, and not stored in the row.
    let early = claimed("early").await?;
    let done = store.execute(&note("early"), add("it")).command_id(early.command_id).await?;
    assert_eq!(store.unschedule("early").await?, Unscheduled::Fired { at: early.at(), position: Some(done.position) });
    let runner = start(store);
    comes_to(store, "late", ScheduledStatus::Cancelled).await?;
    comes_to(store, "early", ScheduledStatus::Fired).await?;
    runner.stop().await;
    assert_eq!((texts(store, "late").await?.len(), texts(store, "early").await?.len()), (0, 1));
    assert_eq!(store.unschedule("late").await?, Unscheduled::Cancelled);
    Ok(())
}

/// A node that was frozen does not execute what its successor has found refused or without events.
#[tokio::test]
async fn m2_what_has_recorded_nothing_is_recorded_by_no_frozen_node_later() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let mut frozen = vec![];
    for (id, text, ends) in [("refused", "no", ScheduledStatus::Refused), ("idle", "nothing", ScheduledStatus::Fired)] {
        store.schedule(&note(id), add(text)).id(id).await?;
        let mut firing = row(store, id).await?;
        firing.claim(store.as_ref().time().await?);
        put(store, id, &firing).await?;
        frozen.push((id, ends, firing));
    }
    let runner = start(store);
    for (id, ends, firing) in &frozen {
        comes_to(store, id, *ends).await?;
        // A crash after that was recorded, and before it was stored in the row.
        put(store, id, firing).await?;
        comes_to(store, id, *ends).await?;
        assert_eq!(store.unschedule(id).await?, Unscheduled::Fired { at: firing.at(), position: None });
    }
    assert_eq!(row(store, "refused").await?.error.as_deref(), Some("not that\\0"));
    runner.stop().await;
    for (id, _, firing) in &frozen {
        // The rule says something else by now.
        let zombie = store.execute(&note(id), add("it")).command_id(firing.command_id).await;
        assert!(
            matches!(zombie, Err(CommandError::Store(StoreError::Reused { .. }))),
            "{:?}",
            zombie.map(|it| it.events)
        );
        // An operator who asks of the row before the answer is told the same.
        put(store, id, firing).await?;
        assert_eq!(store.unschedule(id).await?, Unscheduled::Fired { at: firing.at(), position: None });
        assert_eq!(texts(store, id).await?.len(), 0);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m3_what_is_due_is_executed_the_earliest_first_and_what_no_program_executes_keeps_it_waiting_not()
-> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let now = store.as_ref().time().await?;
    // More than a look takes, and all of them earlier.
    store.schedule(&note("ann"), Erase {}).at(now).id("e").await?;
    let never = row(store, "e").await?;
    let mut transaction = store.as_ref().begin().await?;
    let of_later = |n: u32| Scheduled {
        due: Some(1),
        at: 1,
        command: if n.is_multiple_of(2) { "note.unknown".into() } else { "note.erase".into() },
        version: 9,
        ..never.clone()
    };
    let upserts = (0..1_200).map(|n| Ok((format!("never-{n}"), of_later(n).written()?)));
    let upserts = upserts.collect::<Result<_, StoreError>>()?;
    transaction.write(Changes { table: TABLE, upserts, deletes: vec![] }).await?;
    transaction.commit().await?;
    for n in (0..20_u64).rev() {
        let at = now - Duration::from_secs(20 - n);
        store.schedule(&note("bob"), add(&n.to_string())).at(at).id(format!("c{n}")).await?;
    }
    let runner = start(store);
    until(async || Ok(texts(store, "bob").await?.len() == 20)).await?;
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(texts(store, "bob").await?, expected);
    comes_to(store, "e", ScheduledStatus::Fired).await?;
    runner.stop().await;
    let waiting = store.scheduled().list(2_000).await?;
    assert_eq!(waiting.len(), 1_200);
    assert!(waiting.iter().all(|one| one.status == ScheduledStatus::Waiting && one.attempts == 0));
    Ok(())
}

/// Three nodes, of which the commits of one are not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_a_command_is_recorded_once_whoever_executes_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    for n in 0..40 {
        store.schedule(&note(&format!("n{}", n % 4)), add(&n.to_string())).id(format!("c{n}")).await?;
    }
    let unsure = Store::from(Arc::new(Between::new(&world.inner).unanswered(3)) as Arc<dyn EventStore>);
    let node = |store: &Store| {
        Runner::new(store).lease(LEASE).executes::<Note, (Add,)>().executes::<Note, (Erase,)>().shards(4).start()
    };
    let nodes = [node(store), node(&unsure), node(store)];
    until(async || Ok(store.scheduled().list(1).await?.is_empty())).await?;
    for node in nodes {
        node.stop().await;
    }
    let mut all = vec![];
    for n in 0..4 {
        all.extend(texts(store, &format!("n{n}")).await?);
    }
    assert_eq!((all.len(), all.into_iter().collect::<BTreeSet<_>>().len()), (40, 40));
    Ok(())
}

/// A row that is as it was before the command was executed: as after a crash, or where the clock goes back.
#[tokio::test]
async fn m4_what_is_executed_again_is_not_recorded_again() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    store.schedule(&note("ann"), add("once")).id("c").await?;
    let before = row(store, "c").await?;
    let runner = start(store);
    comes_to(store, "c", ScheduledStatus::Fired).await?;
    for _ in 0..3 {
        put(store, "c", &before).await?;
        comes_to(store, "c", ScheduledStatus::Fired).await?;
    }
    runner.stop().await;
    assert_eq!(texts(store, "ann").await?, ["once"]);
    assert_eq!(row(store, "c").await?.position, Some(1));
    Ok(())
}

#[tokio::test]
async fn m5_the_same_schedule_asked_for_again_is_the_same_and_another_one_is_an_error() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let (ann, bob) = (note("ann"), note("bob"));
    let noon = store.as_ref().time().await? + HOUR;
    let first = store.schedule(&ann, add("a")).at(noon).id("c").by("one").await?;
    let same = store.schedule(&ann, add("a")).at(noon).id("c").by("another").await?;
    assert_eq!(first, same);
    let reused = |other: Result<eventstore::Scheduled, StoreError>| match other {
        Err(StoreError::Reused { stream, .. }) => assert_eq!(stream, ann),
        other => panic!("{other:?}"),
    };
    reused(store.schedule(&ann, add("b")).at(noon).id("c").await);
    reused(store.schedule(&bob, add("a")).at(noon).id("c").await);
    reused(store.schedule(&ann, Erase {}).at(noon).id("c").await);
    reused(store.schedule(&ann, add("a")).at(noon + HOUR).id("c").await);
    let there = store.scheduled().get("c").await?.expect("it is there");
    assert_eq!((there.at, &*there.body, there.actor.as_deref()), (noon, r#"{"text":"a"}"#, Some("one")));
    // A time from now on is the same schedule, whenever the call is repeated.
    let after = store.schedule(&ann, add("d")).after(HOUR).id("d").await?;
    pass(&world, Duration::from_millis(5)).await;
    assert_eq!(store.schedule(&ann, add("d")).after(HOUR).id("d").await?, after);
    reused(store.schedule(&ann, add("d")).after(2 * HOUR).id("d").await);
    // Replaced, it is the other one.
    store.schedule(&bob, add("b")).id("c").replace().await?;
    assert_eq!(store.scheduled().list(10).await?.len(), 2);
    let runner = start(store);
    comes_to(store, "c", ScheduledStatus::Fired).await?;
    assert_eq!((texts(store, "ann").await?.len(), texts(store, "bob").await?), (0, vec!["b".into()]));
    // The same schedule is not executed again; another one may replace it.
    let fired = store.scheduled().get("c").await?.expect("it is kept").at;
    assert_eq!(store.schedule(&bob, add("b")).at(fired).id("c").await?.due, fired);
    assert_eq!(status(store, "c").await?, Some(ScheduledStatus::Fired));
    let other = store.schedule(&bob, add("e")).at(fired).id("c").await;
    assert!(matches!(other, Err(StoreError::Reused { .. })), "{other:?}");
    // What replaces it has a command of its own, also at an instant at which another one was executed.
    for text in ["e", "f"] {
        store.schedule(&bob, add("later")).after(HOUR).id("c").replace().await?;
        store.schedule(&bob, add(text)).at(fired).id("c").replace().await?;
        comes_to(store, "c", ScheduledStatus::Fired).await?;
    }
    assert_eq!(texts(store, "bob").await?, ["b", "e", "f"]);
    runner.stop().await;
    Ok(())
}

/// Of callers at the same moment with one id and different commands, one has scheduled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m5_of_two_schedules_at_once_with_one_id_one_is_an_error() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    store.scheduled().prepare().await?;
    for id in 0..20 {
        let noon = store.as_ref().time().await? + HOUR;
        let ask = async |n: usize| {
            let done = store.schedule(&note("ann"), add(&n.to_string())).at(noon).id(id).await;
            match done {
                Ok(_) => Ok(Some(n)),
                Err(StoreError::Reused { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let won: Vec<_> = stream::iter(0..4).map(ask).buffer_unordered(4).try_collect().await?;
        let won: Vec<_> = won.into_iter().flatten().collect();
        assert_eq!(won.len(), 1, "{won:?}");
        let there = store.scheduled().get(&id.to_string()).await?.expect("it is there");
        assert_eq!(there.body, format!(r#"{{"text":"{}"}}"#, won[0]));
    }
    Ok(())
}

#[tokio::test]
async fn m5_what_no_store_can_keep_is_a_typed_error_and_leaves_nothing_behind() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = note("ann");
    let long = "x".repeat(513);
    for id in ["", "a\nb", "cron:x", &long] {
        let bad = store.schedule(&ann, Erase {}).id(id).await;
        assert!(matches!(bad, Err(StoreError::Invalid(Invalid::Name { .. }))), "{id}: {bad:?}");
    }
    for id in ["", "a\0b", &long] {
        assert!(matches!(store.unschedule(id).await, Err(StoreError::Invalid(Invalid::Name { .. }))));
        assert!(matches!(store.scheduled().get(id).await, Err(StoreError::Invalid(Invalid::Name { .. }))));
    }
    for key in ["", "a\0b", "$every", &long] {
        let bad = store.schedule(&note(key), Erase {}).await;
        assert!(matches!(bad, Err(StoreError::Invalid(Invalid::Name { .. }))), "{key}: {bad:?}");
    }
    let large = store.schedule(&ann, add(&"x".repeat(2 << 20))).await;
    assert!(matches!(large, Err(StoreError::Invalid(Invalid::TooLarge { .. }))), "{large:?}");
    let actor = store.schedule(&ann, Erase {}).by("a\0b").await;
    assert!(matches!(actor, Err(StoreError::Invalid(Invalid::Metadata(_)))), "{actor:?}");
    let actor = store.schedule(&ann, Erase {}).by("x".repeat(1 << 20)).await;
    assert!(matches!(actor, Err(StoreError::Invalid(Invalid::TooLarge { .. }))), "{actor:?}");
    let none = store.scheduled().retry("c").await;
    assert!(matches!(none, Err(StoreError::Invalid(Invalid::Request(_)))), "{none:?}");
    assert_eq!(store.scheduled().list(10).await?, []);
    // The furthest instants there are, and text with every character that JSON escapes.
    let odd = store.schedule(&ann, add("\0\u{1f}\"\\")).after(Duration::MAX).id("odd").await?;
    assert_eq!(odd.due, Timestamp::MAX);
    store.schedule(&ann, add("\0\u{1f}\"\\")).at(Timestamp::MIN).id("odd").replace().await?;
    let runner = start(store);
    comes_to(store, "odd", ScheduledStatus::Fired).await?;
    runner.stop().await;
    assert_eq!(texts(store, "ann").await?, ["\0\u{1f}\"\\"]);
    Ok(())
}

#[tokio::test]
async fn m5_a_command_is_scheduled_with_the_events_of_a_transaction_or_not_at_all() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let ann = note("ann");
    // No table is made in a transaction.
    let tx = store.begin().await?;
    let unmade = tx.schedule(&ann, Erase {}).await;
    assert!(matches!(unmade, Err(StoreError::Invalid(Invalid::Request(_)))), "{unmade:?}");
    tx.execute(&ann, add("one")).await?;
    tx.commit().await?;
    store.scheduled().prepare().await?;
    // Rolled back, after an append and before one.
    for first in [true, false] {
        let tx = store.begin().await?;
        if first {
            tx.execute(&ann, add("two")).await?;
        }
        tx.schedule(&ann, add("three")).id("c").await?;
        if !first {
            tx.execute(&ann, add("two")).await?;
        }
        tx.rollback().await?;
        assert_eq!(status(store, "c").await?, None);
    }
    let tx = store.begin().await?;
    let done = tx.execute(&ann, add("two")).await?;
    tx.schedule(&ann, add("three")).id("c").caused_by(&done.events[0]).await?;
    tx.schedule(&ann, add("three")).id("d").await?;
    let reused = tx.schedule(&ann, add("four")).id("c").await;
    assert!(matches!(reused, Err(StoreError::Reused { .. })), "a refusal, after which it can be committed: {reused:?}");
    assert_eq!(tx.unschedule("d").await?, Unscheduled::Cancelled);
    tx.commit().await?;
    // What was loaded before it was scheduled is checked.
    let tx = store.begin().await?;
    let loaded = tx.load(&ann).await?;
    assert_eq!(loaded.state.texts, ["one", "two"]);
    tx.schedule(&ann, add("five")).id("e").await?;
    tx.commit().await?;
    let runner = start(store);
    comes_to(store, "c", ScheduledStatus::Fired).await?;
    comes_to(store, "e", ScheduledStatus::Fired).await?;
    runner.stop().await;
    assert_eq!(status(store, "d").await?, Some(ScheduledStatus::Cancelled));
    assert_eq!(texts(store, "ann").await?, ["one", "two", "three", "five"]);
    let log: Vec<Recorded<Raw>> = store.read().raw().try_collect().await?;
    assert_eq!(log[2].metadata.causation_id, Some(done.events[0].id));
    Ok(())
}

/// P3 holds for scheduled commands: one that fails waits by itself, and is seen.
#[tokio::test]
async fn p3_a_command_that_fails_is_tried_eight_times_and_parked() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The clock of a server cannot be moved.
    let Some(clock) = world.clock() else { return Ok(()) };
    let runner = start(store);
    store.schedule(&note("ann"), add("panic")).id("bad").await?;
    store.schedule(&note("ann"), add("good")).id("good").await?;
    comes_to(store, "good", ScheduledStatus::Fired).await?;
    for attempts in 1..8 {
        until(async || {
            let bad = store.scheduled().get("bad").await?;
            Ok(bad.is_some_and(|bad| bad.attempts == attempts && bad.status == ScheduledStatus::Waiting))
        })
        .await?;
        clock.advance(HOUR);
    }
    comes_to(store, "bad", ScheduledStatus::Parked).await?;
    let parked = store.scheduled().parked(10).await?;
    assert_eq!((parked.len(), &*parked[0].id, parked[0].attempts, parked[0].due), (1, "bad", 8, None));
    assert_eq!(parked[0].error.as_deref(), Some("it panicked: it is broken"));
    let good = store.scheduled().retry("good").await;
    assert!(matches!(good, Err(StoreError::Invalid(Invalid::Request(_)))), "{good:?}");
    BROKEN.store(false, SeqCst);
    store.scheduled().retry("bad").await?;
    comes_to(store, "bad", ScheduledStatus::Fired).await?;
    runner.stop().await;
    assert_eq!(texts(store, "ann").await?, ["good", "panic"]);
    Ok(())
}

#[tokio::test]
async fn p3_an_outage_is_waited_out() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let down = Arc::new(AtomicBool::new(false));
    let elsewhere = Store::from(Arc::new(Between::new(&world.inner).down_while(&down)) as Arc<dyn EventStore>);
    let runner = Runner::new(&elsewhere).lease(Duration::from_secs(2)).executes::<Note, (Add,)>().start();
    store.schedule(&note("ann"), add("one")).id("c1").await?;
    comes_to(store, "c1", ScheduledStatus::Fired).await?;
    down.store(true, SeqCst);
    store.schedule(&note("ann"), add("two")).id("c2").await?;
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(status(store, "c2").await?, Some(ScheduledStatus::Waiting));
    down.store(false, SeqCst);
    comes_to(store, "c2", ScheduledStatus::Fired).await?;
    assert_eq!(store.scheduled().get("c2").await?.map(|one| one.attempts), Some(0));
    // What one command has met is no try either.
    store.schedule(&note("ann"), add("three")).after(HOUR).id("c3").await?;
    let mut away = row(store, "c3").await?;
    let now = store.as_ref().time().await?;
    away.claim(now);
    away.answered(Answer::Outage("away".into()), now);
    put(store, "c3", &away).await?;
    pass(&world, Duration::from_secs(1)).await;
    comes_to(store, "c3", ScheduledStatus::Fired).await?;
    runner.stop().await;
    Ok(())
}

/// Several calls are one processor; a node that executes fewer commands stands aside as long as another one lives.
#[tokio::test]
async fn e5_a_node_that_executes_fewer_commands_stands_aside() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let older = Runner::new(store).lease(LEASE).executes::<Note, (Add,)>().start();
    assert_eq!(older.status().iter().map(|status| &*status.name).collect::<Vec<_>>(), ["scheduled:note"]);
    store.schedule(&note("ann"), add("one")).id("c1").await?;
    store.schedule(&note("ann"), Erase {}).id("c2").await?;
    comes_to(store, "c1", ScheduledStatus::Fired).await?;
    assert_eq!(status(store, "c2").await?, Some(ScheduledStatus::Waiting));
    let newer = Runner::new(store).lease(LEASE).executes::<Note, (Erase,)>().executes::<Note, (Add,)>().start();
    assert_eq!(newer.status().len(), 1, "two calls are one processor");
    comes_to(store, "c2", ScheduledStatus::Fired).await?;
    store.schedule(&note("ann"), add("two")).id("c3").await?;
    comes_to(store, "c3", ScheduledStatus::Fired).await?;
    newer.stop().await;
    // The older one goes on where the newer one is gone.
    store.schedule(&note("ann"), add("three")).id("c4").await?;
    comes_to(store, "c4", ScheduledStatus::Fired).await?;
    older.stop().await;
    assert_eq!(texts(store, "ann").await?, ["two", "three"]);
    Ok(())
}

#[tokio::test]
async fn two_types_of_commands_with_one_stored_name_are_a_mistake() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).executes::<Note, (Erase, Wipe)>().start();
    let stopped = timeout(Duration::from_secs(10), runner.until(Position(1))).await?;
    assert!(
        matches!(&stopped, Err(StoreError::Stopped { reason, .. }) if reason.to_string().contains("`note.erase`")),
        "{stopped:?}"
    );
    runner.stop().await;
    Ok(())
}

/// An operator pauses it as any other processor, and events that are recorded meanwhile are nothing to it.
#[tokio::test]
async fn what_is_paused_executes_nothing() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = start(store);
    let done = store.execute(&note("ann"), add("one")).await?;
    runner.until(done.position).await?;
    let processors = Processors::new(store);
    processors.pause("scheduled:note").await?;
    store.schedule(&note("ann"), add("two")).id("c").await?;
    sleep(Duration::from_millis(1_300)).await;
    assert_eq!(status(store, "c").await?, Some(ScheduledStatus::Waiting));
    processors.resume("scheduled:note").await?;
    comes_to(store, "c", ScheduledStatus::Fired).await?;
    assert!(runner.status().iter().all(|status| status.state == State::Active));
    runner.stop().await;
    assert_eq!(names(store).await?, ["note.added", "note.added"]);
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);

/// Adds the instant of each tick to a note.
macro_rules! schedules {
    ($($schedule:ident $name:literal $cron:literal $missed:ident)*) => {$(
        struct $schedule;

        impl Schedule for $schedule {
            const NAME: &'static str = $name;
            const CRON: &'static str = $cron;
            const MISSED: Missed = Missed::$missed;

            fn tick(&self, tick: &Tick) -> Commands {
                send(note($name), add(&tick.at.to_string()))
            }
        }
    )*};
}

schedules! {
    EachMinute "each_minute" "* * * * *" All
    LastMinute "last_minute" "* * * * *" Once
    ThisMinute "this_minute" "* * * * *" Skip
    EachSecond "each_second" "* * * * * *" All
    EachPeriod "each_period" "@every 2s" All
    NoMinute "no_minute" "99 * * * *" Once
    NoZone "No Name" "* * * * *" Once
}

/// The next whole minutes after now.
fn minutes(now: Timestamp, count: i64) -> Vec<String> {
    let minute = |n: i64| (now.as_micros() / 60_000_000 + n) * 60_000_000;
    (1..=count).map(|n| Timestamp::from_micros(minute(n)).to_string()).collect()
}

/// What each second of a server's clock and each minute of a clock that is moved has in common: each tick is one tick.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_a_tick_of_cron_is_one_tick_on_any_number_of_nodes() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let unsure = Store::from(Arc::new(Between::new(&world.inner).unanswered(3)) as Arc<dyn EventStore>);
    let node = |store: &Store| Runner::new(store).lease(LEASE).schedule(EachSecond).start();
    let nodes = [node(store), node(&unsure), node(store)];
    until(async || Ok(texts(store, "each_second").await?.len() >= 4)).await?;
    for node in nodes {
        node.stop().await;
    }
    // It begins again where it was: as after a crash between a tick and its commit.
    let mut row = row(store, "cron:each_second").await?;
    let ticks = texts(store, "each_second").await?;
    let first: Timestamp = ticks[0].parse()?;
    (row.at, row.due) = (first.as_micros(), Some(first.as_micros()));
    put(store, "cron:each_second", &row).await?;
    let runner = node(store);
    until(async || Ok(texts(store, "each_second").await?.len() >= ticks.len() + 2)).await?;
    runner.stop().await;
    let ticks = texts(store, "each_second").await?;
    for (n, tick) in ticks.iter().enumerate() {
        assert_eq!(*tick, (first + Duration::from_secs(n as u64)).to_string(), "{ticks:?}");
    }
    let log: Vec<Recorded<Raw>> = store.read().raw().try_collect().await?;
    let recorded: BTreeSet<_> = log.iter().map(|event| event.metadata.command_id).collect();
    assert_eq!((log.len(), recorded.len()), (ticks.len(), ticks.len()));
    for (event, tick) in log.iter().zip(&ticks) {
        assert!(event.recorded_at >= tick.parse()?, "no tick is early");
        assert_eq!(event.metadata.actor.as_deref(), Some("saga:cron.each_second"));
    }
    Ok(())
}

#[tokio::test]
async fn m4_a_schedule_of_a_period_ticks_at_each_multiple_of_it() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let runner = Runner::new(store).lease(LEASE).schedule(EachPeriod).start();
    until(async || Ok(store.scheduled().get("cron:each_period").await?.is_some())).await?;
    until(async || {
        pass(&world, Duration::from_millis(500)).await;
        Ok(texts(store, "each_period").await?.len() >= 3)
    })
    .await?;
    runner.stop().await;
    let ticks = texts(store, "each_period").await?;
    let first: Timestamp = ticks[0].parse()?;
    assert_eq!(first.as_micros() % 2_000_000, 0);
    for (n, tick) in ticks.iter().enumerate() {
        assert_eq!(*tick, (first + Duration::from_secs(2 * n as u64)).to_string(), "{ticks:?}");
    }
    Ok(())
}

#[tokio::test]
async fn m6_missed_ticks_of_cron_are_run_by_the_stated_policy() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The clock of a server cannot be moved.
    let Some(clock) = world.clock() else { return Ok(()) };
    let schedules = || {
        let runner = Runner::new(store).lease(LEASE).schedule(EachMinute).schedule(LastMinute).schedule(ThisMinute);
        runner.schedule(NoMinute).schedule(NoZone).start()
    };
    let planned = async |minute: Timestamp| {
        until(async || {
            let mut all = true;
            for name in ["each_minute", "last_minute", "this_minute"] {
                let tick = store.scheduled().get(&format!("cron:{name}")).await?;
                all &= tick.is_some_and(|tick| tick.due == Some(minute));
            }
            Ok(all)
        })
        .await
    };
    let minute = |n: i64| -> Result<Timestamp, Any> { Ok(minutes(clock.now(), n)[n as usize - 1].parse()?) };
    // Not at the end of a minute, which might be over before a node has planned.
    clock.advance((minute(1)? - clock.now()) + Duration::from_secs(1));
    let (began, next) = (clock.now(), minute(1)?);
    let runner = schedules();
    planned(next).await?;
    // What cannot run does not keep others from it.
    let stopped = || runner.status().into_iter().filter(|status| status.state == State::Failed).collect::<Vec<_>>();
    until(async || Ok(stopped().len() == 2)).await?;
    let stopped = stopped();
    let names: Vec<_> = stopped.iter().map(|status| &*status.name).collect();
    assert_eq!(names, ["cron:no_minute", "cron:No Name"]);
    for status in stopped {
        let error = status.error.as_ref().and_then(|error| error.downcast_ref::<StoreError>());
        assert!(matches!(error, Some(StoreError::Invalid(Invalid::Schedule { .. }))), "{error:?}");
    }
    let listed: Vec<_> = store.scheduled().list(10).await?.into_iter().map(|one| (one.id, one.cron)).collect();
    let each = |name: &str| (format!("cron:{name}"), Some("* * * * * UTC".to_owned()));
    assert_eq!(listed, ["each_minute", "last_minute", "this_minute"].map(each));
    // In time, all of them run.
    clock.advance(MINUTE);
    planned(minute(1)?).await?;
    runner.stop().await;
    // For five minutes and a half, no node runs.
    clock.advance(5 * MINUTE + Duration::from_secs(30));
    let runner = schedules();
    let after = minute(1)?;
    planned(after).await?;
    runner.stop().await;
    let all = minutes(began, 6);
    assert_eq!(texts(store, "each_minute").await?, all);
    assert_eq!(texts(store, "last_minute").await?, [all[0].clone(), all[5].clone()]);
    // The last one is less than a minute late.
    assert_eq!(texts(store, "this_minute").await?, [all[0].clone(), all[5].clone()]);
    assert!(matches!(store.unschedule("cron:each_minute").await, Err(StoreError::Invalid(Invalid::Name { .. }))));
    Ok(())
}

static STUCK: AtomicBool = AtomicBool::new(true);

/// A tick whose first command is refused, and whose second one panics while the code is broken.
#[tokio::test]
async fn p10_a_schedule_of_cron_that_was_given_up_is_removed_and_begins_anew() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    let run = || Runner::new(store).lease(LEASE).schedule(EachMinute).start();
    let runner = run();
    until(async || Ok(store.scheduled().get("cron:each_minute").await?.is_some())).await?;
    runner.stop().await;
    store.schedule(&note("ann"), add("kept")).after(MINUTE).id("c").await?;
    let processors = Processors::new(store);
    let rebuilt = processors.rebuild("cron:each_minute").await.map(drop);
    assert!(matches!(rebuilt, Err(StoreError::Invalid(Invalid::Request(_)))), "{rebuilt:?}");
    processors.discard("cron:each_minute").await?;
    let left: Vec<_> = store.scheduled().list(10).await?.into_iter().map(|one| one.id).collect();
    assert_eq!(left, ["c"]);
    // Ticks of the time in which there was no schedule are not missed.
    let Some(clock) = world.clock() else { return Ok(()) };
    clock.advance(60 * MINUTE);
    let runner = run();
    until(async || Ok(store.scheduled().get("cron:each_minute").await?.is_some())).await?;
    clock.advance(MINUTE);
    until(async || Ok(!texts(store, "each_minute").await?.is_empty())).await?;
    runner.stop().await;
    assert_eq!(texts(store, "each_minute").await?.len(), 1);
    Ok(())
}

struct Fragile;

impl Schedule for Fragile {
    const NAME: &'static str = "fragile";
    const CRON: &'static str = "* * * * *";

    fn tick(&self, tick: &Tick) -> Commands {
        assert!(!STUCK.load(SeqCst), "it is stuck");
        send(note("fragile"), add("no")).or(send(note("fragile"), add(&tick.at.to_string())))
    }
}

#[tokio::test]
async fn p3_a_tick_that_fails_is_parked_and_goes_on_when_it_is_told_to() -> Result<(), Any> {
    let world = world().await;
    let store = &world.store;
    // The clock of a server cannot be moved.
    let Some(clock) = world.clock() else { return Ok(()) };
    let runner = Runner::new(store).lease(LEASE).schedule(Fragile).start();
    let tick = async || Ok::<_, Any>(store.scheduled().get("cron:fragile").await?);
    until(async || Ok(tick().await?.is_some())).await?;
    let first = tick().await?.and_then(|tick| tick.due).expect("it is planned");
    clock.advance(MINUTE);
    for attempts in 1..8 {
        until(async || Ok(tick().await?.is_some_and(|tick| tick.attempts == attempts))).await?;
        clock.advance(HOUR);
    }
    until(async || Ok(tick().await?.is_some_and(|tick| tick.status == ScheduledStatus::Parked))).await?;
    let parked = tick().await?.expect("it is parked");
    assert_eq!((parked.error.as_deref(), parked.at), (Some("it panicked: it is stuck"), first));
    STUCK.store(false, SeqCst);
    store.scheduled().retry("cron:fragile").await?;
    // The tick that had failed, and the last one that was missed meanwhile.
    until(async || Ok(texts(store, "fragile").await?.len() == 2)).await?;
    assert_eq!(texts(store, "fragile").await?[0], first.to_string());
    until(async || Ok(tick().await?.is_some_and(|tick| tick.due > Some(clock.now())))).await?;
    runner.stop().await;
    assert_eq!(texts(store, "fragile").await?.len(), 2);
    Ok(())
}
