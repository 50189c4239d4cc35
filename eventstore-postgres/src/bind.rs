//! Encodes the arguments of the functions that append.

use eventstore_core::{Append, Expected, NewEvent};

use crate::{read, types::array};

/// Encodes the expected version of a stream: -1 for any, -2 for an existing stream, else the version.
pub(crate) fn expected(expected: Expected) -> i64 {
    match expected {
        Expected::Any => -1,
        Expected::Exists => -2,
        Expected::Version(version) => read::signed(version.0),
    }
}

/// Returns the tags of an event as the text of an array.
pub(crate) fn tags(event: &NewEvent) -> String {
    array(event.data.tags.iter().map(ToString::to_string))
}

/// The event types of a call, each once. The server checks them against its table, for this process may know a type of
/// a log that was restored since.
#[derive(Default)]
pub(crate) struct DistinctTypes<'a> {
    pub(crate) keys: Vec<i32>,
    pub(crate) categories: Vec<&'a str>,
    pub(crate) names: Vec<&'a str>,
}

impl<'a> DistinctTypes<'a> {
    pub(crate) fn add(&mut self, append: &'a Append, keys: &[i32]) {
        for ((stream, event), key) in append.events().zip(keys) {
            if !self.keys.contains(key) {
                self.keys.push(*key);
                self.categories.push(stream.category());
                self.names.push(&event.data.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::{Metadata, Raw, StreamId, Version, Write};
    use uuid::Uuid;

    use super::*;

    fn event(name: &str, tags: Vec<eventstore_core::Tag>) -> NewEvent {
        let data = Raw { name: name.to_owned().into(), tags, body: vec![] };
        NewEvent { id: Uuid::nil(), schema: 1, occurred_at: None, metadata: Metadata::default(), data }
    }

    #[test]
    fn a_stream_that_must_not_exist_is_not_any_stream() {
        let versions =
            [Expected::Version(Version(0)), Expected::Version(Version(7)), Expected::Version(Version(u64::MAX))];
        assert_eq!(versions.map(expected), [0, 7, i64::MAX]);
        assert!(expected(Expected::Any) < 0 && expected(Expected::Exists) < 0);
        assert_ne!(expected(Expected::Any), expected(Expected::Exists));
    }

    #[test]
    fn a_type_is_sent_once_with_the_category_of_its_own_stream() {
        let write = |stream: StreamId, names: &[&str]| Write {
            stream,
            expected: Expected::Any,
            events: names.iter().map(|name| event(name, vec![])).collect(),
        };
        let append = |writes| Append { writes, unchanged: vec![], condition: None };
        let toys = append(vec![
            write(StreamId::new("toy", "a"), &["made", "sold", "made"]),
            write(StreamId::new("shop", "a"), &["made"]),
        ]);
        let more = append(vec![write(StreamId::new("toy", "b"), &["sold"])]);
        let mut types = DistinctTypes::default();
        types.add(&toys, &[3, 4, 3, 9]);
        types.add(&more, &[4]);
        assert_eq!(types.keys, [3, 4, 9]);
        assert_eq!(types.categories, ["toy", "toy", "shop"]);
        assert_eq!(types.names, ["made", "sold", "made"]);
    }

    #[test]
    fn tags_are_one_array_whatever_is_in_their_keys() {
        let tag = |key: &str| eventstore_core::Tag { name: "toy".into(), key: key.into() };
        assert_eq!(tags(&event("made", vec![])), "{}");
        assert_eq!(tags(&event("made", vec![tag("a,b"), tag("c\"}")])), r#"{"toy:a,b","toy:c\"}"}"#);
    }
}
