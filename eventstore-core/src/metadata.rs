//! Who asked, and why: the metadata of every event.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
    ser::SerializeMap,
};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::{invalid::Invalid, json, limits};

/// Who asked, and why.
///
/// Stored as one flat JSON object; the framework's own keys begin with `$`: `$commandId`, `$correlationId` (left out
/// where it is the command id), `$causationId`, `$actor`, `$source`, `$request`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Metadata {
    /// The command that caused the event. All events of one append share it.
    pub command_id: Uuid,
    /// The conversation the event belongs to.
    pub correlation_id: Uuid,
    /// The event that this one answers.
    pub causation_id: Option<Uuid>,
    /// Who asked.
    pub actor: Option<String>,
    /// The program that asked.
    pub source: Option<String>,
    /// A fingerprint of the ids the command was for, where the caller gave the command's id. It tells a retry from an
    /// id that was used twice, and has no other meaning.
    pub request: Option<Uuid>,
    /// Further keys and values of the caller.
    pub extra: BTreeMap<String, Json>,
}

impl Metadata {
    /// Returns the metadata as stores keep them. Fails with [`Invalid`] if a key of the caller begins with `$`, if they
    /// are too large, or if they could not be read back.
    pub fn to_json(&self) -> Result<Vec<u8>, Invalid> {
        if let Some(key) = self.extra.keys().find(|key| key.starts_with('$')) {
            return Err(Invalid::name("metadata key", key, "begins with `$`, like the framework's own"));
        }
        let unreadable = |error: serde_json::Error| Invalid::Metadata(error.to_string());
        let json = json::bounded(self, limits::METADATA_BYTES).map_err(unreadable)?.map_err(|size| {
            Invalid::TooLarge { what: "the metadata of an event", size, limit: limits::METADATA_BYTES }
        })?;
        if !self.extra.is_empty() {
            Self::from_json(&json).map_err(unreadable)?;
        }
        Ok(json)
    }

    /// Reads the form that [`to_json`](Self::to_json) writes. Fails if it is not such JSON.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        // Runs for every event of a replay, and the form is nearly always the one written by `to_json`.
        Written(json).metadata().map_or_else(|| serde_json::from_slice(json), Ok)
    }
}

/// The unread rest of metadata as [`Serialize`] writes them. The short way reads only metadata without extra keys and
/// escapes.
struct Written<'a>(&'a [u8]);

impl<'a> Written<'a> {
    fn metadata(mut self) -> Option<Metadata> {
        let command_id = self.uuid(b"{\"$commandId\":\"")??;
        let correlation_id = self.uuid(b",\"$correlationId\":\"")?.unwrap_or(command_id);
        let causation_id = self.uuid(b",\"$causationId\":\"")?;
        let actor = self.text(b",\"$actor\":\"")?.map(str::to_owned);
        let source = self.text(b",\"$source\":\"")?.map(str::to_owned);
        let request = self.uuid(b",\"$request\":\"")?;
        let extra = BTreeMap::new();
        let metadata = Metadata { command_id, correlation_id, causation_id, actor, source, request, extra };
        (self.0 == b"}").then_some(metadata)
    }

    /// Returns the string after `before`; `Some(None)` if `before` does not come next, `None` if serde must read the
    /// metadata.
    fn text(&mut self, before: &[u8]) -> Option<Option<&'a str>> {
        let Some(rest) = self.0.strip_prefix(before) else { return Some(None) };
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let (text, rest) = rest.split_at(end);
        self.0 = rest.strip_prefix(b"\"")?;
        str::from_utf8(text).ok().map(Some)
    }

    fn uuid(&mut self, before: &[u8]) -> Option<Option<Uuid>> {
        let Some(text) = self.text(before)? else { return Some(None) };
        Uuid::try_parse(text).ok().map(Some)
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("$commandId", &self.command_id)?;
        if self.correlation_id != self.command_id {
            map.serialize_entry("$correlationId", &self.correlation_id)?;
        }
        if let Some(causation) = &self.causation_id {
            map.serialize_entry("$causationId", causation)?;
        }
        if let Some(actor) = &self.actor {
            map.serialize_entry("$actor", actor)?;
        }
        if let Some(source) = &self.source {
            map.serialize_entry("$source", source)?;
        }
        if let Some(request) = &self.request {
            map.serialize_entry("$request", request)?;
        }
        for (key, value) in &self.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Flat)
    }
}

/// By hand: `#[serde(flatten)]` would hold every value back until the last key is seen.
struct Flat;

impl<'de> Visitor<'de> for Flat {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the metadata of an event")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Metadata, M::Error> {
        let mut metadata = Metadata::default();
        let mut correlation = None;
        while let Some(key) = map.next_key()? {
            match key {
                Key::Command => metadata.command_id = map.next_value()?,
                Key::Correlation => correlation = Some(map.next_value()?),
                Key::Causation => metadata.causation_id = map.next_value()?,
                Key::Actor => metadata.actor = map.next_value()?,
                Key::Source => metadata.source = map.next_value()?,
                Key::Request => metadata.request = map.next_value()?,
                Key::Extra(key) => drop(metadata.extra.insert(key, map.next_value()?)),
            }
        }
        metadata.correlation_id = correlation.unwrap_or(metadata.command_id);
        Ok(metadata)
    }
}

enum Key {
    Command,
    Correlation,
    Causation,
    Actor,
    Source,
    Request,
    Extra(String),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "$commandId" => Key::Command,
                    "$correlationId" => Key::Correlation,
                    "$causationId" => Key::Causation,
                    "$actor" => Key::Actor,
                    "$source" => Key::Source,
                    "$request" => Key::Request,
                    extra => Key::Extra(extra.into()),
                })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut metadata =
            Metadata { command_id: Uuid::from_u128(1), correlation_id: Uuid::from_u128(1), ..Metadata::default() };
        let json = String::from_utf8(metadata.to_json().expect("JSON")).expect("UTF-8");
        assert_eq!(json, r#"{"$commandId":"00000000-0000-0000-0000-000000000001"}"#);
        assert_eq!(Metadata::from_json(json.as_bytes()).expect("metadata"), metadata);

        metadata.correlation_id = Uuid::from_u128(2);
        metadata.causation_id = Some(Uuid::from_u128(3));
        metadata.actor = Some("teller-7 \"\u{0}".into());
        metadata.source = Some("branch".into());
        metadata.request = Some(Uuid::from_u128(4));
        metadata.extra.insert("ratio".into(), 0.1.into());
        metadata.extra.insert("nested".into(), serde_json::json!({ "list": [1, null, "x"] }));
        let json = metadata.to_json().expect("JSON");
        assert_eq!(Metadata::from_json(&json).expect("metadata"), metadata);
    }

    /// The short way and the other return what serde returns, errors included.
    #[test]
    fn a10_metadata_are_read_as_any_reader_of_json_reads_them() {
        let ids = [1, 2, 3, 4].map(Uuid::from_u128);
        let some = |bits: u32, n: u32| bits >> n & 1 == 1;
        for bits in 0..32 {
            let command_id = ids[0];
            let metadata = Metadata {
                command_id,
                correlation_id: if some(bits, 0) { ids[1] } else { command_id },
                causation_id: some(bits, 1).then_some(ids[2]),
                actor: some(bits, 2).then(|| "Zoë {},:".into()),
                source: some(bits, 3).then(String::new),
                request: some(bits, 4).then_some(ids[3]),
                extra: BTreeMap::new(),
            };
            let json = metadata.to_json().expect("JSON");
            assert_eq!(Written(&json).metadata(), Some(metadata.clone()), "the short way");
            assert_eq!(serde_json::from_slice::<Metadata>(&json).expect("metadata"), metadata);
        }
        let id = ids[0];
        let odd = [
            format!(r#"{{"$commandId":"{id}" }}"#),
            format!(r#"{{"$commandId":"{id}","$commandId":"{}"}}"#, ids[1]),
            format!(r#"{{"$commandId":"{}"}}"#, id.simple()),
            format!(r#"{{"$commandId":"{id}","$actor":null}}"#),
            format!(r#"{{"$commandId":"{id}","$actor":"\u00e9\"}}"}}"#),
            format!(r#"{{"$commandId":"{id}","$source":"x","$actor":"y"}}"#),
            format!(r#"{{"$commandId":"{id}","extra":[1,{{}}]}}"#),
            format!(r#"{{"$commandId":"{id}"}}x"#),
            format!(r#"{{"$commandId":"{id}""#),
            format!("{{\"$commandId\":\"{id}\",\"$actor\":\"a\u{1}b\"}}"),
            r#"{"$commandId":"1"}"#.into(),
            "{}".into(),
            String::new(),
        ];
        for json in odd {
            let (read, reference) =
                (Metadata::from_json(json.as_bytes()), serde_json::from_slice::<Metadata>(json.as_bytes()));
            match (read, reference) {
                (Ok(read), Ok(reference)) => assert_eq!(read, reference, "{json}"),
                (Err(read), Err(reference)) => assert_eq!(read.to_string(), reference.to_string(), "{json}"),
                (read, reference) => panic!("{json}: {read:?}, {reference:?}"),
            }
        }
        let not_text =
            [br#"{"$commandId":"00000000-0000-0000-0000-000000000001","$actor":""#.as_slice(), b"\xff\"}"].concat();
        assert!(Metadata::from_json(&not_text).is_err());
    }

    #[test]
    fn a11_metadata_that_could_not_be_read_again_is_refused() {
        let extra = |key: &str, value: Json| {
            let mut metadata = Metadata::default();
            metadata.extra.insert(key.into(), value);
            metadata.to_json()
        };
        let deep = (0..200).fold(Json::Null, |inner, _| Json::Array(vec![inner]));
        assert!(matches!(extra("deep", deep), Err(Invalid::Metadata(_))));
        assert!(matches!(extra("$commandId", Json::Null), Err(Invalid::Name { .. })));
        assert!(matches!(extra("long", "x".repeat(1 << 20).into()), Err(Invalid::TooLarge { .. })));
    }
}
