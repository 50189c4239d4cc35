//! The table of dead letters: events that a processor could not process.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    contract::{Tables, Transaction},
    engine::shard::Shard,
    error::{ParkedKeys, StoreError},
    event::{Raw, Recorded},
    stream::{Position, StreamId, Version},
    table::{Column, Kind, Rows, Table},
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

/// An event that a processor could not process, or a later one of the same key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The processor, `balance@1`.
    pub projection: String,
    /// The key it waits for: of a row, or another key whose events the processor keeps in order.
    #[serde(rename = "of")]
    pub key: String,
    /// Whether the keys of the event are unknown. Then the key is its stream, and all events of the stream wait.
    pub whole_stream: bool,
    /// The position of the event in the log.
    pub position: Position,
    /// Its id.
    pub event: Uuid,
    /// Its stream.
    pub stream: StreamId,
    /// Its version in the stream.
    pub version: Version,
    /// Its stored name.
    pub name: String,
    /// Why it was not processed.
    pub error: String,
    /// How often a node has tried it since it was parked.
    pub attempts: u32,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// When a node tries it again; none: when an operator says so.
    pub retry_at: Option<Timestamp>,
    /// Why an operator has skipped it for good; none: it waits.
    pub skipped: Option<String>,
    /// The key of the row it was read from.
    #[serde(skip)]
    row: Option<String>,
}

impl DeadLetter {
    /// For an engine: returns the letter of an event of a shard that waits.
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
            row: None,
        };
        letter.say(error);
        letter
    }

    /// Returns the key of the row it is written to. The waiting letters of one key are neighbours, in the order of the
    /// log, so that a query finds the first of each by the primary key; skipped letters are apart. In release 0.1 the
    /// key began with the position: `balance@1/00000000000000000007/…`.
    #[doc(hidden)]
    pub fn id(&self) -> String {
        let kind = match self.skipped {
            Some(_) => SKIPPED,
            None => kind(self.whole_stream),
        };
        let queue = queue(self.whole_stream, &self.key);
        format!("{}/{kind}/{queue}/{:020}/{}", self.projection, self.position.0, self.event.simple())
    }

    /// Returns the key of the row it was read from; of a new letter, the key it is written to.
    #[doc(hidden)]
    pub fn row(&self) -> String {
        self.row.clone().unwrap_or_else(|| self.id())
    }

    /// Returns the same letter of another processor, which is in no row yet.
    #[doc(hidden)]
    pub fn moved_to(&self, projection: &str) -> Self {
        Self { projection: projection.into(), row: None, ..self.clone() }
    }

    /// Reads a row. Fails with [`StoreError::Row`] if it holds no letter.
    #[doc(hidden)]
    pub fn read(row: String, json: &RawValue) -> Result<Self, StoreError> {
        let refused = |reason: serde_json::Error| StoreError::Row { table: LETTERS.to_string(), reason: reason.into() };
        let letter: Self = serde_json::from_str(json.get()).map_err(refused)?;
        Ok(Self { row: Some(row), ..letter })
    }

    /// Sets the error, with U+0000 escaped: PostgreSQL has no such character in a text.
    #[doc(hidden)]
    pub fn say(&mut self, error: &str) {
        self.error = error.replace('\0', "\\0");
    }
}

/// Returns [`StoreError::Parked`] for keys that wait, given the first letter of each; none if no key waits.
#[doc(hidden)]
pub fn parked(projection: &str, first_letters: &[DeadLetter]) -> Option<StoreError> {
    let first = first_letters.iter().min_by_key(|letter| letter.position)?;
    let keys = ParkedKeys::of(first_letters.iter().map(|letter| &*letter.key));
    Some(StoreError::Parked { projection: projection.into(), keys, reason: first.error.clone() })
}

/// Returns the first letter of each waiting key, given letters in the order of the log.
#[doc(hidden)]
pub fn first_of_each(letters: Vec<DeadLetter>) -> Vec<DeadLetter> {
    let mut keys = BTreeSet::new();
    let waits = |letter: &DeadLetter| letter.skipped.is_none();
    let first = |letter: &DeadLetter| keys.insert((letter.whole_stream, letter.key.clone()));
    letters.into_iter().filter(waits).filter(first).collect()
}

const SKIPPED: &str = "skipped";

fn kind(whole_stream: bool) -> &'static str {
    if whole_stream { "stream" } else { "key" }
}

/// Returns a name of fixed length for a key, as a part of the keys of rows.
fn queue(whole_stream: bool, key: &str) -> uuid::fmt::Simple {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{}/{key}", kind(whole_stream)).as_bytes()).simple()
}

/// The number of rows of one read.
const PAGE: usize = 64;
/// Is greater than every digit and letter.
const LAST: char = '~';

/// Finds waiting letters by the order of the keys of their rows, [`PAGE`] rows a read. To find the first letter of each
/// key, it jumps over the letters behind it and over the skipped ones.
#[doc(hidden)]
pub struct Sweep {
    /// `balance@1`.
    projection: String,
    /// `balance@1/`. The letters of `balance@1/eu` have rows among these.
    of: String,
    /// Only the first letter of each key.
    first: bool,
    /// Only the letters of this key, or of any stream that waits as a whole.
    key: Option<String>,
    /// When it has found so many letters of a queue, it reads no further page of the queue.
    limit: usize,
    /// How many letters it has found under the prefix that is being read.
    here: usize,
    /// The prefixes of the keys of rows that are still to be read, the next one last.
    prefixes: Vec<String>,
    after: String,
    found: Vec<DeadLetter>,
}

impl Sweep {
    fn new(projection: &str, first: bool, key: Option<&str>, limit: usize, prefixes: &[&str]) -> Self {
        let of = format!("{projection}/");
        let prefixes: Vec<_> = prefixes.iter().rev().map(|prefix| format!("{of}{prefix}")).collect();
        let after = prefixes.last().cloned().unwrap_or_default();
        let (projection, key) = (projection.to_owned(), key.map(str::to_owned));
        Self { projection, of, first, key, limit, here: 0, prefixes, after, found: vec![] }
    }

    /// Finds the first letter of each key.
    pub fn first_of_each(projection: &str) -> Self {
        Self::new(projection, true, None, usize::MAX, &[""])
    }

    /// Finds the first letter of a key, and the first of each stream that waits as a whole, which may concern any key.
    pub fn first_of(projection: &str, key: &str) -> Self {
        let queue = format!("key/{}/", queue(false, key));
        // The keys of rows of release 0.1 begin with the position, of 20 digits.
        Self::new(projection, true, Some(key), usize::MAX, &["0", &queue, "stream/"])
    }

    /// Finds the letters of a key, and of a stream of that name that waits as a whole, in the order of the log: all of
    /// them, or at least the first `limit` of each.
    pub fn all_of(projection: &str, key: &str, limit: usize) -> Self {
        let queues = [false, true].map(|whole| format!("{}/{}/", kind(whole), queue(whole, key)));
        Self::new(projection, false, Some(key), limit, &["0", &queues[0], &queues[1]])
    }

    /// Returns the next read; none if the sweep is over.
    pub fn next(&self) -> Option<Rows> {
        let after = self.after.clone();
        self.prefixes.last()?;
        Some(Rows::Whole { table: LETTERS.to_string(), keys: vec![], after, limit: PAGE })
    }

    /// Processes the rows of the last [`next`](Self::next). Fails with [`StoreError::Row`] if one holds no letter.
    pub fn take(&mut self, rows: Vec<(String, Box<RawValue>)>) -> Result<(), StoreError> {
        let Some(prefix) = self.prefixes.last().cloned() else { return Ok(()) };
        let mut over = rows.len() < PAGE;
        for (row, json) in rows {
            if row <= self.after {
                continue;
            }
            let Some(rest) = row.strip_prefix(&self.of).filter(|_| row.starts_with(&prefix)) else {
                over = true;
                break;
            };
            let letter = DeadLetter::read(row.clone(), &json)?;
            if letter.projection != self.projection {
                self.after = row;
                continue;
            }
            let mut parts = rest.split('/');
            self.after = match (parts.next().unwrap_or_default(), parts.next()) {
                (SKIPPED, _) => format!("{}{SKIPPED}/{LAST}", self.of),
                (kind @ ("key" | "stream"), Some(queue)) if self.first => format!("{}{kind}/{queue}/{LAST}", self.of),
                _ => row,
            };
            let wanted = match &self.key {
                Some(key) => letter.key == *key || self.first && letter.whole_stream,
                None => true,
            };
            if letter.skipped.is_none() && wanted {
                self.found.push(letter);
                self.here += 1;
            }
        }
        let enough = !self.first && self.here >= self.limit && !prefix.ends_with("/0");
        if over || enough {
            self.prefixes.pop();
            self.here = 0;
            self.after = self.prefixes.last().cloned().unwrap_or_default();
        }
        Ok(())
    }

    /// Returns the letters found, in the order of the log.
    pub fn found(mut self) -> Vec<DeadLetter> {
        self.found.sort_by_key(|letter| letter.position);
        if self.first { first_of_each(self.found) } else { self.found }
    }
}

/// Returns the letters of a sweep; none if there is no table of letters.
#[doc(hidden)]
pub async fn swept<T: Tables + ?Sized>(store: &T, mut sweep: Sweep) -> Result<Vec<DeadLetter>, StoreError> {
    while let Some(rows) = sweep.next() {
        match store.rows(rows).await {
            Err(StoreError::NotBuilt { .. }) => break,
            rows => sweep.take(rows?)?,
        }
    }
    Ok(sweep.found())
}

/// Returns the letters of a sweep as a transaction sees them. Fails with [`StoreError::NotBuilt`] if there is no table
/// of letters.
#[doc(hidden)]
pub async fn swept_within(transaction: &mut dyn Transaction, mut sweep: Sweep) -> Result<Vec<DeadLetter>, StoreError> {
    while let Some(rows) = sweep.next() {
        sweep.take(transaction.rows(rows).await?)?;
    }
    Ok(sweep.found())
}

/// Fails with [`StoreError::Parked`] if rows lack an event up to a position: any row of a read model, or the row of a
/// key. An event whose keys are unknown may concern any row.
pub(crate) async fn complete<T: Tables + ?Sized>(
    store: &T,
    table: &Table,
    until: Position,
    key: Option<&str>,
) -> Result<(), StoreError> {
    let concerns = |letter: &DeadLetter| letter.whole_stream || key.is_none_or(|key| letter.key == key);
    let sweep = match key {
        Some(key) => Sweep::first_of(&table.to_string(), key),
        None => Sweep::first_of_each(&table.to_string()),
    };
    let letters = swept(store, sweep).await?.into_iter();
    let lacking: Vec<_> = letters.filter(|letter| letter.position <= until && concerns(letter)).collect();
    parked(&table.to_string(), &lacking).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::{Changes, EventStore},
        event::NewEvent,
        memory::MemoryStore,
        timestamp::Timestamp,
    };

    const FIRST: [u64; 4] = [1, 2, 3, 5];

    /// Returns a store with letters of three keys and a stream, in both forms of their rows' keys, some of them
    /// skipped.
    async fn letters() -> MemoryStore {
        let store = MemoryStore::new();
        store.create(&LETTERS).await.unwrap();
        let mut upserts = vec![];
        let mut put = |position: u64, key: &str, whole: bool, old: bool, skipped: bool| {
            let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
            let id = Uuid::from_u128(u128::from(position));
            let event = NewEvent { id, schema: 1, occurred_at: None, metadata: Default::default(), data };
            let stream = StreamId::new("a", "b");
            let event = event.recorded(stream, Version(position), Position(position), Timestamp::from_micros(0));
            let mut letter =
                DeadLetter::new(&Shard::whole("p@1"), key, &event, "why", Timestamp::from_micros(0), whole);
            letter.skipped = skipped.then(|| "over".into());
            let row = if old { format!("p@1/{position:020}/{}/x{position}", kind(whole)) } else { letter.id() };
            upserts.push((row, serde_json::value::to_raw_value(&letter).unwrap()));
        };
        for (position, key, whole, old, skipped) in [
            (1, "old", false, true, false),
            (2, "both", false, true, false),
            (3, "a-stream", true, false, false),
            (4, "over", false, false, true),
            (5, "new", false, false, false),
            (6, "both", false, false, false),
        ] {
            put(position, key, whole, old, skipped);
        }
        for position in 10..310 {
            put(position, ["new", "both", "over"][position as usize % 3], false, position % 7 == 0, position % 3 == 2);
        }
        let mut transaction = store.begin().await.unwrap();
        transaction.write(Changes { table: LETTERS, upserts, deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
        store
    }

    #[tokio::test]
    async fn p3_the_first_letter_of_each_key_is_found_in_whatever_row_it_is() {
        let store = letters().await;
        let positions = |letters: Vec<DeadLetter>| letters.iter().map(|letter| letter.position.0).collect::<Vec<_>>();
        let each = swept(&store, Sweep::first_of_each("p@1")).await.unwrap();
        assert_eq!(positions(each), FIRST);
        let of = async |key: &str| positions(swept(&store, Sweep::first_of("p@1", key)).await.unwrap());
        assert_eq!((of("new").await, of("both").await), (vec![3, 5], vec![2, 3]));
        assert_eq!((of("over").await, of("nothing").await), (vec![3], vec![3]));
        let all = async |key: &str| positions(swept(&store, Sweep::all_of("p@1", key, usize::MAX)).await.unwrap());
        let expected: Vec<_> = [5].into_iter().chain((10..310).filter(|position| position % 3 == 0)).collect();
        assert_eq!(all("new").await, expected);
        assert_eq!((all("a-stream").await, all("over").await), (vec![3], vec![]));
        // With a limit: at least so many, the first ones.
        let few = positions(swept(&store, Sweep::all_of("p@1", "new", 8)).await.unwrap());
        assert!(few.len() < expected.len() && few[..8] == expected[..8], "{few:?}");
        // Another processor has no letters.
        assert!(swept(&store, Sweep::first_of_each("p@")).await.unwrap().is_empty());
        assert!(swept(&MemoryStore::new(), Sweep::first_of_each("p@1")).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn p3_letters_are_of_one_processor_and_of_a_queue_so_many_are_found_as_were_asked_for() {
        let store = MemoryStore::new();
        store.create(&LETTERS).await.unwrap();
        let mut upserts = vec![];
        let mut put = |projection: &str, position: u64, whole: bool| {
            let data = Raw { name: "x".into(), tags: vec![], body: vec![] };
            let id = Uuid::from_u128(u128::from(position));
            let event = NewEvent { id, schema: 1, occurred_at: None, metadata: Default::default(), data };
            let now = Timestamp::from_micros(0);
            let event = event.recorded(StreamId::new("a", "b"), Version(position), Position(position), now);
            let letter = DeadLetter::new(&Shard::whole(projection), "a-b", &event, "why", now, whole);
            upserts.push((letter.id(), serde_json::value::to_raw_value(&letter).unwrap()));
        };
        for position in 1..=200 {
            put("mail", position, false);
            put("mail", 1_000 + position, true);
        }
        for name in ["mail/eu", "mail/key", "mail/skipped", "mail/stream", "mail/0"] {
            (1..=70).for_each(|position| put(name, position, false));
        }
        let mut transaction = store.begin().await.unwrap();
        transaction.write(Changes { table: LETTERS, upserts, deletes: vec![] }).await.unwrap();
        transaction.commit().await.unwrap();
        let positions = |letters: Vec<DeadLetter>| {
            assert!(letters.iter().all(|letter| letter.projection == letters[0].projection));
            letters.iter().map(|letter| letter.position.0).collect::<Vec<_>>()
        };
        assert_eq!(positions(swept(&store, Sweep::first_of_each("mail")).await.unwrap()), [1, 1_001]);
        assert_eq!(positions(swept(&store, Sweep::first_of_each("mail/key")).await.unwrap()), [1]);
        assert_eq!(positions(swept(&store, Sweep::first_of("mail/eu", "a-b")).await.unwrap()), [1]);
        // The first 100 of the key, and the first 100 of the stream of that name.
        let found = positions(swept(&store, Sweep::all_of("mail", "a-b", 100)).await.unwrap());
        assert!((1..=100).chain(1_001..=1_100).all(|position| found.contains(&position)), "{found:?}");
    }

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
