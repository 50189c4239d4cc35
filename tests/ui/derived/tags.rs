//! Whom events concern.

use eventstore::{Event, Id, Tag};

use crate::campus::{CampusEvent, Course, Student};

#[derive(Event, Clone, Debug, PartialEq)]
enum LectureEvent {
    Planned {
        #[event(tag)]
        course: Id<Course>,
        room: String,
    },
    Held(#[event(tag)] Option<Id<Course>>, #[event(tag)] Vec<Id<Student>>),
    Billed {
        #[event(tag = "invoice.no")]
        invoice: u64,
        #[event(tag = "payer")]
        payer: Option<String>,
        #[event(tag = "line")]
        lines: Vec<u8>,
        #[event(tag = "code")]
        codes: Option<Vec<char>>,
        cents: i64,
    },
    Cancelled,
}

#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
struct Seat {
    student: Option<Id<Student>>,
    place: Place,
}

#[derive(serde::Serialize, serde::Deserialize, Clone, Debug, PartialEq)]
struct Place {
    row: u32,
    room: (String, Id<Course>),
}

#[derive(Event, Clone, Debug, PartialEq)]
enum SeatEvent {
    Taken {
        #[event(tag = student, tag = place.room.1, tag("room", place.room.0))]
        seat: Seat,
        #[event(tag)]
        course: Id<Course>,
    },
    Moved(#[event(tag = place.room.1)] Vec<Seat>, #[event(tag("row", row))] Option<Place>),
}

#[test]
fn a_tag_may_be_inside_of_a_field() {
    let seat = |student: Option<&str>, row| Seat {
        student: student.map(Id::from),
        place: Place { row, room: ("A".into(), "go".into()) },
    };
    let taken = SeatEvent::Taken { seat: seat(Some("ann"), 7), course: "rust".into() };
    assert_eq!(tags(&taken), ["student:ann", "course:go", "room:A", "course:rust"]);
    let place = seat(None, 3).place;
    let moved = SeatEvent::Moved(vec![seat(None, 1), seat(None, 2)], Some(place));
    assert_eq!(tags(&moved), ["course:go", "course:go", "row:3"]);
    assert_eq!(tags(&SeatEvent::Moved(vec![], None)), [""; 0]);
    let mut names = SeatEvent::TAGS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["course", "room", "row", "student"]);
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "lecture", others(LectureEvent, crate::campus::CampusEvent))]
enum PlanEvent {
    Planned,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(transparent, others(SeatEvent))]
enum AllEvent {
    Plan(PlanEvent),
    Campus(CampusEvent),
}

#[test]
fn the_names_of_other_events_are_known_too() {
    assert_eq!(PlanEvent::OTHERS, [LectureEvent::NAMES, CampusEvent::NAMES]);
    assert_eq!(AllEvent::OTHERS, [LectureEvent::NAMES, CampusEvent::NAMES, SeatEvent::NAMES]);
    assert!(CampusEvent::OTHERS.is_empty());
}

fn tags(event: &impl Event) -> Vec<String> {
    event.tags().iter().map(Tag::to_string).collect()
}

#[test]
fn an_id_is_a_tag_by_the_name_of_its_aggregate() {
    let (course, student) = (Id::<Course>::from("rust"), Id::<Student>::from("ann"));
    let enrolled = CampusEvent::Enrolled { course: course.clone(), student: student.clone() };
    assert_eq!(enrolled.tags(), [Tag::new("course", "rust"), Tag::new("student", "ann")]);
    assert_eq!(tags(&LectureEvent::Planned { course: course.clone(), room: "A".into() }), ["course:rust"]);
    assert_eq!(
        tags(&LectureEvent::Held(Some(course), vec![student, "bob".into()])),
        ["course:rust", "student:ann", "student:bob"]
    );
    assert_eq!(tags(&LectureEvent::Held(None, vec![])), [""; 0]);
    assert_eq!(tags(&LectureEvent::Cancelled), [""; 0]);
}

#[test]
fn anything_that_can_be_shown_is_a_tag_by_the_name_it_is_given() {
    let billed = LectureEvent::Billed {
        invoice: 7,
        payer: Some("ann".into()),
        lines: vec![1, 2],
        codes: Some(vec!['x', 'y']),
        cents: 5,
    };
    assert_eq!(tags(&billed), ["invoice.no:7", "payer:ann", "line:1", "line:2", "code:x", "code:y"]);
    let billed = LectureEvent::Billed { invoice: 8, payer: None, lines: vec![], codes: None, cents: 5 };
    assert_eq!(tags(&billed), ["invoice.no:8"]);
}

#[test]
fn the_names_of_tags_are_known_each_once() {
    assert_eq!(CampusEvent::TAGS, ["course", "student"]);
    assert_eq!(LectureEvent::TAGS, ["course", "student", "invoice.no", "payer", "line", "code"]);
    assert_eq!(crate::account::AccountEvent::TAGS, [""; 0]);
}
