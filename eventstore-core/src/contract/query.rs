//! Which events a caller asks for: [`Query`], [`Item`], and the event types of a log that resolve an `except`.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use crate::{
    event::{Raw, Tag},
    invalid::Invalid,
    limits,
    stream::StreamId,
};

/// Which events a caller asks for: those that match any of the items.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// The items. Without items, no event matches.
    pub items: Vec<Item>,
}

/// Events that have everything named here. An empty field does not restrict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Item {
    /// Has one of these names.
    pub names: Vec<Cow<'static, str>>,
    /// Has each of these tags.
    pub tags: Vec<Tag>,
    /// Is in a stream of this category.
    pub category: Option<String>,
    /// Is in a stream with this key; with the category, in this one stream.
    pub key: Option<String>,
    /// If given, the item also asks for names that it does not name: those of event types in its category, or in a
    /// category that has one of `names`, except these. So a program that asks for the events it knows also reads those
    /// that a newer program has added. A store finds them by [`TypeIndex::resolve`], in the same snapshot as the
    /// events, and returns them in [`Events::asked`](crate::Events::asked).
    pub except: Option<Vec<&'static [&'static str]>>,
}

impl Query {
    /// Every event.
    pub fn all() -> Self {
        Item::default().into()
    }

    /// The events of one stream.
    pub fn of(stream: &StreamId) -> Self {
        Item::of(stream).into()
    }

    /// The events with one of these names, wherever they are; of no names, none.
    pub fn names(names: &'static [&'static str]) -> Self {
        if names.is_empty() { Self::default() } else { Item::names(names).into() }
    }

    /// Whether an event matches. An [`except`](Item::except) is ignored: see [`TypeIndex::resolve`].
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        self.items.iter().any(|item| item.matches(stream, event))
    }

    /// Whether an event matches, or may match by an [`except`](Item::except).
    pub fn may_match(&self, stream: &StreamId, event: &Raw) -> bool {
        self.items.iter().any(|item| match &item.except {
            None => item.matches(stream, event),
            Some(except) if except.iter().any(|names| names.contains(&&*event.name)) => item.matches(stream, event),
            Some(_) => item.matches_but_names(stream, event),
        })
    }

    /// The stream, if the query is for the events of one stream and nothing else.
    pub fn stream(&self) -> Option<StreamId> {
        match &self.items[..] {
            [Item { category: Some(category), key: Some(key), .. }] => Some(StreamId::new(category, key)),
            _ => None,
        }
    }
}

impl From<Item> for Query {
    fn from(item: Item) -> Self {
        Self { items: vec![item] }
    }
}

impl Item {
    /// The events of one stream.
    pub fn of(stream: &StreamId) -> Self {
        let (category, key) = (Some(stream.category().into()), Some(stream.key().into()));
        Self { category, key, ..Self::default() }
    }

    /// The events with one of these names, wherever they are.
    pub fn names(names: &'static [&'static str]) -> Self {
        Self { names: names.iter().copied().map(Cow::Borrowed).collect(), ..Self::default() }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        self.names.iter().try_for_each(|event| limits::name("event name", event))?;
        self.tags.iter().try_for_each(Tag::check)?;
        self.category.iter().try_for_each(|text| limits::plain("category", text))?;
        self.key.iter().try_for_each(|key| limits::name("key", key))
    }

    /// Whether it asks for all events of one stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.category.is_some() && self.key.is_some() && self.names.is_empty() && self.tags.is_empty()
    }

    /// Whether an event matches. An [`except`](Self::except) is ignored: see [`TypeIndex::resolve`].
    pub fn matches(&self, stream: &StreamId, event: &Raw) -> bool {
        (self.names.is_empty() || self.names.iter().any(|name| **name == *event.name))
            && self.matches_but_names(stream, event)
    }

    fn matches_but_names(&self, stream: &StreamId, event: &Raw) -> bool {
        self.tags.iter().all(|tag| event.tags.contains(tag))
            && self.category.as_ref().is_none_or(|category| category == stream.category())
            && self.key.as_ref().is_none_or(|key| key == stream.key())
    }
}

/// The event types of a log, by category and by name.
#[derive(Clone, Debug, Default)]
pub struct TypeIndex {
    /// The names in each category.
    names: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// The categories that have a name.
    categories: HashMap<Arc<str>, Vec<Arc<str>>>,
    count: usize,
}

impl TypeIndex {
    /// Whether the log has a type.
    pub fn contains(&self, category: &str, name: &str) -> bool {
        self.names.get(category).is_some_and(|names| names.iter().any(|other| **other == *name))
    }

    /// Adds a type, unless it is in the index.
    pub fn add(&mut self, category: &str, name: &str) {
        if self.contains(category, name) {
            return;
        }
        let category =
            self.names.get_key_value(category).map_or_else(|| category.into(), |(category, _)| category.clone());
        let name = self.categories.get_key_value(name).map_or_else(|| name.into(), |(name, _)| name.clone());
        self.names.entry(category.clone()).or_default().push(name.clone());
        self.categories.entry(name).or_default().push(category);
        self.count += 1;
    }

    /// The number of types.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no type.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the query with the names that it asks for by [`Item::except`] added to those it names; none if no item
    /// has an `except`.
    pub fn resolve(&self, query: &Query) -> Option<Query> {
        if query.items.iter().all(|item| item.except.is_none()) {
            return None;
        }
        let mut query = query.clone();
        for item in &mut query.items {
            let unnamed = self.unnamed(item);
            item.names.extend(unnamed);
        }
        Some(query)
    }

    fn unnamed(&self, item: &Item) -> Vec<Cow<'static, str>> {
        let Some(except) = &item.except else { return vec![] };
        let mut categories: Vec<&str> = match &item.category {
            Some(category) => vec![category],
            None => item.names.iter().filter_map(|name| self.categories.get(&**name)).flatten().map(|c| &**c).collect(),
        };
        categories.sort_unstable();
        categories.dedup();
        let mut unnamed = vec![];
        for name in categories.into_iter().filter_map(|category| self.names.get(category)).flatten() {
            let known = item.names.iter().any(|known| **known == **name)
                || except.iter().any(|known| known.contains(&&**name))
                || unnamed.iter().any(|other: &Cow<'_, str>| **other == **name);
            if !known {
                unnamed.push(Cow::Owned(name.to_string()));
            }
        }
        unnamed
    }
}

impl<C: AsRef<str>, N: AsRef<str>> FromIterator<(C, N)> for TypeIndex {
    fn from_iter<T: IntoIterator<Item = (C, N)>>(types: T) -> Self {
        let mut index = Self::default();
        types.into_iter().for_each(|(category, name)| index.add(category.as_ref(), name.as_ref()));
        index
    }
}
