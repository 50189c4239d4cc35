//! PostgreSQL's types in Rust: instants, arrays as text, and the keys of event types.

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

/// A `timestamptz`. In binary it is the number of microseconds since the start of 2000, UTC.
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

/// Returns an array as PostgreSQL reads it from text. An array of such texts can stand for arrays of different lengths,
/// which PostgreSQL does not have.
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

/// Returns the event names of an item as the text of an array.
pub(crate) fn names(item: &Item) -> String {
    array(&item.names)
}

/// The event types that this process knows. The key of a type never changes within one log.
#[derive(Default)]
pub(crate) struct EventTypes {
    known: RwLock<TypeTable>,
}

#[derive(Default)]
struct TypeTable {
    /// The server that has them, by the time its postmaster started.
    server: String,
    names: HashMap<i32, Arc<str>>,
    keys: HashMap<String, HashMap<Arc<str>, i32>>,
    index: TypeIndex,
}

impl EventTypes {
    /// Returns the name of a type.
    pub(crate) fn name(&self, key: i32) -> Option<Arc<str>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).names.get(&key).cloned()
    }

    fn key(&self, category: &str, name: &str) -> Option<i32> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.get(category)?.get(name).copied()
    }

    /// Returns the keys of event types, if all are known.
    pub(crate) fn known_keys<'a>(&self, types: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Vec<i32>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        types.map(|(category, name)| known.keys.get(category)?.get(name).copied()).collect()
    }

    /// Adds types that were read from the server.
    pub(crate) fn learn(&self, types: Vec<(i32, String, String)>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (key, category, name) in types {
            let name: Arc<str> = name.into();
            known.names.insert(key, name.clone());
            known.index.add(&category, &name);
            known.keys.entry(category).or_default().insert(name, key);
        }
    }

    /// Resolves the event types that a query excepts, among the known types and the `new` ones. Returns the query with
    /// the names it stands for, if it excepts any, and the number of types. Types are never removed, so the list is
    /// complete if the server has as many.
    pub(crate) fn resolve(&self, query: &Query, new: &[(i32, String, String)]) -> (Option<Query>, usize) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if new.is_empty() {
            return (known.index.resolve(query), known.index.len());
        }
        let mut index = known.index.clone();
        new.iter().for_each(|(_, category, name)| index.add(category, name));
        (index.resolve(query), index.len())
    }

    /// Returns the keys of event types. The server creates those that are new. The inner error is the number of types
    /// the log would have, if that exceeds [`limits::TYPES`].
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
        // The keys found first are kept: another connection may have cleared the table meanwhile.
        let key = |(one, known): (&(&str, &str), Option<i32>)| known.or_else(|| learned.get(one).copied());
        let keys: Option<_> = types.iter().zip(known).map(key).collect();
        Ok(keys.ok_or(limits::TYPES + 1))
    }

    /// Clears the table if a new connection leads to another server, or to the same one after a restart, which may lack
    /// the latest types. Returns whether it did.
    pub(crate) fn forget_if_other_server(&self, server: String) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let another = known.server != server;
        if another {
            *known = TypeTable { server, ..TypeTable::default() };
        }
        another
    }

    /// Clears the table.
    pub(crate) fn forget(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        *known = TypeTable { server: std::mem::take(&mut known.server), ..TypeTable::default() };
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
