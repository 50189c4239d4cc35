//! A state made of tagged events, but no event is tagged.

use eventstore::prelude::*;

#[derive(Event, Clone)]
enum CampusEvent {
    CourseOpened { course: Id<Course>, seats: u32 },
}

#[derive(Aggregate)]
#[aggregate(by_tag)]
struct Course {
    #[aggregate(id)]
    id: Id<Course>,
    free: u32,
}

impl Evolve for Course {
    type Event = CampusEvent;

    fn evolve(&mut self, CampusEvent::CourseOpened { seats, .. }: CampusEvent) {
        self.free = seats;
    }
}

fn main() {}
