//! Decides, in the transaction that takes the shards of a processor, whether this program may go on with what another
//! program has begun. It compares the events that the processor was processed with and those that this program reads.

use std::{error::Error, sync::Arc, time::SystemTime};

use eventstore_core::{
    Checkpoint, Position, Query, Read, Shard, StartFrom, StoreError, StreamId, Timestamp, Transaction, Version,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    failure::{Failure, caught},
    record::{
        ProcessorState, Row, dead_letters,
        reads::{self, Reads},
    },
    run::{
        page::id_within,
        processor::{Begins, Processor},
    },
};

/// Events that a processor passed without reading them, and must process before it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// The names of those events.
    pub names: Vec<String>,
    /// The slots whose keys still lack them.
    pub(crate) left: Vec<Left>,
}

/// A range of slots, and the position after which it lacks those events.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Left {
    pub from: u16,
    pub to: u16,
    #[serde(default)]
    pub after: u64,
}

/// Why a processor has failed, where nodes must know more than a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No program that runs reads these events.
    Newer(Reads),
    /// The processor has passed this event, and no operator has decided about it.
    Missed(First),
}

/// The first event that a processor passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct First {
    /// All names that are newly read.
    names: Vec<String>,
    name: String,
    stream: StreamId,
    version: Version,
    position: Position,
}

/// What an operator has told a processor to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Word {
    /// Go on without the events of these names that it has passed.
    Accept { names: Vec<String> },
    /// Process the events of these names that it has passed, before it goes on.
    DeliverMissed { names: Vec<String> },
    /// Begin again where it first began.
    Rebuild,
}

impl Missed {
    /// Returns the events that a processor must process before it goes on. Fails if a newer program stored them in a
    /// form that this one does not know.
    pub fn of(known: &Row) -> Result<Vec<Self>, Failure> {
        parsed(known.missed.as_ref()).map(Option::unwrap_or_default)
    }

    pub(crate) fn json(all: &[Self]) -> Option<Json> {
        (!all.is_empty()).then(|| serde_json::to_value(all).unwrap_or_default())
    }
}

impl Cause {
    /// Returns the cause of a failed processor, if this program knows it.
    pub fn of(known: &Row) -> Option<Self> {
        serde_json::from_value(known.cause.clone()?).ok()
    }

    pub fn error(&self, projection: &str) -> StoreError {
        let projection = projection.to_owned();
        match self.clone() {
            Self::Newer(events) => StoreError::Newer { projection, events: events.to_string() },
            Self::Missed(First { name, stream, version, position, .. }) => {
                StoreError::Missed { projection, name, stream, version, position }
            }
        }
    }

    /// Returns the text that is stored with a processor that has failed for this.
    pub fn reason(&self, failed: &Failure) -> String {
        match self {
            Self::Newer(_) => format!("newer than every program that runs: {failed}"),
            Self::Missed(_) => failed.to_string(),
        }
    }

    /// Returns the names of the events in question.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Newer(events) => events.names_beyond(&Reads::default()),
            Self::Missed(first) => first.names.clone(),
        }
    }

    /// Returns whether a processor that failed for this may go on in a program that reads `own`, without an operator's
    /// decision.
    pub(crate) fn is_over(&self, own: &Reads) -> bool {
        match self {
            Self::Newer(events) => own.lacks(events).is_empty(),
            Self::Missed(first) => !first.names.iter().any(|name| own.has(name)),
        }
    }
}

impl Word {
    /// Returns what an operator has told a processor to do and is not done. Fails if a newer program stored it in a
    /// form that this one does not know.
    pub fn of(known: &Row) -> Result<Option<Self>, Failure> {
        parsed(known.word.as_ref())
    }

    pub(crate) fn json(&self) -> Option<Json> {
        serde_json::to_value(self).ok()
    }
}

/// Reads a value that a node must understand before it may go on.
fn parsed<T: for<'de> Deserialize<'de>>(value: Option<&Json>) -> Result<Option<T>, Failure> {
    let read = value.map(|value| serde_json::from_value(value.clone())).transpose();
    read.map_err(|_| Failure::program("an operator or a node of a newer release has said what this one does not know"))
}

/// How this program would go on with a processor.
pub struct How {
    /// Where the processor begins, if the runner says so.
    pub start: Option<StartFrom>,
    /// How many shards the processor has when it runs for the first time.
    pub shards: u16,
    /// Whether no living node reads all events that the processor was processed with.
    pub shrinks: bool,
}

/// Whether this program may go on with a processor.
pub enum Admitted {
    /// It may, and nothing has changed.
    AsItWas,
    /// It may. The processor was begun or changed: its row has changed, and all its shards are free.
    Anew,
    /// It may not, because it does not read these events.
    Lacks(Reads),
    /// No program may.
    Failed(Cause),
}

/// Decides whether this program may take shards of a processor, in a transaction that has locked it. Makes the shards
/// if there are none. The caller writes what has changed, or rolls back.
///
/// Fails with [`StoreError::NoStart`] if nothing says where a new processor begins.
pub async fn admit(
    transaction: &mut dyn Transaction,
    processor: &dyn Processor,
    known: &mut Row,
    shards: &mut Vec<(Shard, Checkpoint)>,
    how: How,
) -> Result<Admitted, Failure> {
    caught(decide(transaction, processor, known, shards, how)).await
}

async fn decide(
    transaction: &mut dyn Transaction,
    processor: &dyn Processor,
    known: &mut Row,
    shards: &mut Vec<(Shard, Checkpoint)>,
    how: How,
) -> Result<Admitted, Failure> {
    let (name, own) = (processor.name(), processor.reads());
    let fingerprint = own.fingerprint();
    if shards.is_empty() {
        let at = first_checkpoint(transaction, processor, how.start).await?;
        shards.extend(Shard::parts(&name, how.shards).into_iter().map(|shard| (shard, at)));
        (known.began, known.reads) = (Some(at.position.0), Some(fingerprint));
        (known.missed, known.word) = (None, None);
        return Ok(Admitted::Anew);
    }
    let word = Word::of(known)?;
    if word.is_none() && known.reads.as_ref() == Some(&fingerprint) {
        return Ok(Admitted::AsItWas);
    }
    let mut missed = Missed::of(known)?;
    let began = Position(known.began.unwrap_or(0));
    if word == Some(Word::Rebuild) {
        processor.clear(transaction).await?;
        let letters = dead_letters::read(transaction.rows(dead_letters::wanted(&name, None)).await?)?;
        if !letters.is_empty() {
            transaction.write(dead_letters::changes(&[], &letters)?).await?;
        }
        let event = if began > Position(0) { id_within(transaction, began).await? } else { None };
        shards.iter_mut().for_each(|(_, at)| (at.position, at.event) = (began, event));
        missed.clear();
    } else {
        // Release 0.1 did not store which events it processed.
        let before = match &known.reads {
            Some(before) => reads::within(transaction, before).await?.unwrap_or_else(|| own.clone()),
            None => own.clone(),
        };
        let removed = own.lacks(&before);
        if !removed.is_empty() && !how.shrinks {
            return Ok(Admitted::Lacks(removed));
        }
        let accepted = |name: &String| matches!(&word, Some(Word::Accept { names }) if names.contains(name));
        // An event that was never recorded is not missed. A later version of a name that is read is found when such an
        // event is read.
        let gone: Vec<_> = before.names_beyond(&own).into_iter().filter(|name| !accepted(name)).collect();
        if first(transaction, &gone, Position(0), None).await?.is_some() {
            return Ok(Admitted::Failed(Cause::Newer(removed.only(&gone))));
        }
        let until = shards.iter().map(|(_, at)| at.position).max();
        let added: Vec<_> = own.names_beyond(&before).into_iter().filter(|name| !accepted(name)).collect();
        if let Some(first) = first(transaction, &added, began, until).await? {
            let said = match &word {
                Some(Word::DeliverMissed { names }) => added.iter().all(|name| names.contains(name)),
                _ => processor.table().is_some(),
            };
            if !said {
                return Ok(Admitted::Failed(Cause::Missed(first)));
            }
            let left =
                shards.iter().map(|(shard, _)| Left { from: shard.from_slot, to: shard.to_slot, after: began.0 });
            missed.push(Missed { names: added, left: left.collect() });
        }
    }
    (known.reads, known.missed) = (Some(fingerprint), Missed::json(&missed));
    (known.word, known.cause) = (None, None);
    // The node that runs the shards reads another set of events. A new epoch keeps it from writing before it knows.
    shards.iter_mut().for_each(|(_, at)| (at.owner, at.epoch) = (None, at.epoch + 1));
    Ok(Admitted::Anew)
}

/// Returns the first event with one of these names, after a position and up to another.
async fn first(
    transaction: &mut dyn Transaction,
    names: &[String],
    after: Position,
    until: Option<Position>,
) -> Result<Option<First>, StoreError> {
    if names.is_empty() {
        return Ok(None);
    }
    let read = Read { query: reads::named(names), after, until, limit: Some(1), ..Read::default() };
    let first = transaction.read(read).await?.events.into_iter().next();
    Ok(first.map(|event| First {
        names: names.to_vec(),
        name: event.data.name.to_string(),
        stream: event.stream,
        version: event.version,
        position: event.position,
    }))
}

/// Returns the checkpoint at which a processor begins that has never run. Fails if it must be told where and is not, if
/// a read model is told where at all, or if the position is beyond the end of the log.
async fn first_checkpoint(
    transaction: &mut dyn Transaction,
    processor: &dyn Processor,
    said: Option<StartFrom>,
) -> Result<Checkpoint, Failure> {
    let head = transaction.read(Read { query: Query::all(), limit: Some(0), ..Read::default() }).await?.head;
    let start = match (processor.begins(), said) {
        (Begins::FirstEvent, Some(_)) => {
            return Err(Failure::program("a read model begins at the first event: say nothing else of it"));
        }
        (Begins::FirstEvent, None) => StartFrom::Beginning,
        (Begins::FirstEventUnlessSaid(own) | Begins::AsSaid(own), said) if said.or(own).is_some() => {
            said.or(own).unwrap_or(StartFrom::Beginning)
        }
        (Begins::AsSaid(_), None) if head > Position(0) => {
            return Err(StoreError::NoStart { projection: processor.name(), head }.into());
        }
        _ => StartFrom::Beginning,
    };
    let position = match start {
        StartFrom::Beginning => Position(0),
        StartFrom::Now => head,
        StartFrom::After(position) if position <= head => position,
        StartFrom::After(position) => {
            return Err(Failure::program(format!(
                "it is to begin after position {position}, and the log ends at {head}"
            )));
        }
    };
    let event = if position > Position(0) { id_within(transaction, position).await? } else { None };
    Ok(Checkpoint { position, event, ..beginning() })
}

/// Makes the checkpoint of a new shard. Its epoch is the time in microseconds, so that a shard that was removed and is
/// made again never has an epoch of its predecessor.
fn beginning() -> Checkpoint {
    let now = Timestamp::from(SystemTime::now());
    Checkpoint { epoch: now.as_micros().unsigned_abs(), ..Checkpoint::default() }
}

/// Returns why a processor has failed, as a typed error where the cause is known.
pub(crate) fn stored_failure(name: &str, known: &Row) -> Option<Arc<dyn Error + Send + Sync>> {
    let cause = Cause::of(known).filter(|_| known.state == ProcessorState::Failed);
    let failed = match cause {
        Some(cause) => Failure::from(cause.error(name)),
        None => Failure::program(known.reason.clone()?),
    };
    Some(failed.told().into())
}
