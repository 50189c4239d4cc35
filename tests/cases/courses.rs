//! Rules over several states at once: seats, limits, and races for both.

use std::sync::Arc;

use eventstore::{Refusal, prelude::*, testing::*};
use tokio::sync::Barrier;

use super::{
    Between, World,
    campus::{CampusEvent::*, *},
    world,
};

#[test]
fn a_full_course_takes_nobody() {
    let (rust, ann, bob) = (Id::from("rust"), Id::from("ann"), Id::from("bob"));
    let opened = CourseOpened { course: rust.clone(), seats: 1 };
    given(&rust, [opened])
        .given(&ann, [StudentJoined { student: ann.clone() }])
        .given(&bob, [StudentJoined { student: bob.clone() }])
        .when((&rust, &ann), Enrol)
        .then([Enrolled { course: rust.clone(), student: ann.clone() }])
        .when((&rust, &bob), Enrol)
        .then_rejected("rust is full");
}

async fn campus(seats: u32) -> (World, Id<Course>, Id<Student>, Id<Student>) {
    let world = world().await;
    let (rust, ann, bob) = (Id::<Course>::new(), Id::<Student>::new(), Id::<Student>::new());
    world.store.execute(&rust, OpenCourse { seats }).await.unwrap();
    world.store.execute(&ann, Join).await.unwrap();
    world.store.execute(&bob, Join).await.unwrap();
    (world, rust, ann, bob)
}

#[tokio::test]
async fn a13_the_last_seat_is_given_once() {
    let (world, rust, ann, bob) = campus(1).await;
    let quiet = &world.store;
    // Bob gets in after Ann's rule has read a free seat, and before her event is appended.
    let (course, rival) = (rust.clone(), bob.clone());
    let intrude = move |store: Store| async move {
        store.execute((&course, &rival), Enrol).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    let late = racing.execute((&rust, &ann), Enrol).await;
    let Err(CommandError::Rejected(Refusal(reason))) = late else { panic!("the seat was given twice") };
    assert!(reason.ends_with("is full"));
    assert_eq!(quiet.load(&rust).await.unwrap().free(), 0);
    assert_eq!(quiet.load(&bob).await.unwrap().courses(), std::slice::from_ref(&rust));
    let (course, student) = &*quiet.load((&rust, &ann)).await.unwrap();
    assert_eq!((course.free(), student.courses().len()), (0, 0));
}

#[tokio::test]
async fn a13_a_conflict_names_the_event_in_the_way() {
    let (world, rust, ann, bob) = campus(2).await;
    let (course, rival) = (rust.clone(), bob.clone());
    let intrude = move |store: Store| async move {
        store.execute((&course, &rival), Enrol).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    let lost = racing.execute((&rust, &ann), Enrol).retries(0).await;
    let Err(CommandError::Conflict(conflict)) = lost else { panic!("the seat was given twice") };
    let between = "expected: version 1; in between: `campus.enrolled`";
    assert_eq!(conflict.to_string(), format!("stream {} is at version 2; {between}", rust.stream()));
    // And with a retry, there is room for both.
    racing.execute((&rust, &ann), Enrol).await.unwrap();
    assert_eq!(world.store.load(&rust).await.unwrap().free(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_twenty_students_race_for_five_seats() {
    let (world, rust, ..) = campus(5).await;
    // Commands of one handle take turns. Each student has another, and all have read five free seats before any appends.
    let all_have_read = Arc::new(Barrier::new(20));
    let mut tasks = vec![];
    for _ in 0..20 {
        let student = Id::<Student>::new();
        world.store.execute(&student, Join).await.unwrap();
        let barrier = all_have_read.clone();
        let wait = move |_| async move {
            barrier.wait().await;
        };
        let store = Store::from(Between::new(&world.inner).let_in(wait));
        tasks.push(tokio::spawn(store.execute((&rust, &student), Enrol).retries(200).into_future()));
    }
    let mut seated = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(done) => {
                assert_eq!(done.stream, rust); // new events land in the stream of the first
                seated += 1;
            }
            Err(CommandError::Rejected(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((seated, world.store.load(&rust).await.unwrap().free()), (5, 0));
}

#[tokio::test]
async fn a13_others_enrolling_elsewhere_do_not_disturb() {
    let (world, rust, ann, bob) = campus(9).await;
    let go = Id::<Course>::new();
    world.store.execute(&go, OpenCourse { seats: 1 }).await.unwrap();
    let intrude = move |store: Store| async move {
        store.execute((&go, &bob), Enrol).await.unwrap();
    };
    let racing = Store::from(Between::new(&world.inner).let_in(intrude));
    racing.execute((&rust, &ann), Enrol).retries(0).await.unwrap(); // no conflict
}

#[tokio::test]
async fn a_rule_can_look_at_every_event_of_a_kind() {
    let (world, rust, ann, bob) = campus(9).await;
    let store = &world.store;
    store.execute((&rust, &ann, every::<Enrolments>()), EnrolEarly).await.unwrap();
    store.execute((&rust, &bob, every::<Enrolments>()), EnrolEarly).await.unwrap();
    let third = store.execute((&rust, Id::<Student>::new(), every::<Enrolments>()), EnrolEarly).await;
    assert!(matches!(third, Err(CommandError::Rejected(_))));
    assert_eq!(store.load(every::<Enrolments>()).await.unwrap().count(), 2);
}

#[tokio::test]
async fn c1_a_command_over_several_is_recalled_with_all_its_states() {
    let (world, rust, ann, bob) = campus(2).await;
    let id = uuid::Uuid::now_v7();
    let first = world.store.execute((&rust, &ann), Enrol).command_id(id).await.unwrap();
    world.store.execute((&rust, &bob), Enrol).await.unwrap();
    let again = world.store.execute((&rust, &ann), Enrol).command_id(id).await.unwrap();
    assert_eq!(first.events, again.events);
    let seen = |state: &(Course, Student)| (state.0.free(), state.1.courses().to_vec());
    assert_eq!(seen(&first.state), seen(&again.state));
    assert_eq!((first.version, first.position), (again.version, again.position));
}
