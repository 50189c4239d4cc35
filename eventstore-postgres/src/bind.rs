//! What the functions that append are given, as PostgreSQL's types.

use eventstore_core::{Append, Expected, NewEvent};

use crate::{read, types::array};

/// What is expected of a stream, as the functions are told.
pub(crate) fn expected(expected: Expected) -> i64 {
    match expected {
        Expected::Any => -1,
        Expected::Exists => -2,
        Expected::Version(version) => read::signed(version.0),
    }
}

/// The tags of an event: an array, as text.
pub(crate) fn tags(event: &NewEvent) -> String {
    array(event.data.tags.iter().map(ToString::to_string))
}

/// The event types of an append, each once, so that the server can see that they are what they were.
#[derive(Default)]
pub(crate) struct Types<'a> {
    pub(crate) keys: Vec<i32>,
    pub(crate) categories: Vec<&'a str>,
    pub(crate) names: Vec<&'a str>,
}

impl<'a> Types<'a> {
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
