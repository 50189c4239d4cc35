//! The tables of inboxes: `"inbox.offsets"`, one row a partition, and `"inbox.rejected"`, one row a delivery that was no
//! message.

use base64::{Engine, engine::general_purpose::STANDARD};
use eventstore_core::{Changes, Column, Kind, StoreError, Table, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use crate::bus::{Offset, Unread};

/// The longest reason that is kept, in characters.
const WORDS: usize = 2_000;

/// Where each group is in each partition. The first column of both tables is the topic. Their names have a dot, so that
/// no read model can be called so.
pub const OFFSETS: Table = Table {
    name: "inbox.offsets",
    version: 0,
    columns: &[
        Column { index: true, ..Column::new("topic", Kind::Text) },
        Column::new("consumer_group", Kind::Text),
        Column::new("partition", Kind::Integer),
        Column::optional("offset", Kind::Text),
        Column::new("changed_at", Kind::Integer),
    ],
    shadow: false,
};

/// Deliveries that were no message.
pub const REJECTED: Table = Table {
    name: "inbox.rejected",
    version: 0,
    columns: &[
        Column { index: true, ..Column::new("topic", Kind::Text) },
        Column::new("consumer_group", Kind::Text),
        Column::new("partition", Kind::Integer),
        Column::new("offset", Kind::Text),
        Column::new("headers", Kind::Text),
        Column::new("body", Kind::Text),
        Column::new("reason", Kind::Text),
        Column::new("attempts", Kind::Integer),
        Column::new("failed_at", Kind::Integer),
    ],
    shadow: false,
};

/// A row of [`OFFSETS`], without its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffsetRow {
    pub topic: String,
    pub consumer_group: String,
    pub partition: u16,
    /// The last offset that is recorded; none before the first message.
    pub offset: Option<String>,
    pub changed_at: i64,
}

impl OffsetRow {
    pub fn key(topic: &str, group: &str, partition: u16) -> String {
        format!("{topic}/{group}/{partition}")
    }

    pub fn offset(&self) -> Option<Offset> {
        self.offset.clone().map(Offset)
    }
}

/// A row of [`REJECTED`], without its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RejectedRow {
    pub topic: String,
    pub consumer_group: String,
    pub partition: u16,
    pub offset: String,
    /// JSON: pairs of names and values.
    pub headers: String,
    /// Base64.
    pub body: String,
    pub reason: String,
    pub attempts: u32,
    pub failed_at: i64,
}

impl RejectedRow {
    pub fn new(topic: &str, group: &str, partition: u16, offset: &Offset, unread: &Unread, now: Timestamp) -> Self {
        Self {
            topic: topic.into(),
            consumer_group: group.into(),
            partition,
            offset: words(&offset.0),
            headers: serde_json::to_string(&unread.headers).unwrap_or_default(),
            body: STANDARD.encode(&unread.body),
            reason: words(&unread.reason.to_string()),
            attempts: 1,
            failed_at: now.as_micros(),
        }
    }

    /// Returns the key of the row. A queue may have two deliveries of one offset, and an offset may be any text.
    pub fn key(&self) -> String {
        let Self { topic, consumer_group, partition, offset, body, .. } = self;
        let name = format!("{}:{offset}{body}", offset.len());
        let delivery = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        format!("{topic}/{consumer_group}/{partition}/{delivery}")
    }

    pub fn headers(&self) -> Vec<(String, String)> {
        serde_json::from_str(&self.headers).unwrap_or_default()
    }

    pub fn body(&self) -> Vec<u8> {
        STANDARD.decode(&self.body).unwrap_or_default()
    }
}

/// Returns the beginning of a text, short enough to be kept and without control characters.
pub fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

/// Reads a row.
pub fn read<R: DeserializeOwned>(row: &RawValue) -> Result<R, StoreError> {
    serde_json::from_str(row.get()).map_err(|error| StoreError::Damaged(error.into()))
}

/// Returns the changes that write rows.
pub fn changes<R: Serialize>(table: Table, rows: Vec<(String, R)>) -> Result<Changes, StoreError> {
    let written = |(key, row)| match to_raw_value(&row) {
        Ok(json) => Ok((key, json)),
        Err(error) => Err(StoreError::Damaged(error.into())),
    };
    Ok(Changes { table, upserts: rows.into_iter().map(written).collect::<Result<_, _>>()?, deletes: vec![] })
}
