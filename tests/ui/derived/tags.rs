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
