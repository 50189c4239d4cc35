//! A row for each tag of a name that no event has.

use eventstore::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Clone)]
enum CampusEvent {
    Enrolled {
        #[event(tag = "course")]
        course: String,
    },
}

#[derive(ReadModel, Serialize, Deserialize, Default)]
#[read_model(tag = "student")]
struct Timetable {
    courses: Vec<String>,
}

impl Project for Timetable {
    type Event = CampusEvent;

    fn project(row: &mut Row<Self>, event: &Recorded<CampusEvent>) {
        let CampusEvent::Enrolled { course } = &event.data;
        row.courses.push(course.clone());
    }
}

fn main() {}
