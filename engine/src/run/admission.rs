//! Decides, in the transaction that takes the shards of a processor, whether this program may go on with what another one
//! has begun: by comparing the events that it was processed with and those that this program reads.

use std::{error::Error, sync::Arc, time::SystemTime};

use eventstore_core::{
    Checkpoint, Position, Query, Read, Shard, StoreError, StreamId, Timestamp, Transaction, Version,
};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    failure::Failure,
    record::{
        ProcessorState, Row, dead_letters,
        reads::{self, Reads},
    },
    run::{
        page::id_within,
        processor::{Begins, Processor, StartFrom},
    },
};

/// Events that a processor has passed without reading them, and is to process before it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// Their names.
    pub names: Vec<String>,
    /// The slots whose keys are still to be looked at.
    pub left: Vec<Left>,
}

/// A range of slots, and after which position those events are left.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Left {
    pub from: u16,
    pub to: u16,
    #[serde(default)]
    pub after: u64,
}

/// Why a processor has failed, where nodes must know more of it than a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// These events are read by none of the programs that run.
    Newer(Reads),
    /// It has passed this event, and no operator has said what is to become of it.
    Missed(First),
}

/// The first event that was passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct First {
    /// All names that are read since then.
    names: Vec<String>,
    name: String,
    stream: StreamId,
    version: Version,
    position: Position,
}

/// What an operator has said is to be done with a processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Word {
    /// Events of these names that it has passed stay so.
    Accept { names: Vec<String> },
    /// They are handed over before it goes on.
    DeliverMissed { names: Vec<String> },
    /// It begins again where it began first.
    Rebuild,
}

impl Missed {
    /// What a processor is to look at before it goes on.
    pub fn of(known: &Row) -> Result<Vec<Self>, Failure> {
        parsed(known.missed.as_ref()).map(Option::unwrap_or_default)
    }

    pub fn json(all: &[Self]) -> Option<Json> {
        (!all.is_empty()).then(|| serde_json::to_value(all).unwrap_or_default())
    }
}

impl Cause {
    /// That of a processor that has failed, if there is one that this program knows.
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

    /// What is said of a processor that has failed for it.
    pub fn reason(&self, failed: &Failure) -> String {
        match self {
            Self::Newer(_) => format!("newer than every program that runs: {failed}"),
            Self::Missed(_) => failed.to_string(),
        }
    }

    /// The names that are in question.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Newer(events) => events.names_beyond(&Reads::default()),
            Self::Missed(first) => first.names.clone(),
        }
    }

    /// Whether a processor that has failed for this can go on in a program that reads this, without a word of an operator.
    pub fn is_over(&self, own: &Reads) -> bool {
        match self {
            Self::Newer(events) => own.lacks(events).is_empty(),
            Self::Missed(first) => !first.names.iter().any(|name| own.has(name)),
        }
    }
}

impl Word {
    /// What was said of a processor and is not done.
    pub fn of(known: &Row) -> Result<Option<Self>, Failure> {
        parsed(known.word.as_ref())
    }

    pub fn json(&self) -> Option<Json> {
        serde_json::to_value(self).ok()
    }
}

/// Reads a value that a node must understand to go on.
fn parsed<T: for<'de> Deserialize<'de>>(value: Option<&Json>) -> Result<Option<T>, Failure> {
    let read = value.map(|value| serde_json::from_value(value.clone())).transpose();
    read.map_err(|_| Failure::program("an operator or a node of a newer release has said what this one does not know"))
}

/// How a processor is to be gone on with.
pub struct How {
    /// Where it begins, if the runner says so.
    pub start: Option<StartFrom>,
    /// How many shards it has when it runs for the first time.
    pub shards: u16,
    /// Whether no node that lives reads all that it was processed with.
    pub shrinks: bool,
}

/// Whether a program may go on with a processor.
pub enum Admitted {
    /// Yes, and nothing has changed.
    AsItWas,
    /// Yes: it was begun again, what is known of it has changed, and all shards are free.
    Anew,
    /// No: it does not read these events.
    Lacks(Reads),
    /// No program may.
    Failed(Cause),
}

/// Decides whether this program may take shards of a processor, in a transaction that has locked it; makes them if there are
/// none. The caller writes down what has changed, or rolls back.
pub async fn admit(
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
        // What release 0.1 has processed it with is unknown.
        let before = match &known.reads {
            Some(before) => reads::within(transaction, before).await?.unwrap_or_else(|| own.clone()),
            None => own.clone(),
        };
        let removed = own.lacks(&before);
        if !removed.is_empty() && !how.shrinks {
            return Ok(Admitted::Lacks(removed));
        }
        let accepted = |name: &String| matches!(&word, Some(Word::Accept { names }) if names.contains(name));
        // What was never recorded is not missed. Of a later version of a name that is read, each event says so.
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
    // The node that runs them reads something else: what it does not know yet must not be written.
    shards.iter_mut().for_each(|(_, at)| (at.owner, at.epoch) = (None, at.epoch + 1));
    Ok(Admitted::Anew)
}

/// The first event with one of these names, after a position and up to another.
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

/// Where a processor begins that has never run.
async fn first_checkpoint(
    transaction: &mut dyn Transaction,
    processor: &dyn Processor,
    said: Option<StartFrom>,
) -> Result<Checkpoint, Failure> {
    let head = transaction.read(Read { query: Query::all(), limit: Some(0), ..Read::default() }).await?.head;
    let start = match (processor.begins(), said) {
        (Begins::Always, Some(_)) => {
            return Err(Failure::program("a read model begins at the first event: say nothing else of it"));
        }
        (Begins::Always, None) => StartFrom::Beginning,
        (Begins::Anywhere(own) | Begins::AsSaid(own), said) if said.or(own).is_some() => {
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

/// Where a shard begins. Its first epoch is one that no shard of its name has had: one that was removed, and is made
/// again, is another.
fn beginning() -> Checkpoint {
    let now = Timestamp::from(SystemTime::now());
    Checkpoint { epoch: now.as_micros().unsigned_abs(), ..Checkpoint::default() }
}

/// Why a projection has failed, by its type where that is known.
pub fn stored_failure(name: &str, known: &Row) -> Option<Arc<dyn Error + Send + Sync>> {
    let cause = Cause::of(known).filter(|_| known.state == ProcessorState::Failed);
    let failed = match cause {
        Some(cause) => Failure::from(cause.error(name)),
        None => Failure::program(known.reason.clone()?),
    };
    Some(failed.told().into())
}
