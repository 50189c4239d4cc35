//! What operators see and change of inboxes.

use eventstore_core::{Append, Changes, Invalid, Message, Order, Rows, Store, StoreError, Table, Timestamp};
use eventstore_engine::record::if_built;

use super::{
    arrivals::{event, held, leave_out_known},
    table::{OFFSETS, OffsetRow, REJECTED, RejectedRow, changes, read, words},
};
use crate::{bus::Offset, envelope::Envelope};

/// The inboxes of a store, as a method of [`Store`].
pub trait ReadInboxes {
    /// Returns the inboxes of the store: where they are, and what they could not record.
    fn inboxes(&self) -> Inboxes;
}

impl ReadInboxes for Store {
    fn inboxes(&self) -> Inboxes {
        Inboxes { store: self.beneath() }
    }
}

/// The inboxes of a store.
#[derive(Clone, Debug)]
pub struct Inboxes {
    store: Store,
}

/// Where a group is in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxOffset {
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: u16,
    /// The offset up to which everything is recorded; none before the first message.
    pub offset: Option<Offset>,
    /// When it moved last.
    pub changed_at: Timestamp,
}

/// A delivery that was no message, or one that the log cannot hold. It is kept as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectedMessage {
    /// What [`retry`](Inboxes::retry) and [`discard`](Inboxes::discard) name it by.
    pub id: String,
    /// The topic.
    pub topic: String,
    /// The group.
    pub group: String,
    /// The partition.
    pub partition: u16,
    /// Its offset.
    pub offset: Offset,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Why it was not recorded.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was tried last.
    pub failed_at: Timestamp,
}

/// Returns a request for the rows of a topic.
pub fn rows_of(table: Table, topic: &str) -> Rows {
    Rows::Where { table, equal: vec![(&table.columns[0], topic.into())], order: Order::default(), limit: None }
}

impl Inboxes {
    /// Returns where each group of a topic is, by partition.
    pub async fn offsets(&self, topic: &str) -> Result<Vec<InboxOffset>, StoreError> {
        let rows = if_built(self.store.as_ref().rows(rows_of(OFFSETS, topic)).await)?;
        let mut offsets = vec![];
        for (_, row) in rows {
            let row: OffsetRow = read(&row)?;
            let (offset, changed_at) = (row.offset(), Timestamp::from_micros(row.changed_at));
            let (topic, group, partition) = (row.topic, row.consumer_group, row.partition);
            offsets.push(InboxOffset { topic, group, partition, offset, changed_at });
        }
        offsets.sort_by(|one, other| (&one.group, one.partition).cmp(&(&other.group, other.partition)));
        Ok(offsets)
    }

    /// Returns the deliveries of a topic that could not be recorded.
    pub async fn rejected(&self, topic: &str) -> Result<Vec<RejectedMessage>, StoreError> {
        let rows = if_built(self.store.as_ref().rows(rows_of(REJECTED, topic)).await)?;
        rows.into_iter().map(|(id, row)| Ok(of_row(id, read(&row)?))).collect()
    }

    /// Tries a rejected delivery again: a later release of the program may be able to record it. Returns whether it is
    /// recorded, or of a type that is passed over; then it is rejected no more. `false` if it is rejected again, or if
    /// there is none with this id.
    pub async fn retry<M: Message>(&self, id: &str) -> Result<bool, StoreError> {
        let store = self.store.as_ref();
        let Some(mut row) = self.row(id).await? else { return Ok(false) };
        if row.topic != M::TOPIC {
            let why = format!("the delivery is of the topic `{}`, and the type of `{}`", row.topic, M::TOPIC);
            return Err(Invalid::Request(why).into());
        }
        let now = store.time().await?;
        let taken = Envelope::read(&row.headers(), row.body()).map_err(|reason| reason.to_string());
        let taken = taken.and_then(|message| {
            let event = event::<M>(message, now).map(|(event, _)| event);
            event.iter().try_for_each(held).map_err(|why| why.to_string())?;
            Ok(event)
        });
        let (events, refused) = match taken {
            Ok(taken) => (taken.into_iter().collect(), None),
            Err(reason) => (vec![], Some(words(&reason))),
        };
        loop {
            let mut events: Vec<_> = Vec::clone(&events);
            leave_out_known(store, &mut events).await?;
            let mut transaction = store.begin().await?;
            transaction.hold(vec![], None).await?;
            let there = transaction.rows(Rows::Keys { table: REJECTED, keys: vec![id.into()] }).await?;
            if there.is_empty() {
                transaction.rollback().await?;
                return Ok(false);
            }
            if let Some(reason) = refused {
                (row.reason, row.attempts, row.failed_at) = (reason, row.attempts + 1, now.as_micros());
                transaction.write(changes(REJECTED, vec![(id.into(), row)])?).await?;
                transaction.commit().await?;
                return Ok(false);
            }
            transaction.write(Changes { table: REJECTED, upserts: vec![], deletes: vec![id.into()] }).await?;
            if !events.is_empty() {
                match transaction.append(Append::of(events)).await {
                    Ok(_) => {}
                    // Recorded since it was looked up.
                    Err(StoreError::Duplicate { .. }) => {
                        transaction.rollback().await?;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            transaction.commit().await?;
            return Ok(true);
        }
    }

    /// Deletes a rejected delivery. Returns whether there was one with this id.
    pub async fn discard(&self, id: &str) -> Result<bool, StoreError> {
        if self.row(id).await?.is_none() {
            return Ok(false);
        }
        let mut transaction = self.store.as_ref().begin().await?;
        transaction.write(Changes { table: REJECTED, upserts: vec![], deletes: vec![id.into()] }).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn row(&self, id: &str) -> Result<Option<RejectedRow>, StoreError> {
        let rows = self.store.as_ref().rows(Rows::Keys { table: REJECTED, keys: vec![id.into()] }).await;
        if_built(rows)?.first().map(|(_, row)| read(row)).transpose()
    }
}

fn of_row(id: String, row: RejectedRow) -> RejectedMessage {
    let (headers, body) = (row.headers(), row.body());
    let RejectedRow { topic, consumer_group: group, partition, offset, reason, attempts, failed_at, .. } = row;
    let (offset, failed_at) = (Offset(offset), Timestamp::from_micros(failed_at));
    RejectedMessage { id, topic, group, partition, offset, headers, body, reason, attempts, failed_at }
}
