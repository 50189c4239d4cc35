//! Commands of one process on one boundary take turns: the default retries suffice, however many there are.

use std::{sync::Arc, time::Duration};

use eventstore::{Expected, Version, prelude::*};
use futures::{FutureExt, future::join_all};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    Between, World,
    campus::{Course, Enrol, Join, OpenCourse, Student},
    recipes::prices::{Order, Place, Product, ProductEvent},
    world,
};
use crate::account::*;

/// Longer than any command of these tests takes, also where much else is built and tested.
const PATIENCE: Duration = Duration::from_secs(60);

async fn opened(key: &str) -> (World, Id<Account>) {
    let (world, id) = (world().await, Id::<Account>::from(key));
    world.store.execute(&id, Open { owner: key.into() }).await.unwrap();
    (world, id)
}

/// A store whose first append says that it is reached, and waits for leave.
struct Halting {
    store: Store,
    reached: Arc<Semaphore>,
    leave: Arc<Semaphore>,
}

impl Halting {
    fn new(world: &World) -> Self {
        let (reached, leave) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (here, wait) = (reached.clone(), leave.clone());
        let halt = |_: Store| async move {
            here.add_permits(1);
            wait.acquire().await.unwrap().forget();
        };
        Self { store: Between::new(&world.inner).let_in(halt).into(), reached, leave }
    }

    /// Runs a command up to its append.
    async fn halt<C: Future + Unpin>(&self, command: &mut C) {
        tokio::select! {
            _ = command => panic!("it has not halted"),
            reached = timeout(PATIENCE, self.reached.acquire()) => reached.expect("its append").unwrap().forget(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_many_writers_of_one_aggregate_all_succeed() {
    let (world, ann) = opened("ann").await;
    let writers = (0..32).map(|_| {
        let (store, ann) = (world.store.clone(), ann.clone());
        tokio::spawn(async move {
            let mut lost = 0;
            for _ in 0..2 {
                lost += usize::from(store.execute(&ann, Deposit { amount: 1 }).await.is_err());
            }
            lost
        })
    });
    let lost: usize = join_all(writers).await.into_iter().map(|writer| writer.unwrap()).sum();
    assert_eq!((lost, world.store.load(&ann).await.unwrap().balance), (0, 64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_as_many_commands_as_seats_all_succeed() {
    let world = world().await;
    let rust = Id::<Course>::new();
    world.store.execute(&rust, OpenCourse { seats: 40 }).await.unwrap();
    let mut students = vec![];
    for _ in 0..40 {
        let student = Id::<Student>::new();
        world.store.execute(&student, Join).await.unwrap();
        students.push(student);
    }
    let enrolments =
        students.iter().map(|student| tokio::spawn(world.store.execute((&rust, student), Enrol).into_future()));
    let seated = join_all(enrolments).await.into_iter().filter(|done| done.as_ref().unwrap().is_ok()).count();
    assert_eq!((seated, world.store.load(&rust).await.unwrap().free()), (40, 0));
}

#[tokio::test]
async fn c4_commands_on_other_boundaries_do_not_wait() {
    let (world, ann) = opened("ann").await;
    let halting = Halting::new(&world);
    let mut slow = halting.store.execute(&ann, Deposit { amount: 1 }).into_future();
    halting.halt(&mut slow).await;
    let other = halting.store.execute(Id::<Account>::from("bob"), Open { owner: "Bob".into() });
    timeout(PATIENCE, other).await.expect("it does not wait").unwrap();
    halting.leave.add_permits(1);
    slow.await.unwrap();
}

#[tokio::test]
async fn c4_commands_that_only_consult_an_aggregate_do_not_wait_for_each_other() {
    let world = world().await;
    let lamp = Id::<Product>::from("lamp");
    let priced = ProductEvent::Priced { cents: 5, from: world.inner.now() };
    world.store.append(&lamp, Expected::Any, [priced]).await.unwrap();
    let place = || Place { shown: 5, now: world.inner.now() };
    let halting = Halting::new(&world);
    let mut slow = halting.store.execute((Id::<Order>::from("1"), &lamp), place()).into_future();
    halting.halt(&mut slow).await;
    let other = halting.store.execute((Id::<Order>::from("2"), &lamp), place());
    timeout(PATIENCE, other).await.expect("it does not wait").unwrap();
    halting.leave.add_permits(1);
    slow.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c4_commands_over_several_boundaries_never_wait_in_a_circle() {
    let world = world().await;
    let courses = ["a", "b", "c"].map(Id::<Course>::from);
    for course in &courses {
        world.store.execute(course, OpenCourse { seats: 100 }).await.unwrap();
    }
    let students: Vec<_> = (0..12).map(|_| Id::<Student>::new()).collect();
    for student in &students {
        world.store.execute(student, Join).await.unwrap();
    }
    let pairs = students.iter().flat_map(|student| courses.iter().map(move |course| (course, student)));
    let enrolments = pairs.map(|pair| tokio::spawn(world.store.execute(pair, Enrol).into_future()));
    let answers = timeout(PATIENCE, join_all(enrolments)).await.expect("no deadlock");
    // Each of the students takes two of the three.
    assert_eq!(answers.iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count(), 24);
}

#[tokio::test]
async fn c4_a_command_that_is_dropped_leaves_its_place() {
    let (world, ann) = opened("ann").await;
    let halting = Halting::new(&world);
    let deposit = |amount| halting.store.execute(&ann, Deposit { amount }).into_future();
    let (mut first, mut second, mut third) = (deposit(1), deposit(10), deposit(100));
    halting.halt(&mut first).await;
    for waiting in [&mut second, &mut third] {
        timeout(Duration::from_millis(20), waiting).await.expect_err("it waits for its turn");
    }
    drop(second); // while it waits
    drop(first); // while it has the turn
    timeout(PATIENCE, third).await.expect("it is its turn").unwrap();
    timeout(PATIENCE, deposit(1000)).await.expect("the queue is empty").unwrap();
    assert_eq!(world.store.load(&ann).await.unwrap().balance, 1100);
}

#[tokio::test]
async fn c4_a_command_that_is_not_polled_does_not_keep_others_for_ever() {
    let (world, ann) = opened("ann").await;
    let halting = Halting::new(&world);
    let deposit = |amount| halting.store.execute(&ann, Deposit { amount }).into_future();
    let (mut first, mut second) = (deposit(1), deposit(10));
    halting.halt(&mut first).await;
    assert!((&mut second).now_or_never().is_none());
    // From here on neither is polled: not the one that has the turn, and not the one that gets it next.
    timeout(PATIENCE, deposit(100)).await.expect("it goes past both").unwrap();
    timeout(PATIENCE, deposit(100)).await.expect("and the next").unwrap();
    halting.leave.add_permits(1);
    timeout(PATIENCE, first).await.expect("it goes on").unwrap();
    timeout(PATIENCE, second).await.expect("it goes on").unwrap();
    timeout(PATIENCE, deposit(1000)).await.expect("the queue is as it was").unwrap();
    assert_eq!(world.store.load(&ann).await.unwrap().balance, 1211);
}

#[tokio::test]
async fn c4_a_transaction_does_not_wait_for_commands_outside_of_it() {
    let (world, ann) = opened("ann").await;
    let halting = Halting::new(&world);
    let mut outside = halting.store.execute(&ann, Deposit { amount: 1 }).into_future();
    halting.halt(&mut outside).await;
    let tx = halting.store.begin().await.unwrap();
    timeout(PATIENCE, tx.execute(&ann, Deposit { amount: 10 })).await.expect("it does not wait").unwrap();
    tx.commit().await.unwrap();
    halting.leave.add_permits(1);
    outside.await.unwrap();
    assert_eq!(world.store.load(&ann).await.unwrap().balance, 11);
}

#[tokio::test]
async fn c4_a_command_that_records_nothing_gives_its_turn_away() {
    let (world, ann) = opened("ann").await;
    for _ in 0..2 {
        let refused = timeout(PATIENCE, world.store.execute(&ann, Withdraw { amount: 5 })).await.expect("its turn");
        assert!(matches!(refused, Err(CommandError::Rejected(_))), "{refused:?}");
        let late = world.store.execute(&ann, Deposit { amount: 5 }).expecting(Version(7));
        let late = timeout(PATIENCE, late).await.expect("its turn");
        assert!(matches!(late, Err(CommandError::Conflict(_))), "{late:?}");
    }
}
