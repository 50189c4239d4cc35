//! Which events a processor reads: their names, and the newest version of each. Programs of different releases compare
//! these sets to find out which of them may run a processor.
//!
//! A node that reads less than another living one would pass events without notice. So it stands aside: it gives its
//! shards back and claims none until the other has gone. The set that a processor was processed with is stored with it,
//! so that a node that takes its shards over knows what was read before, and what was not.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use eventstore_core::{Changes, Column, Event, EventStore, Item, Kind, Query, Rows, StoreError, Table, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{
    Value as Json,
    value::{RawValue, to_raw_value},
};
use uuid::Uuid;

use crate::record;

/// The table of sets of events, each under its fingerprint. Rows are written once and never changed. Beats and the rows
/// of processors refer to a set by its fingerprint.
pub const EVENT_SETS: Table =
    Table { name: "event_sets", version: 0, columns: &[Column::new("events", Kind::Json)], shadow: false };

/// The names of events, each with the newest version that is read. Version 0: every version is read as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reads(BTreeMap<String, u32>);

impl Reads {
    /// Returns the set that an event type reads.
    pub fn of<E: Event>() -> Self {
        let version = |n| if E::SCHEMAS.is_empty() { 1 } else { E::SCHEMAS.get(n).copied().unwrap_or(1) };
        Self(E::NAMES.iter().enumerate().map(|(n, name)| ((*name).into(), version(n))).collect())
    }

    /// Returns the set of one event in one version.
    pub fn one(name: &str, version: u32) -> Self {
        Self([(name.into(), version)].into())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn reads(&self, name: &str, version: u32) -> bool {
        self.0.get(name).is_some_and(|own| *own == 0 || version <= *own)
    }

    /// Returns what another set has and this one lacks: names, and later versions of names.
    pub fn lacks(&self, other: &Self) -> Self {
        let lacking = other.0.iter().filter(|(name, version)| !self.reads(name, **version));
        Self(lacking.map(|(name, version)| (name.clone(), *version)).collect())
    }

    /// Returns the names that another set does not have, in any version.
    pub fn names_beyond(&self, other: &Self) -> Vec<String> {
        self.0.keys().filter(|name| !other.0.contains_key(*name)).cloned().collect()
    }

    /// Returns the part of this set with one of these names.
    pub fn only(&self, names: &[String]) -> Self {
        let kept = self.0.iter().filter(|(name, _)| names.contains(name));
        Self(kept.map(|(name, version)| (name.clone(), *version)).collect())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns a number that is larger than that of any set this one contains. It decides between sets of which neither
    /// contains the other.
    fn weight(&self) -> u64 {
        let weight = |version: &u32| if *version == 0 { u64::from(u32::MAX) } else { u64::from(*version) };
        self.0.values().map(weight).sum()
    }

    /// Returns the fingerprint of the set, the same for ever and in every release: a UUID of version 5, SHA-1 over each
    /// name, preceded by its length, and its version.
    pub fn fingerprint(&self) -> String {
        let mut bytes = vec![];
        for (name, version) in &self.0 {
            bytes.extend((name.len() as u64).to_be_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(version.to_be_bytes());
        }
        Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes).to_string()
    }

    /// Reads a set as it is stored. A later release may store more than a number for an event: the name then counts, in
    /// version 1.
    fn read(row: &RawValue) -> Self {
        let mut row: Json = serde_json::from_str(row.get()).unwrap_or_default();
        Self::from_json(row.get_mut("events").map(Json::take).unwrap_or_default())
    }

    fn from_json(value: Json) -> Self {
        let Json::Object(events) = value else { return Self::default() };
        let version = |value: Json| value.as_u64().and_then(|version| u32::try_from(version).ok()).unwrap_or(1);
        Self(events.into_iter().map(|(name, value)| (name, version(value))).collect())
    }
}

impl FromIterator<(String, u32)> for Reads {
    fn from_iter<I: IntoIterator<Item = (String, u32)>>(all: I) -> Self {
        Self(all.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Reads {
    fn deserialize<D: serde::Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        Ok(Self::from_json(Json::deserialize(value)?))
    }
}

/// For people: `account.opened`, version 2 of `account.deposited`.
impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, version)) in self.0.iter().enumerate() {
            f.write_str(if n > 0 { ", " } else { "" })?;
            match version {
                0 | 1 => write!(f, "`{name}`")?,
                version => write!(f, "version {version} of `{name}`")?,
            }
        }
        Ok(())
    }
}

/// Returns a query for the events with one of these names.
pub fn named(names: &[String]) -> Query {
    Item { names: names.iter().cloned().map(Into::into).collect(), ..Item::default() }.into()
}

/// Stores sets, so that other nodes know what their fingerprints stand for.
pub async fn publish(store: &dyn EventStore, sets: Vec<Reads>) -> Result<(), StoreError> {
    #[derive(Serialize)]
    struct Row<'a> {
        events: &'a Reads,
    }
    let row = |reads: &Reads| {
        let refused =
            |reason: serde_json::Error| StoreError::Row { table: EVENT_SETS.to_string(), reason: reason.into() };
        Ok((reads.fingerprint(), to_raw_value(&Row { events: reads }).map_err(refused)?))
    };
    // Each set once: processors often read the same events.
    let upserts = sets.iter().map(row).collect::<Result<BTreeMap<_, _>, StoreError>>()?.into_iter().collect();
    record::change(store, Changes { table: EVENT_SETS, upserts, deletes: vec![] }).await
}

fn wanted(fingerprints: Vec<String>) -> Rows {
    Rows::Keys { table: EVENT_SETS, keys: fingerprints }
}

/// Returns the set that a fingerprint stands for, as a transaction sees it; `None` if it was never stored.
pub async fn within(transaction: &mut dyn Transaction, fingerprint: &str) -> Result<Option<Reads>, StoreError> {
    let rows = transaction.rows(wanted(vec![fingerprint.into()])).await?;
    Ok(rows.first().map(|(_, row)| Reads::read(row)))
}

/// The sets that fingerprints stand for, each read once.
#[derive(Default)]
pub(crate) struct Sets(HashMap<String, Reads>);

impl Sets {
    /// Reads the sets that are not known yet.
    pub(crate) async fn learn(&mut self, store: &dyn EventStore, fingerprints: Vec<String>) -> Result<(), StoreError> {
        let unknown: Vec<_> = fingerprints.into_iter().filter(|one| !self.0.contains_key(one)).collect();
        if !unknown.is_empty() {
            let rows = store.rows(wanted(unknown)).await?;
            self.0.extend(rows.into_iter().map(|(fingerprint, row)| (fingerprint, Reads::read(&row))));
        }
        Ok(())
    }

    pub fn get(&self, fingerprint: &str) -> Option<&Reads> {
        self.0.get(fingerprint)
    }
}

/// How this node compares with the others that have the code of a processor.
#[derive(Debug, PartialEq)]
pub(crate) struct Standing {
    /// The events that this node lacks of those that the nodes read which may run the processor; empty if it is one of
    /// them.
    pub lacks: Reads,
    /// How many nodes may run the processor, at least 1.
    pub(crate) runners: usize,
    /// Whether no living node reads everything that the processor was processed with.
    pub shrinks: bool,
}

/// Returns which of the living nodes may run a processor: those that read what it was processed with before; of these,
/// those that read most. All nodes come to the same answer. `others` are the nodes that have its code and can run it.
pub(crate) fn standing(node: Uuid, own: &Reads, before: Option<&Reads>, others: &[(Uuid, &Reads)]) -> Standing {
    let goes_on = |reads: &Reads| before.is_none_or(|before| reads.lacks(before).is_empty());
    let all = || others.iter().copied().chain([(node, own)]);
    let shrinks = !all().any(|(_, reads)| goes_on(reads));
    let able = || all().filter(|(_, reads)| shrinks || goes_on(reads));
    // Of two sets of which neither contains the other, one must give way; either may.
    let most = able().max_by_key(|(node, reads)| (reads.weight(), *node)).map_or(own, |(_, reads)| reads);
    let lacks = match before {
        Some(before) if !shrinks && !goes_on(own) => own.lacks(before),
        _ => own.lacks(most),
    };
    let runners = able().filter(|(_, reads)| reads.lacks(most).is_empty()).count().max(1);
    Standing { lacks, runners, shrinks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(events: &[(&str, u32)]) -> Reads {
        Reads(events.iter().map(|(name, version)| ((*name).into(), *version)).collect())
    }

    #[test]
    fn e5_a_set_lacks_names_and_later_versions() {
        let (old, new) = (reads(&[("a", 1), ("b", 2)]), reads(&[("a", 2), ("b", 2), ("c", 1)]));
        assert_eq!(old.lacks(&new), reads(&[("a", 2), ("c", 1)]));
        assert_eq!(new.lacks(&old), Reads::default());
        assert_eq!(new.names_beyond(&old), ["c"]);
        // A retired event is read in every version, as nothing; a set that reads it as something does not lack it.
        let retired = reads(&[("a", 0)]);
        assert!(retired.lacks(&reads(&[("a", 7)])).is_empty() && reads(&[("a", 7)]).lacks(&retired).is_empty());
        assert_eq!(new.lacks(&old).to_string(), "");
        assert_eq!(old.lacks(&new).to_string(), "version 2 of `a`, `c`");
    }

    #[test]
    fn e5_the_fingerprint_of_a_set_is_the_same_for_ever() {
        let fingerprints = [reads(&[]), reads(&[("account.opened", 1)]), reads(&[("account.opened", 2), ("b", 0)])];
        let fingerprints = fingerprints.map(|reads| reads.fingerprint());
        assert_eq!(
            fingerprints,
            [
                "0a68eb57-c88a-5f34-9e9d-27f85e68af4f",
                "184184d3-6d81-5415-9e2f-2b39dc2dd9ee",
                "14ccd0d1-f04f-5b46-b5e9-82da95f30f0b",
            ]
        );
    }

    #[test]
    fn e5_a_set_of_a_later_release_is_read_by_its_names() {
        let row = RawValue::from_string(r#"{"events":{"a":2,"b":{"since":3},"c":-1},"more":1}"#.into()).unwrap();
        assert_eq!(Reads::read(&row), reads(&[("a", 2), ("b", 1), ("c", 1)]));
        assert_eq!(Reads::read(&RawValue::from_string("[]".into()).unwrap()), Reads::default());
    }

    #[test]
    fn e5_of_the_nodes_that_live_those_run_a_processor_that_read_most() {
        let node = |n: u128| Uuid::from_u128(n);
        let (old, new) = (reads(&[("a", 1)]), reads(&[("a", 1), ("b", 1)]));
        let stands = |lacks, runners, shrinks| Standing { lacks, runners, shrinks };
        // A node alone; with another that reads the same; with one that reads less.
        assert_eq!(standing(node(1), &old, None, &[]), stands(Reads::default(), 1, false));
        assert_eq!(standing(node(1), &old, Some(&old), &[(node(2), &old)]), stands(Reads::default(), 2, false));
        assert_eq!(standing(node(1), &new, Some(&old), &[(node(2), &old)]), stands(Reads::default(), 1, false));
        // With one that reads more, and with none left that reads what was processed.
        assert_eq!(standing(node(1), &old, Some(&old), &[(node(2), &new)]), stands(reads(&[("b", 1)]), 1, false));
        assert_eq!(standing(node(1), &old, Some(&new), &[(node(2), &old)]), stands(Reads::default(), 2, true));
        assert_eq!(standing(node(1), &old, Some(&new), &[(node(2), &new)]), stands(reads(&[("b", 1)]), 1, false));
        // Of sets that do not contain each other, one runs the processor: the set it was processed with, else either.
        let other = reads(&[("a", 1), ("c", 1)]);
        for before in [Some(&old), None] {
            let here = standing(node(1), &new, before, &[(node(2), &other)]);
            let there = standing(node(2), &other, before, &[(node(1), &new)]);
            assert_eq!((here, there), (stands(reads(&[("c", 1)]), 1, false), stands(Reads::default(), 1, false)));
        }
        let here = standing(node(1), &new, Some(&new), &[(node(2), &other)]);
        let there = standing(node(2), &other, Some(&new), &[(node(1), &new)]);
        assert_eq!((here, there), (stands(Reads::default(), 1, false), stands(reads(&[("b", 1)]), 1, false)));
    }
}
