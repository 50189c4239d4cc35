//! Writes JSON that can be read back: what could not is refused before it is stored.

use std::fmt;

use serde::{Serialize, ser};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    event::{Event, EventError, NewEvent, Raw},
    metadata::Metadata,
    timestamp::Timestamp,
};

/// JSON without NaN and infinities, which serde_json would silently write as `null`.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EventError> {
    finite(value)?;
    Ok(serde_json::to_vec(value)?)
}

/// The same, as a value to be put into other JSON.
pub(crate) fn encode_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, EventError> {
    finite(value)?;
    Ok(serde_json::value::to_raw_value(value)?)
}

/// An event in its stored form, and the event again as every later reader will see it.
///
/// Read back at once: an event nobody could read must never get into the log.
pub(crate) fn stored<E: Event>(event: &E) -> Result<(Stored, E), EventError> {
    let (name, schema, body) = (event.name(), event.schema(), event.encode()?);
    let mut read = Vec::with_capacity(1);
    E::decode(name, schema, &body, &mut |event| read.push(event)).map_err(|error| one_way(&error))?;
    let (Some(again), true) = (read.pop(), read.is_empty()) else {
        return Err(EventError::OneWay("today's form must be read as one event".into()));
    };
    Ok((Stored { schema, data: Raw { name: name.into(), tags: event.tags(), body } }, again))
}

fn one_way(error: &EventError) -> EventError {
    EventError::OneWay(error.to_string())
}

/// The stored form of an event that has no id yet.
pub(crate) struct Stored {
    pub schema: u32,
    pub data: Raw,
}

impl Stored {
    pub(crate) fn stamp(self, id: Uuid, metadata: &Metadata, occurred_at: Option<Timestamp>) -> NewEvent {
        NewEvent { id, schema: self.schema, occurred_at, metadata: metadata.clone(), data: self.data }
    }
}

fn finite<T: Serialize + ?Sized>(value: &T) -> Result<(), EventError> {
    value.serialize(Finite).map_err(|refused| match refused {
        Refused::NotFinite => EventError::NotFinite,
        Refused::Custom(message) => EventError::Body(ser::Error::custom(message)),
    })
}

/// Walks over a value and writes nothing; stops at a number that is not finite.
#[derive(Clone, Copy)]
struct Finite;

type Checked = Result<(), Refused>;

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("not finite")]
    NotFinite,
    #[error("{0}")]
    Custom(String),
}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

macro_rules! passes {
    ($($function:ident($type:ty))*) => {
        $(fn $function(self, _: $type) -> Checked { Ok(()) })*
    };
}

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    passes! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_unit_struct(&'static str)
    }

    fn serialize_f32(self, number: f32) -> Checked {
        self.serialize_f64(number.into())
    }
    fn serialize_f64(self, number: f64) -> Checked {
        if number.is_finite() { Ok(()) } else { Err(Refused::NotFinite) }
    }
    fn serialize_none(self) -> Checked {
        Ok(())
    }
    fn serialize_unit(self) -> Checked {
        Ok(())
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Checked {
        Ok(())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Checked {
        value.serialize(self)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Checked {
        Ok(())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Checked {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Checked {
        value.serialize(self)
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        Ok(self)
    }
}

macro_rules! compounds {
    ($($trait:ident { $($function:ident($($argument:ty),*))* })*) => {
        $(impl ser::$trait for Finite {
            type Ok = ();
            type Error = Refused;
            $(fn $function<T: Serialize + ?Sized>(&mut self, $(_: $argument,)* value: &T) -> Checked {
                value.serialize(*self)
            })*
            fn end(self) -> Checked {
                Ok(())
            }
        })*
    };
}

compounds! {
    SerializeSeq { serialize_element() }
    SerializeTuple { serialize_element() }
    SerializeTupleStruct { serialize_field() }
    SerializeTupleVariant { serialize_field() }
    SerializeMap { serialize_key() serialize_value() }
    SerializeStruct { serialize_field(&'static str) }
    SerializeStructVariant { serialize_field(&'static str) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    enum Shape {
        Circle { radius: Option<f64> },
        Line(f32, f32),
        Path(Vec<(f64, f64)>),
        Named(BTreeMap<String, f64>),
        Point,
    }

    #[test]
    fn a11_numbers_that_json_cannot_say_are_refused_wherever_they_are() {
        let bad = [
            Shape::Circle { radius: Some(f64::NAN) },
            Shape::Line(0.0, f32::INFINITY),
            Shape::Path(vec![(0.0, 0.0), (0.0, f64::NEG_INFINITY)]),
            Shape::Named([("x".to_owned(), f64::NAN)].into()),
        ];
        for shape in bad {
            assert!(matches!(encode(&shape), Err(EventError::NotFinite)));
            assert!(matches!(encode_raw(&Some(vec![shape])), Err(EventError::NotFinite)));
        }
        let good = [Shape::Circle { radius: Some(f64::MAX) }, Shape::Circle { radius: None }, Shape::Point];
        assert!(good.iter().all(|shape| encode(shape).is_ok()));
        assert_eq!(encode(&Shape::Line(0.1, -0.0)).expect("finite"), br#"{"Line":[0.1,-0.0]}"#);
    }
}
