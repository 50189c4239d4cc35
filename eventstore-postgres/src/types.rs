//! What PostgreSQL's types are here: instants, arrays in arrays, and the keys of event types.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use eventstore_core::{BoxError, Item, Query, Timestamp, TypeIndex, limits};
use sqlx::{
    Decode, Encode, PgConnection, Postgres, Type,
    encode::IsNull,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef},
};

use crate::sql::Sql;

/// A `timestamptz`: microseconds since the start of 2000, UTC.
#[derive(Clone, Copy)]
pub(crate) struct Instant(pub(crate) Timestamp);

const MICROS_1970_TO_2000: i64 = 946_684_800_000_000;

impl Type<Postgres> for Instant {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Instant {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::array_of("timestamptz")
    }
}

impl Encode<'_, Postgres> for Instant {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxError> {
        <i64 as Encode<Postgres>>::encode(self.0.as_micros() - MICROS_1970_TO_2000, buffer)
    }
}

impl Decode<'_, Postgres> for Instant {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxError> {
        let micros = match value.format() {
            PgValueFormat::Binary => i64::from_be_bytes(value.as_bytes()?.try_into()?),
            PgValueFormat::Text => return Err("instants are read in binary".into()),
        };
        Ok(Self(Timestamp::from_micros(micros.saturating_add(MICROS_1970_TO_2000))))
    }
}

/// An array of text as PostgreSQL writes it, for arrays of arrays of different lengths.
pub(crate) fn array(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut text = String::from("{");
    for item in items {
        if text.len() > 1 {
            text.push(',');
        }
        text.push('"');
        for character in item.as_ref().chars() {
            if matches!(character, '"' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
        text.push('"');
    }
    text.push('}');
    text
}

/// The event names an item asks for.
pub(crate) fn names(item: &Item) -> String {
    array(&item.names)
}

/// The event types this process has met: their keys never change.
#[derive(Default)]
pub(crate) struct EventTypes {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// The run of the server that has them.
    server: String,
    names: HashMap<i32, Arc<str>>,
    keys: HashMap<String, HashMap<Arc<str>, i32>>,
    index: TypeIndex,
}

impl EventTypes {
    pub(crate) fn name(&self, key: i32) -> Option<Arc<str>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).names.get(&key).cloned()
    }

    fn key(&self, category: &str, name: &str) -> Option<i32> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.get(category)?.get(name).copied()
    }

    /// The keys of event types, if all are known.
    pub(crate) fn known<'a>(&self, types: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Vec<i32>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        types.map(|(category, name)| known.keys.get(category)?.get(name).copied()).collect()
    }

    pub(crate) fn learn(&self, types: Vec<(i32, String, String)>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (key, category, name) in types {
            let name: Arc<str> = name.into();
            known.names.insert(key, name.clone());
            known.index.add(&category, &name);
            known.keys.entry(category).or_default().insert(name, key);
        }
    }

    /// A query with the names it asks for without naming them, of the types this process knows and new ones; and how many
    /// these are. Types are never removed, so they are all there are if the server has as many.
    pub(crate) fn resolve(&self, query: &Query, new: &[(i32, String, String)]) -> (Option<Query>, usize) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if new.is_empty() {
            return (known.index.resolve(query), known.index.len());
        }
        let mut index = known.index.clone();
        new.iter().for_each(|(_, category, name)| index.add(category, name));
        (index.resolve(query), index.len())
    }

    /// The keys of event types, given out by the server where they are new; or how many there would be, if the log would
    /// have too many.
    pub(crate) async fn keys(
        &self,
        connection: &mut PgConnection,
        sql: &Sql,
        types: &[(&str, &str)],
        new: &mut Vec<(i32, String, String)>,
    ) -> Result<Result<Vec<i32>, usize>, sqlx::Error> {
        let known: Vec<_> = types.iter().map(|(category, name)| self.key(category, name)).collect();
        let mut unknown: Vec<_> =
            types.iter().zip(&known).filter(|(_, key)| key.is_none()).map(|(one, _)| *one).collect();
        if !unknown.is_empty() {
            unknown.sort_unstable();
            unknown.dedup();
            let (categories, names): (Vec<&str>, Vec<&str>) = unknown.into_iter().unzip();
            let found = sqlx::query_as(sql.type_keys()).bind(categories).bind(names);
            new.extend(found.fetch_all(connection).await?);
        }
        let learned: HashMap<_, _> = new.iter().map(|(key, category, name)| ((&**category, &**name), *key)).collect();
        // What was known is kept: another connection may have had it forgotten meanwhile.
        let key = |(one, known): (&(&str, &str), Option<i32>)| known.or_else(|| learned.get(one).copied());
        let keys: Option<_> = types.iter().zip(known).map(key).collect();
        Ok(keys.ok_or(limits::TYPES + 1))
    }

    /// Forgets everything if a new connection leads to another server, or to another run of it, and says whether it does: one that took the place of the old may not have heard of the last of them.
    pub(crate) fn meet(&self, server: String) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let another = known.server != server;
        if another {
            *known = Known { server, ..Known::default() };
        }
        another
    }

    /// Forgets everything.
    pub(crate) fn forget(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = Known { server: std::mem::take(&mut known.server), ..Known::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_written_as_postgresql_reads_it() {
        assert_eq!(array(Vec::<String>::new()), "{}");
        assert_eq!(array(["a", "b c", r#"{x,"y"\}"#, "", "NULL"]), r#"{"a","b c","{x,\"y\"\\}","","NULL"}"#);
    }
}
