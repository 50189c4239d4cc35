//! Courses with seats, students with a limit: one rule over two states, without a race.

use CampusEvent::*;
use eventstore::prelude::*;

#[derive(Event, Clone, Debug, PartialEq)]
pub enum CampusEvent {
    CourseOpened {
        #[event(tag)]
        course: Id<Course>,
        seats: u32,
    },
    StudentJoined {
        #[event(tag)]
        student: Id<Student>,
    },
    Enrolled {
        #[event(tag)]
        course: Id<Course>,
        #[event(tag)]
        student: Id<Student>,
    },
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Course {
    #[aggregate(id)]
    id: Id<Course>,
    free: u32,
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
pub struct Student {
    #[aggregate(id)]
    id: Id<Student>,
    joined: bool,
    courses: Vec<Id<Course>>,
}

impl Evolve for Course {
    type Event = CampusEvent;

    fn evolve(&mut self, event: CampusEvent) {
        match event {
            CourseOpened { seats, .. } => self.free = seats,
            Enrolled { .. } => self.free -= 1,
            StudentJoined { .. } => {}
        }
    }
}

impl Evolve for Student {
    type Event = CampusEvent;

    fn evolve(&mut self, event: CampusEvent) {
        match event {
            StudentJoined { .. } => self.joined = true,
            Enrolled { course, .. } => self.courses.push(course),
            CourseOpened { .. } => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct OpenCourse {
    pub seats: u32,
}

impl Decide<OpenCourse> for Course {
    fn decide(&self, OpenCourse { seats }: OpenCourse) -> Decision<Self> {
        Ok(vec![CourseOpened { course: self.id.clone(), seats }])
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Join;

impl Decide<Join> for Student {
    fn decide(&self, Join: Join) -> Decision<Self> {
        Ok(vec![StudentJoined { student: self.id.clone() }])
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Enrol;

/// The course decides, the student is consulted; neither may change meanwhile.
impl Decide<Enrol> for (Course, Student) {
    fn decide(&self, Enrol: Enrol) -> Decision<Self> {
        let (course, student) = self;
        ensure!(student.joined, "{} has not joined", student.id);
        ensure!(course.free > 0, "{} is full", course.id);
        ensure!(student.courses.len() < 2, "{} takes enough courses", student.id);
        ensure!(!student.courses.contains(&course.id), "{} takes {} already", student.id, course.id);
        Ok(vec![Enrolled { course: course.id.clone(), student: student.id.clone() }])
    }
}

/// How many have enrolled anywhere.
#[derive(Aggregate)]
pub struct Enrolments(u32);

impl Evolve for Enrolments {
    type Event = CampusEvent;
    fn evolve(&mut self, event: CampusEvent) {
        self.0 += u32::from(matches!(event, Enrolled { .. }));
    }
}

#[derive(Clone)]
pub struct EnrolEarly;

impl Decide<EnrolEarly> for (Course, Student, Enrolments) {
    fn decide(&self, EnrolEarly: EnrolEarly) -> Decision<Course> {
        let (course, student, Enrolments(enrolments)) = self;
        ensure!(*enrolments < 2, "the campus is full");
        Ok(vec![Enrolled { course: course.id.clone(), student: student.id.clone() }])
    }
}

impl Course {
    pub fn free(&self) -> u32 {
        self.free
    }
}

impl Enrolments {
    pub fn count(&self) -> u32 {
        self.0
    }
}

impl Student {
    pub fn courses(&self) -> &[Id<Course>] {
        &self.courses
    }
}
