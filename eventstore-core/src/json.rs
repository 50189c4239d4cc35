//! JSON that can be read back: a value that could not is refused before it is stored.

use std::{fmt, io};

use serde::{Serialize, ser};
use serde_json::value::RawValue;

use crate::{error::EventError, limits};

/// Returns the body of an event as JSON. Fails with [`EventError::TooLarge`] if it is over the limit, with
/// [`EventError::NotFinite`] if it holds NaN or an infinity, which serde_json would silently write as `null`, and with
/// [`EventError::Body`] if serde fails.
///
/// The writing ends at the limit for bodies, before any other work on the value, so a value that is too large costs no
/// more than one that is just small enough.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EventError> {
    let body = bounded(value, limits::BODY_BYTES)?.map_err(EventError::TooLarge)?;
    finite(value)?;
    Ok(body)
}

/// As [`encode`], for the state of a snapshot, which has no limit.
pub(crate) fn encode_state<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EventError> {
    finite(value)?;
    Ok(serde_json::to_vec(value)?)
}

/// Returns a value as JSON; or, if that is larger than the limit, a lower bound of its size in bytes.
pub(crate) fn bounded<T: Serialize + ?Sized>(
    value: &T,
    limit: usize,
) -> Result<Result<Vec<u8>, usize>, serde_json::Error> {
    let mut to = Bounded { json: Vec::with_capacity(128), limit, refused: None };
    let written = serde_json::to_writer(&mut to, value);
    match to.refused {
        Some(size) => Ok(Err(size)),
        None => written.map(|()| Ok(to.json)),
    }
}

struct Bounded {
    json: Vec<u8>,
    limit: usize,
    refused: Option<usize>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let size = self.json.len().saturating_add(bytes.len());
        if size > self.limit {
            self.refused = Some(size);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.json.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As [`encode`], for a value inside other JSON, without a limit.
pub(crate) fn encode_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, EventError> {
    finite(value)?;
    Ok(serde_json::value::to_raw_value(value)?)
}

fn finite<T: Serialize + ?Sized>(value: &T) -> Result<(), EventError> {
    value.serialize(Finite).map_err(|refused| match refused {
        Refused::NotFinite => EventError::NotFinite,
        Refused::Custom(message) => EventError::Body(ser::Error::custom(message)),
    })
}

/// Visits a value and writes nothing; fails at a number that is not finite.
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

    #[test]
    fn a11_a_body_over_the_limit_is_refused_before_it_is_all_written() {
        /// An endless sequence that counts the items that were asked for.
        struct Endless<'a>(&'a std::cell::Cell<usize>);
        impl Serialize for Endless<'_> {
            fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(std::iter::repeat_with(|| {
                    self.0.set(self.0.get() + 1);
                    "0123456789"
                }))
            }
        }
        let asked = std::cell::Cell::new(0);
        let refused = bounded(&Endless(&asked), 1_000).expect("JSON");
        assert!(matches!(refused, Err(1_001..1_020)), "{refused:?}");
        assert!(asked.get() < 100, "{asked:?}");
        for (limit, fits) in [(12, true), (11, false)] {
            assert_eq!(bounded("0123456789", limit).expect("JSON").is_ok(), fits);
        }
        assert!(matches!(encode(&"x".repeat(limits::BODY_BYTES)), Err(EventError::TooLarge(_))));
        assert_eq!(encode(&"x".repeat(limits::BODY_BYTES - 2)).expect("it fits").len(), limits::BODY_BYTES);
    }

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
