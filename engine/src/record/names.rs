//! The names of the versions of a read model, and which version readers are sent to.

use std::collections::BTreeMap;

use eventstore_core::engine::SHADOW;

use crate::record::Row;

/// Returns the name of the read model: `balance` for `balance@2` and `balance@2~shadow`.
pub fn model(name: &str) -> &str {
    name.split_once('@').map_or(name, |(model, _)| model)
}

pub fn number(name: &str) -> u32 {
    name.rsplit_once('@').and_then(|(_, version)| version.parse().ok()).unwrap_or_default()
}

/// Returns the version that readers of plain SQL are sent to.
pub fn current<'a>(rows: &'a BTreeMap<String, Row>, model: &str) -> Option<&'a str> {
    versions(rows, model).filter_map(|(name, row)| Some((row.promoted_at?, name))).max().map(|(_, name)| name)
}

/// Returns the version that readers are sent to; before there is one, the version with the lowest number.
pub fn current_or_first<'a>(rows: &'a BTreeMap<String, Row>, model: &str) -> Option<&'a str> {
    let first = || versions(rows, model).map(|(name, _)| name).min_by_key(|name| number(name));
    current(rows, model).or_else(first)
}

pub fn versions<'a>(rows: &'a BTreeMap<String, Row>, model: &str) -> impl Iterator<Item = (&'a str, &'a Row)> {
    let versions = rows.iter().filter(move |(name, _)| name.contains('@') && self::model(name) == model);
    versions.filter(|(name, _)| !name.ends_with(SHADOW)).map(|(name, row)| (&**name, row))
}
