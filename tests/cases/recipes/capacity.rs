//! A course whose capacity may be changed while students subscribe: a rule depends on the events that it looks at.

use CourseEvent::*;
use eventstore::prelude::*;

use super::{
    super::{Between, world},
    at_once, log, rivals,
};

#[derive(Event, Clone, Debug, PartialEq)]
pub enum CourseEvent {
    CapacityChanged { to: u32 },
    Subscribed { student: String },
    Unsubscribed { student: String },
}

#[derive(Aggregate)]
pub struct Course {
    capacity: u32,
    students: Vec<String>,
}

impl Evolve for Course {
    type Event = CourseEvent;

    fn evolve(&mut self, event: CourseEvent) {
        match event {
            CapacityChanged { to } => self.capacity = to,
            Subscribed { student } => self.students.push(student),
            Unsubscribed { student } => self.students.retain(|other| *other != student),
        }
    }
}

#[derive(Clone)]
pub struct ChangeCapacity {
    pub to: u32,
}

/// A smaller capacity ends no subscription, so the answer does not depend on who is subscribed.
impl Decide<ChangeCapacity> for Course {
    const UNAFFECTED_BY: &'static [&'static str] = &["course.subscribed", "course.unsubscribed"];

    fn decide(&self, ChangeCapacity { to }: ChangeCapacity) -> Decision<Self> {
        ensure!(to != self.capacity, "the capacity is {to} already");
        Ok(vec![CapacityChanged { to }])
    }
}

#[derive(Clone)]
pub struct Subscribe {
    pub student: String,
}

/// Depends on the capacity and on the other subscriptions. One that ends only makes room.
impl Decide<Subscribe> for Course {
    const UNAFFECTED_BY: &'static [&'static str] = &["course.unsubscribed"];

    fn decide(&self, Subscribe { student }: Subscribe) -> Decision<Self> {
        ensure!(!self.students.contains(&student), "{student} is subscribed already");
        ensure!(self.students.len() < self.capacity as usize, "the course is full");
        Ok(vec![Subscribed { student }])
    }
}

#[derive(Clone)]
pub struct Unsubscribe {
    pub student: String,
}

impl Decide<Unsubscribe> for Course {
    fn decide(&self, Unsubscribe { student }: Unsubscribe) -> Decision<Self> {
        let subscribed = self.students.contains(&student);
        Ok(subscribed.then_some(Unsubscribed { student }).into_iter().collect())
    }
}

#[test]
fn a_course_is_full_at_its_capacity() {
    let subscribe = |student: &str| Subscribe { student: student.into() };
    Course::given([CapacityChanged { to: 1 }])
        .when(subscribe("ann"))
        .then([Subscribed { student: "ann".into() }])
        .when(subscribe("bob"))
        .then_rejected("the course is full")
        .when(ChangeCapacity { to: 2 })
        .then([CapacityChanged { to: 2 }])
        .when(subscribe("bob"))
        .then([Subscribed { student: "bob".into() }])
        .when(Unsubscribe { student: "ann".into() })
        .then([Unsubscribed { student: "ann".into() }])
        .when(ChangeCapacity { to: 2 })
        .then_rejected("the capacity is 2 already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_a_change_of_capacity_and_a_subscription_of_other_processes_do_not_disturb_it() {
    let world = world().await;
    let rust = Id::<Course>::from("rust");
    world.store.execute(&rust, ChangeCapacity { to: 100 }).await.unwrap();
    // Between the read and the append of each change, another process records a subscription.
    for n in 0..30 {
        let course = rust.clone();
        let subscribe = move |store: Store| async move {
            store.execute(&course, Subscribe { student: n.to_string() }).await.unwrap();
        };
        let racing = Store::from(Between::new(&world.inner).let_in(subscribe));
        racing.execute(&rust, ChangeCapacity { to: 101 + n }).retries(0).await.unwrap();
    }
    let course = world.store.load(&rust).await.unwrap();
    assert_eq!((course.capacity, course.students.len(), course.version.0), (130, 30, 61));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a13_a_course_never_has_more_than_its_capacity_at_the_time() {
    let world = world().await;
    let rust = Id::<Course>::from("rust");
    world.store.execute(&rust, ChangeCapacity { to: 4 }).await.unwrap();
    let changes = [3, 5, 2, 6].map(|to| (to, None));
    let students = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|student| (0, Some(student)));
    let commands = rivals(&world, 12).into_iter().zip(changes.into_iter().chain(students));
    let answers = at_once(commands.map(|(store, (to, student))| {
        let rust = rust.clone();
        Box::pin(async move {
            match student {
                Some(student) => store.execute(&rust, Subscribe { student: student.into() }).retries(100).await,
                None => store.execute(&rust, ChangeCapacity { to }).retries(100).await,
            }
        })
    }))
    .await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(CommandError::Rejected(_)))));
    let (mut capacity, mut students) = (0, 0);
    for event in log::<CourseEvent>(&world).await {
        match event {
            CapacityChanged { to } => capacity = to,
            Subscribed { .. } => {
                assert!(students < capacity, "one too many");
                students += 1;
            }
            Unsubscribed { .. } => students -= 1,
        }
    }
}
