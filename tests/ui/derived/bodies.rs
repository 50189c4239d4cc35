//! How events are written, and read back.

use std::{borrow::Cow, collections::BTreeMap};

use eventstore::{Event, EventError, Id};
use serde::{Deserialize, Serialize};

use crate::{account::Account, is_stored_as, read, stored};

#[derive(Event, Clone, Debug, PartialEq)]
enum ShapeEvent {
    Unit,
    Nothing {},
    NoThings(),
    Newtype(i64),
    Pair(String, bool),
    Named { r#type: String, at: (i32, i32) },
    Inside(Point),
    Maybe { limit: Option<i64>, many: Vec<Option<Point>>, by_name: BTreeMap<String, Point> },
    Owner(Id<Account>),
    Text(Cow<'static, str>, Box<str>),
    Recursive { inner: Option<Box<Self>> },
}

/// `Recursive` holds the enum itself, which must then be serde's too.
impl Serialize for ShapeEvent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ShapeEvent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self::Unit)
    }
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Point {
    x: i32,
}

#[test]
fn every_kind_of_variant_is_written_as_json_and_read_back() {
    is_stored_as(ShapeEvent::Unit, "shape.unit", "null");
    is_stored_as(ShapeEvent::Nothing {}, "shape.nothing", "{}");
    is_stored_as(ShapeEvent::NoThings(), "shape.no_things", "[]");
    is_stored_as(ShapeEvent::Newtype(-5), "shape.newtype", "-5");
    is_stored_as(ShapeEvent::Pair("a".into(), true), "shape.pair", r#"["a",true]"#);
    is_stored_as(ShapeEvent::Named { r#type: "t".into(), at: (1, 2) }, "shape.named", r#"{"type":"t","at":[1,2]}"#);
    is_stored_as(ShapeEvent::Inside(Point { x: 1 }), "shape.inside", r#"{"x":1}"#);
    is_stored_as(ShapeEvent::Owner("ann".into()), "shape.owner", r#""ann""#);
    is_stored_as(ShapeEvent::Text("a".into(), "b".into()), "shape.text", r#"["a","b"]"#);
    let by_name = [("here".to_owned(), Point { x: 1 })].into();
    let maybe = ShapeEvent::Maybe { limit: None, many: vec![Some(Point { x: 2 }), None], by_name };
    is_stored_as(maybe, "shape.maybe", r#"{"limit":null,"many":[{"x":2},null],"by_name":{"here":{"x":1}}}"#);
    let recursive = ShapeEvent::Recursive { inner: Some(Box::new(ShapeEvent::Unit)) };
    is_stored_as(recursive, "shape.recursive", r#"{"inner":"shape.unit"}"#);
}

#[test]
fn a_body_may_have_more_fields_than_are_read_and_lack_the_optional_ones() -> Result<(), EventError> {
    let maybe = read::<ShapeEvent>("shape.maybe", 1, r#"{"many":[],"by_name":{},"more":1}"#)?;
    assert_eq!(maybe, [ShapeEvent::Maybe { limit: None, many: vec![], by_name: BTreeMap::new() }]);
    assert!(read::<ShapeEvent>("shape.maybe", 1, r#"{"many":[]}"#).is_err());
    Ok(())
}

#[test]
fn the_body_of_a_unit_variant_is_not_looked_at() -> Result<(), EventError> {
    for body in ["", "{}", "null", "it once had fields"] {
        assert_eq!(read::<ShapeEvent>("shape.unit", 1, body)?, [ShapeEvent::Unit]);
    }
    Ok(())
}

#[test]
fn numbers_that_json_cannot_say_are_refused() {
    #[derive(Event, Clone)]
    enum Measured {
        Height { metres: f64 },
    }
    assert!(matches!(Measured::Height { metres: f64::NAN }.encode(), Err(EventError::NotFinite)));
    assert_eq!(stored(&Measured::Height { metres: 0.1 }).1, r#"{"metres":0.1}"#);
}

/// A type of somebody else, who has not heard of serde.
#[derive(Clone, Debug, PartialEq)]
struct Celsius(i64);

mod degrees {
    use super::Celsius;

    pub(super) fn serialize<S: serde::Serializer>(degrees: &Celsius, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} °C", degrees.0))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Celsius, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        let degrees = text.strip_suffix(" °C").and_then(|degrees| degrees.parse().ok());
        degrees.map(Celsius).ok_or_else(|| serde::de::Error::custom("no degrees"))
    }
}

fn unknown() -> String {
    "unknown".into()
}

#[derive(Event, Clone, Debug, PartialEq)]
enum WeatherEvent {
    Measured {
        #[serde(rename = "t", with = "degrees")]
        temperature: Celsius,
        #[serde(default = "unknown")]
        station: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wind: Option<u32>,
        #[serde(default, skip_serializing_if = "Vec::is_empty", alias = "remarks")]
        notes: Vec<String>,
        #[serde(skip)]
        cached: Option<std::time::Instant>,
    },
    Changed(#[serde(with = "degrees")] Celsius),
    Moved(#[serde(with = "degrees")] Celsius, String),
    Described {
        title: String,
        #[serde(flatten)]
        place: Point,
    },
}

#[test]
fn the_serde_attributes_of_fields_hold() -> Result<(), EventError> {
    let measured = WeatherEvent::Measured {
        temperature: Celsius(21),
        station: "unknown".into(),
        wind: None,
        notes: vec![],
        cached: None,
    };
    is_stored_as(measured.clone(), "weather.measured", r#"{"t":"21 °C","station":"unknown"}"#);
    assert_eq!(read::<WeatherEvent>("weather.measured", 1, r#"{"t":"21 °C"}"#)?, [measured]);

    let noted =
        read::<WeatherEvent>("weather.measured", 1, r#"{"t":"0 °C","station":"A","wind":3,"remarks":["fog"]}"#)?;
    let [noted] = noted.try_into().expect("one event");
    is_stored_as(noted, "weather.measured", r#"{"t":"0 °C","station":"A","wind":3,"notes":["fog"]}"#);

    is_stored_as(WeatherEvent::Changed(Celsius(-3)), "weather.changed", r#""-3 °C""#);
    is_stored_as(WeatherEvent::Moved(Celsius(4), "B".into()), "weather.moved", r#"["4 °C","B"]"#);
    let described = WeatherEvent::Described { title: "Hut".into(), place: Point { x: 7 } };
    is_stored_as(described, "weather.described", r#"{"title":"Hut","x":7}"#);
    Ok(())
}

#[test]
fn an_event_owes_nothing_to_serde_impls_made_for_other_uses() {
    #[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
    enum DoorEvent {
        Opened { by: String },
    }
    let opened = DoorEvent::Opened { by: "Ann".into() };
    assert_eq!(serde_json::to_string(&opened).expect("serde's own"), r#"{"Opened":{"by":"Ann"}}"#);
    is_stored_as(opened, "door.opened", r#"{"by":"Ann"}"#);
}
