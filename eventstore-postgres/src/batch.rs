//! Decides which queued appends share one call: those that do not depend on one another.

use std::{
    collections::{HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use eventstore_core::{Position, StoreError, StreamId, Written};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::append::Checked;

/// Limits of one call: appends, events, and bytes of event bodies. A single append may exceed them.
pub(crate) const BATCH_APPENDS: usize = 512;
const BATCH_EVENTS: usize = 2_048;
const BATCH_BYTES: usize = 4 << 20;

/// An append in the queue, and the channel to its caller.
pub(crate) struct QueuedAppend {
    pub(crate) append: Arc<Checked>,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// The outcome of an append, as its caller receives it.
pub(crate) enum Reply {
    Recorded(Written),
    Refused(StoreError),
    /// The call did not record the append and does not say why. The caller appends it again by itself to learn the
    /// reason.
    NotRecorded,
    /// At least one of its event ids was recorded before. If all were, the caller returns the first result.
    RepeatsIds,
    /// The connection broke, so it is unknown whether the append is recorded.
    Lost,
}

impl Reply {
    /// Returns the position and the id of the last event of the append, if it was recorded.
    pub(crate) fn last(&self, append: &Checked) -> Option<(Position, Uuid)> {
        let Self::Recorded(written) = self else { return None };
        Some((written.last, append.append.events().last()?.1.id))
    }
}

/// Takes the appends from the front of the queue that one call can record together. The others stay, in their order.
pub(crate) fn take_batch(waiting: &mut VecDeque<QueuedAppend>) -> Vec<QueuedAppend> {
    let mut batch = Batch::default();
    let mut left = VecDeque::new();
    while let Some(next) = waiting.pop_front() {
        if next.reply.is_closed() {
            // The caller was cancelled before anything was sent.
        } else if batch.is_full() {
            waiting.push_front(next);
            break;
        } else if batch.admits(&next.append) {
            batch.push(next);
        } else {
            // A later append to one of these streams must not overtake this one.
            batch.reserve_streams(&next.append);
            left.push_back(next);
        }
    }
    while let Some(next) = left.pop_back() {
        waiting.push_front(next);
    }
    batch.taken
}

/// Appends that do not depend on each other.
#[derive(Default)]
struct Batch {
    taken: Vec<QueuedAppend>,
    hashes: RandomState,
    /// Hashes of the streams that are written to. A collision makes an append wait for the next call, which is
    /// harmless.
    written: HashSet<u64>,
    /// Hashes of the streams that must stay unchanged.
    unchanged: HashSet<u64>,
    ids: HashSet<Uuid>,
    events: usize,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.taken.len() >= BATCH_APPENDS || self.events >= BATCH_EVENTS || self.bytes >= BATCH_BYTES
    }

    fn hash(&self, stream: &StreamId) -> u64 {
        self.hashes.hash_one(stream)
    }

    /// Whether the outcome of the append does not depend on the appends of the batch.
    fn admits(&self, checked: &Checked) -> bool {
        let append = &checked.append;
        let new = |stream| {
            let hash = self.hash(stream);
            !self.written.contains(&hash) && !self.unchanged.contains(&hash)
        };
        // An append that is not batchable has a call of its own.
        (self.taken.is_empty() || checked.batchable && self.taken[0].append.batchable)
            && append.writes.iter().all(|write| new(&write.stream))
            && append.unchanged.iter().all(|(stream, _)| !self.written.contains(&self.hash(stream)))
            && append.events().all(|(_, event)| !self.ids.contains(&event.id))
            && append.condition.as_ref().is_none_or(|condition| {
                let events = self.taken.iter().flat_map(|taken| taken.append.append.events());
                events.into_iter().all(|(stream, event)| !condition.query.may_match(stream, &event.data))
            })
    }

    /// Reserves the streams of an append, so that no later append to them joins the batch.
    fn reserve_streams(&mut self, append: &Checked) {
        let append = &append.append;
        for write in &append.writes {
            self.written.insert(self.hash(&write.stream));
        }
        for (stream, _) in &append.unchanged {
            self.unchanged.insert(self.hash(stream));
        }
    }

    fn push(&mut self, waiting: QueuedAppend) {
        self.reserve_streams(&waiting.append);
        for (_, event) in waiting.append.append.events() {
            self.ids.insert(event.id);
            self.events += 1;
            self.bytes += event.data.body.len();
        }
        self.taken.push(waiting);
    }
}

#[cfg(test)]
mod tests {
    use eventstore_core::{
        Append, Condition, Expected, Item, Metadata, NewEvent, Position, Query, Raw, Version, Write,
    };

    use super::*;
    use crate::types::EventTypes;

    fn event(id: u128, bytes: usize) -> NewEvent {
        let data = Raw { name: "made".into(), tags: vec![], body: vec![b'1'; bytes] };
        NewEvent { id: Uuid::from_u128(id), schema: 1, occurred_at: None, metadata: Metadata::default(), data }
    }

    /// An append of one event to one stream.
    fn append(id: u128, key: &str) -> Append {
        let stream = StreamId::new("toy", key);
        let writes = vec![Write { stream, expected: Expected::Any, events: vec![event(id, 1)] }];
        Append { writes, unchanged: vec![], condition: None }
    }

    /// An append that demands that a stream stays as it is.
    fn with_unchanged(append: Append, key: &str) -> Append {
        Append { unchanged: vec![(StreamId::new("toy", key), Version(1))], ..append }
    }

    fn with_condition(append: Append, query: Query) -> Append {
        Append { condition: Some(Condition { query, after: Position(0) }), ..append }
    }

    fn made() -> Query {
        Item { names: vec!["made".into()], ..Item::default() }.into()
    }

    /// The queue, and its callers.
    fn queue(appends: impl IntoIterator<Item = Append>) -> (VecDeque<QueuedAppend>, Vec<oneshot::Receiver<Reply>>) {
        let waiting = |append| {
            let checked = Checked::new(append, &EventTypes::default()).expect("it is within the limits");
            let (reply, caller) = oneshot::channel();
            (QueuedAppend { append: Arc::new(checked), reply }, caller)
        };
        appends.into_iter().map(waiting).unzip()
    }

    fn ids<'a>(waiting: impl IntoIterator<Item = &'a QueuedAppend>) -> Vec<u128> {
        let first = |waiting: &QueuedAppend| waiting.append.append.writes[0].events[0].id.as_u128();
        waiting.into_iter().map(first).collect()
    }

    /// The ids of those that share a call, and of those that are left.
    fn batch(appends: impl IntoIterator<Item = Append>) -> (Vec<u128>, Vec<u128>) {
        let (mut waiting, _callers) = queue(appends);
        let batch = take_batch(&mut waiting);
        (ids(&batch), ids(&waiting))
    }

    #[test]
    fn appends_to_different_streams_share_a_call() {
        assert_eq!(batch([append(1, "a"), append(2, "b"), append(3, "c")]), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn appends_to_one_stream_go_one_after_the_other() {
        assert_eq!(batch([append(1, "a"), append(2, "a"), append(3, "b"), append(4, "a")]), (vec![1, 3], vec![2, 4]));
    }

    #[test]
    fn an_append_does_not_overtake_one_that_waits() {
        // The third waits for the second, which waits for the first.
        let two = |id, first: &str, second: &str| {
            let mut both = append(id, first);
            both.writes.extend(append(id + 100, second).writes);
            both
        };
        assert_eq!(batch([append(1, "a"), two(2, "a", "b"), append(3, "b"), append(4, "c")]), (vec![1, 4], vec![2, 3]));
        let unchanged = [append(1, "a"), with_unchanged(append(2, "a"), "b"), append(3, "b")];
        assert_eq!(batch(unchanged), (vec![1], vec![2, 3]));
    }

    #[test]
    fn a_stream_that_is_to_stay_is_not_written_to_in_the_same_call() {
        assert_eq!(batch([with_unchanged(append(1, "a"), "c"), append(2, "c")]), (vec![1], vec![2]));
        assert_eq!(batch([append(1, "c"), with_unchanged(append(2, "a"), "c")]), (vec![1], vec![2]));
        let same = [with_unchanged(append(1, "a"), "c"), with_unchanged(append(2, "b"), "c")];
        assert_eq!(batch(same), (vec![1, 2], vec![]), "both demand the same");
    }

    #[test]
    fn a_repeated_event_waits_for_the_first() {
        assert_eq!(batch([append(1, "a"), append(1, "b"), append(2, "c")]), (vec![1, 2], vec![1]));
    }

    #[test]
    fn a_condition_is_not_met_by_events_of_the_same_call() {
        let other = Item { names: vec!["other".into()], ..Item::default() }.into();
        assert_eq!(batch([append(1, "a"), with_condition(append(2, "b"), made())]), (vec![1], vec![2]));
        assert_eq!(batch([append(1, "a"), with_condition(append(2, "b"), other)]), (vec![1, 2], vec![]));
        assert_eq!(
            batch([with_condition(append(1, "a"), made()), append(2, "b")]),
            (vec![1, 2], vec![]),
            "the first is first"
        );
    }

    #[test]
    fn what_cannot_share_a_call_has_one_of_its_own() {
        let of_stream = || with_condition(append(2, "b"), Query::of(&StreamId::new("toy", "z")));
        let mut twice = append(2, "b");
        twice.writes.extend(append(102, "b").writes);
        for alone in [of_stream(), twice] {
            assert_eq!(batch([append(1, "a"), alone.clone(), append(3, "c")]), (vec![1, 3], vec![2]));
            assert_eq!(batch([alone, append(1, "a")]), (vec![2], vec![1]));
        }
    }

    #[test]
    fn a_caller_that_has_gone_is_passed_over() {
        let (mut waiting, mut callers) = queue([append(1, "a"), append(2, "a"), append(3, "b")]);
        callers.remove(0);
        let batch = take_batch(&mut waiting);
        assert_eq!((ids(&batch), ids(&waiting)), (vec![2, 3], vec![]));
    }

    #[test]
    fn a_full_batch_leaves_the_rest() {
        let many = (0..).map(|id| append(id, &id.to_string()));
        let (batch_of, left) = batch(many.take(BATCH_APPENDS + 2));
        assert_eq!((batch_of.len(), left), (BATCH_APPENDS, vec![BATCH_APPENDS as u128, BATCH_APPENDS as u128 + 1]));
        let large = |id| {
            let mut large = append(id, &id.to_string());
            large.writes[0].events[0] = event(id, BATCH_BYTES / 2);
            large
        };
        assert_eq!(batch([large(1), large(2), append(3, "c")]), (vec![1, 2], vec![3]));
        let long = |id: u128| {
            let mut long = append(id, &id.to_string());
            long.writes[0].events = (0..BATCH_EVENTS as u128 / 2).map(|n| event((id << 64) + n, 1)).collect();
            long
        };
        let (batch_of, left) = batch([long(1), long(2), append(3, "c")]);
        assert_eq!((batch_of.len(), left), (2, vec![3]));
    }
}
