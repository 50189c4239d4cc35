//! Events that a projection could not take in.

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

/// What a key waits for, if it does.
pub(crate) async fn waiting<T: Tables + ?Sized>(
    store: &T,
    table: &Table,
    key: &str,
) -> Result<Option<DeadLetter>, StoreError> {
    let equal = vec![(&LETTERS.columns[0], table.to_string().into()), (&LETTERS.columns[1], key.into())];
    let rows = match store.rows(Rows::Where { table: LETTERS, equal, order: Order::default(), limit: None }).await {
        Err(StoreError::NotBuilt { .. }) => return Ok(None),
        rows => rows?,
    };
    let read = |(_, row): &(_, Box<serde_json::value::RawValue>)| serde_json::from_str::<DeadLetter>(row.get()).ok();
    Ok(rows.iter().filter_map(read).find(|letter| letter.skipped.is_none() && !letter.whole_stream))
}
