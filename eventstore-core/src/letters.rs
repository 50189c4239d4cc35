//! Events that a projection could not take in.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    error::StoreError,
    event::{Raw, Recorded},
    shard::Shard,
    store::{Order, Rows, Tables},
    stream::{Position, StreamId, Version},
    table::{Column, Kind, Table},
    timestamp::Timestamp,
};

/// The table of dead letters.
#[doc(hidden)]
pub const LETTERS: Table = Table {
    shadow: false,
    name: "dead_letters",
    version: 0,
    columns: &[
        Column { name: "projection", kind: Kind::Text, index: true, optional: false },
        Column::new("of", Kind::Text),
        Column::new("whole_stream", Kind::Bool),
        Column::new("position", Kind::Integer),
        Column::new("event", Kind::Uuid),
        Column::new("stream", Kind::Text),
        Column::new("version", Kind::Integer),
        Column::new("name", Kind::Text),
        Column::new("error", Kind::Text),
        Column::new("attempts", Kind::Integer),
        Column::new("parked_at", Kind::Time),
        Column::new("retry_at", Kind::Time),
        Column::new("skipped", Kind::Text),
    ],
};

/// An event that a projection could not take in, or one behind it for the same key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The projection, `balance@1`.
    pub projection: String,
    /// The key it waits for: of a row, or of whatever the projection keeps in order.
    #[serde(rename = "of")]
    pub key: String,
    /// Whether nobody can tell which keys the event has: then the key is its stream, and all of that waits.
    pub whole_stream: bool,
    /// Where the event is in the log.
    pub position: Position,
    /// Its id.
    pub event: Uuid,
    /// Its stream.
    pub stream: StreamId,
    /// Its place there.
    pub version: Version,
    /// Its stored name.
    pub name: String,
    /// Why it was not taken in.
    pub error: String,
    /// How often it was tried since it is parked.
    pub attempts: u32,
    /// Since when it is parked.
    pub parked_at: Timestamp,
    /// When it is tried again by itself; none: somebody must say so.
    pub retry_at: Option<Timestamp>,
    /// Why it was passed over for good; none: it waits.
    pub skipped: Option<String>,
}

impl DeadLetter {
    /// For an engine: an event of a shard that waits.
    #[doc(hidden)]
    pub fn new(
        shard: &Shard,
        key: &str,
        event: &Recorded<Raw>,
        error: &str,
        now: Timestamp,
        whole_stream: bool,
    ) -> Self {
        let mut letter = Self {
            projection: shard.projection.clone(),
            key: key.into(),
            whole_stream,
            position: event.position,
            event: event.id,
            stream: event.stream.clone(),
            version: event.version,
            name: event.data.name.to_string(),
            error: String::new(),
            attempts: 0,
            parked_at: now,
            retry_at: None,
            skipped: None,
        };
        letter.say(error);
        letter
    }

    /// The key of its row: in the order of the log, and one for each key of an event.
    #[doc(hidden)]
    pub fn id(&self) -> String {
        let key = Uuid::new_v5(&self.event, self.key.as_bytes());
        let of = if self.whole_stream { "stream" } else { "key" };
        format!("{}/{:020}/{of}/{key}", self.projection, self.position.0)
    }

    /// Says why. PostgreSQL has no U+0000 in any text.
    #[doc(hidden)]
    pub fn say(&mut self, error: &str) {
        self.error = error.replace('\0', "\\0");
    }
}

/// How many keys are listed by name.
const LISTED: usize = 20;

/// Keys that wait behind an event that could not be processed: their rows are incomplete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKeys {
    /// The keys, byte by byte in order, 20 at most. A stream (`account-ann`) where the keys of the event are unknown.
    pub listed: Vec<String>,
    /// How many there are in all.
    pub count: usize,
}

impl ParkedKeys {
    /// Those of the first letters of keys.
    #[doc(hidden)]
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys: BTreeSet<_> = keys.into_iter().collect();
        Self { count: keys.len(), listed: keys.into_iter().take(LISTED).map(str::to_owned).collect() }
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for ParkedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<_> = self.listed.iter().map(|key| format!("`{key}`")).collect();
        f.write_str(&listed.join(", "))?;
        match self.count.saturating_sub(self.listed.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The error for keys that wait, by the first letter of each; none if none waits.
#[doc(hidden)]
pub fn parked(projection: &str, first_letters: &[DeadLetter]) -> Option<StoreError> {
    let first = first_letters.iter().min_by_key(|letter| letter.position)?;
    let keys = ParkedKeys::of(first_letters.iter().map(|letter| &*letter.key));
    Some(StoreError::Parked { projection: projection.into(), keys, reason: first.error.clone() })
}

/// Of letters in the order of the log, the first one of each key that waits.
#[doc(hidden)]
pub fn first_of_each(letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    let mut keys = BTreeSet::new();
    let waits = |letter: &DeadLetter| letter.skipped.is_none();
    let first = |letter: &DeadLetter| keys.insert((letter.whole_stream, letter.key.clone()));
    letters.into_iter().filter(waits).filter(first).collect()
}

/// The first letter of each key of a read model that waits.
pub(crate) async fn first<T: Tables + ?Sized>(store: &T, table: &Table) -> Result<Vec<DeadLetter>, StoreError> {
    let equal = vec![(&LETTERS.columns[0], table.to_string().into())];
    let rows = match store.rows(Rows::Where { table: LETTERS, equal, order: Order::default(), limit: None }).await {
        Err(StoreError::NotBuilt { .. }) => return Ok(vec![]),
        rows => rows?,
    };
    let refused = |reason: serde_json::Error| StoreError::Row { table: LETTERS.to_string(), reason: reason.into() };
    let letters = rows.iter().map(|(_, row)| serde_json::from_str(row.get())).collect::<Result<_, _>>();
    Ok(first_of_each(letters.map_err(refused)?))
}

/// Refuses rows that lack an event up to a position: all of a read model, or the one of a key. Those of an event whose keys
/// are unknown may be any.
pub(crate) async fn complete<T: Tables + ?Sized>(
    store: &T,
    table: &Table,
    until: Position,
    key: Option<&str>,
) -> Result<(), StoreError> {
    let concerns = |letter: &DeadLetter| letter.whole_stream || key.is_none_or(|key| letter.key == key);
    let letters = first(store, table).await?.into_iter();
    let lacking: Vec<_> = letters.filter(|letter| letter.position <= until && concerns(letter)).collect();
    parked(&table.to_string(), &lacking).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_so_many_keys_are_listed_and_all_are_counted() {
        let keys: Vec<_> = (0..25).rev().map(|n| format!("k{n:02}")).collect();
        let parked = ParkedKeys::of(keys.iter().chain(&keys).map(|key| &**key));
        assert_eq!((parked.count, parked.listed.len(), parked.is_empty()), (25, 20, false));
        assert!(parked.to_string().starts_with("`k00`, `k01`, "), "{parked}");
        assert!(parked.to_string().ends_with("`k19` and 5 more"), "{parked}");
        assert_eq!(ParkedKeys::of(["a", "b"]).to_string(), "`a`, `b`");
    }
}
