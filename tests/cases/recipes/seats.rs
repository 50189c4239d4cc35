//! The rule of `campus.rs`, with everybody enrolling everywhere at once.

use eventstore::prelude::*;

use super::{
    super::{
        campus::{CampusEvent::Enrolled, Course, Enrol, Join, OpenCourse, Student},
        world,
    },
    at_once, log, rivals,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_neither_a_course_nor_a_student_is_ever_over_its_limit() {
    let world = world().await;
    // Two courses are short of seats; and there are more seats than the students may take together.
    let places = [2, 2, 6, 6];
    let courses = places.map(|_| Id::<Course>::new());
    let students: Vec<_> = (0..6).map(|_| Id::<Student>::new()).collect();
    for (course, seats) in courses.iter().zip(places) {
        world.store.execute(course, OpenCourse { seats }).await.unwrap();
    }
    for student in &students {
        world.store.execute(student, Join).await.unwrap();
    }
    let pairs = students.iter().flat_map(|student| courses.iter().map(move |course| (course, student)));
    let enrolments = rivals(&world, 24).into_iter().zip(pairs);
    let answers = at_once(enrolments.map(|(store, pair)| store.execute(pair, Enrol).retries(500))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(CommandError::Rejected(_)))));

    // Judged by what was recorded, not by the states that the rule itself goes by.
    let recorded = log(&world).await.into_iter();
    let pairs: Vec<_> = recorded
        .filter_map(|event| if let Enrolled { course, student } = event { Some((course, student)) } else { None })
        .collect();
    assert_eq!(pairs.len(), answers.iter().filter(|answer| answer.is_ok()).count());
    let load = |student: &Id<Student>| pairs.iter().filter(|(_, takes)| takes == student).count();
    assert!(students.iter().all(|student| load(student) <= 2), "{pairs:?}");
    for (course, places) in courses.iter().zip(places) {
        let taken = pairs.iter().filter(|(taken, _)| taken == course).count();
        assert!(taken <= places as usize, "{pairs:?}");
        let kept_out = |student: &&Id<Student>| !pairs.contains(&(course.clone(), (*student).clone()));
        let full = taken == places as usize;
        assert!(full || students.iter().filter(kept_out).all(|student| load(student) == 2), "refused for nothing");
    }
}
