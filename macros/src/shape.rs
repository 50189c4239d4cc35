//! Parses an enum of events and its attributes.

use std::collections::{HashMap, hash_map::Entry};

use proc_macro2::{Ident, Span};
use syn::{Attribute, DataEnum, DeriveInput, Fields, LitInt, LitStr, Path, Type, ext::IdentExt};

use crate::{
    attr::{Errors, refuse_serde, written_by_hand},
    event_attributes::{ON_ENUM, ON_VARIANT},
    names::{case, check, snake_case, stored, topic},
    tags::Tag,
    types::{innermost_type, text},
    versions::History,
};

/// An enum of events.
pub(crate) struct Event<'a> {
    pub ident: &'a Ident,
    pub krate: Path,
    /// The topic that these messages are published under, if they are messages.
    pub topic: Option<String>,
    /// How the fields are renamed in a body.
    pub rename_all: Option<LitStr>,
    pub variants: Vec<Variant<'a>>,
    pub retired: Vec<LitStr>,
    /// Other event types of the program, whose events do not matter here.
    pub others: Vec<Path>,
}

pub(crate) struct Variant<'a> {
    pub ident: &'a Ident,
    pub fields: &'a Fields,
    /// The stored name and its span.
    pub name: (String, Span),
    aliases: Vec<LitStr>,
    pub history: History,
    pub tags: Vec<Tag<'a>>,
}

#[derive(Default)]
pub(crate) struct Keys {
    prefix: Option<LitStr>,
    topic: Option<LitStr>,
    rename_all: Option<LitStr>,
    retired: Option<(Ident, Vec<LitStr>)>,
    pub others: Vec<Path>,
    pub transparent: bool,
    pub krate: Option<Path>,
}

impl Keys {
    pub(crate) fn read(attributes: &[Attribute], errors: &mut Errors) -> Self {
        let (mut keys, mut other) = (Self::default(), None);
        ON_ENUM.read(attributes, errors, |entry| {
            match &*entry.name() {
                "prefix" => keys.prefix = Some(entry.text("prefix = \"account\"", stored)?),
                "topic" => keys.topic = Some(entry.text("topic = \"orders\"", topic)?),
                "rename_all" => keys.rename_all = Some(entry.text("rename_all = \"camelCase\"", case)?),
                "retired" => {
                    let names: Vec<LitStr> = entry.list("retired(\"account.flagged\")")?;
                    names.iter().try_for_each(|name| check(name, stored))?;
                    keys.retired = Some((entry.key.clone(), names));
                }
                "others" => keys.others = entry.list("others(CourseEvent)")?,
                "transparent" => keys.transparent = entry.flag().map(|_| true)?,
                _ => keys.krate = Some(entry.path_to_crate()?),
            }
            if matches!(&*entry.name(), "prefix" | "topic" | "rename_all" | "retired") {
                other = Some(entry.key.clone());
            }
            Ok(())
        });
        if let (Some(key), true) = (other, keys.transparent) {
            errors.at(&key, format!("a transparent event has no names of its own: put `{key}` on the enum inside"));
        }
        keys
    }
}

impl<'a> Event<'a> {
    pub(crate) fn read(
        input: &'a DeriveInput,
        data: &'a DataEnum,
        keys: &Keys,
        krate: Path,
        errors: &mut Errors,
    ) -> Self {
        let ident = &input.ident;
        let name = ident.unraw().to_string();
        let prefix = match (&keys.prefix, name.strip_suffix("Event")) {
            (Some(prefix), _) => prefix.value(),
            (None, Some(start)) if !start.is_empty() => snake_case(start),
            (None, Some(_)) => String::new(),
            (None, None) => snake_case(&name),
        };
        let mut variants: Vec<_> =
            data.variants.iter().map(|variant| Variant::read(variant, &prefix, errors)).collect();
        let mut retired = keys.retired.as_ref().map_or_else(Vec::new, |(_, names)| names.clone());
        let topic = keys.topic.as_ref().map(LitStr::value);
        if let Some(topic) = &topic {
            variants.iter_mut().for_each(|variant| variant.publish_under(topic));
            retired.iter_mut().for_each(|name| *name = under(topic, name));
        }
        let (rename_all, others) = (keys.rename_all.clone(), keys.others.clone());
        let event = Self { ident, krate, topic, rename_all, variants, retired, others };
        let nameless = event.variants.iter().any(|variant| variant.name.0.is_empty());
        if prefix.is_empty() && nameless {
            let message =
                format!("`{ident}` does not say what its events begin with: add `#[event(prefix = \"account\")]`");
            errors.at(ident, message);
        } else {
            event.check_names(errors);
        }
        event
    }

    /// Returns a stored name without its topic.
    fn bare<'n>(&self, name: &'n str) -> &'n str {
        let topic = self.topic.as_deref().unwrap_or_default();
        name.strip_prefix(topic).and_then(|name| name.strip_prefix(':')).unwrap_or(name)
    }

    /// Refuses two events with one name, and names that break the rules.
    fn check_names(&self, errors: &mut Errors) {
        let mut seen: HashMap<String, &Ident> = HashMap::new();
        for variant in &self.variants {
            let (name, span) = &variant.name;
            if let Err(reason) = stored(name) {
                errors.add(syn::Error::new(*span, format!("{reason}: `{name}`")));
            } else if self.bare(name).starts_with('$') {
                let reason = "a name that begins with `$` is the log's own; what is stored so already is an `alias`";
                errors.add(syn::Error::new(*span, format!("{reason}: `{name}`")));
            }
            match seen.entry(name.clone()) {
                Entry::Occupied(other) => {
                    let (ident, first) = (variant.ident, other.get());
                    let message = format!(
                        "`{ident}` would be stored as `{name}`, and so is `{first}`: give one of them another name, \
                         `#[event(name = \"…\")]`"
                    );
                    errors.add(syn::Error::new(*span, message));
                }
                Entry::Vacant(free) => _ = free.insert(variant.ident),
            }
        }
        for variant in &self.variants {
            for alias in &variant.aliases {
                match seen.entry(alias.value()) {
                    Entry::Occupied(other) => {
                        let (name, ident) = (other.key(), other.get());
                        errors.at(alias, format!("`{name}` is a name of `{ident}` already: remove this alias"));
                    }
                    Entry::Vacant(free) => _ = free.insert(variant.ident),
                }
            }
        }
        let mut retired = vec![];
        for literal in &self.retired {
            let name = literal.value();
            match seen.get(&name) {
                Some(ident) => errors.at(literal, format!("`{name}` is a name of `{ident}`, so it is not retired")),
                None if retired.contains(&name) => errors.at(literal, format!("`{name}` has been retired already")),
                None => retired.push(name),
            }
        }
    }
}

impl<'a> Variant<'a> {
    fn read(variant: &'a syn::Variant, prefix: &str, errors: &mut Errors) -> Self {
        let ident = &variant.ident;
        let (mut name, mut aliases, mut version, mut upcasts) = (None, vec![], None, None);
        let before = errors.count();
        ON_VARIANT.read(&variant.attrs, errors, |entry| {
            match &*entry.name() {
                "name" => name = Some(entry.text("name = \"account.opened\"", stored)?),
                "alias" => aliases.push(entry.text("alias = \"account.created\"", stored)?),
                "version" => version = Some(entry.value::<LitInt>("version = 2")?),
                _ => upcasts = Some((entry.key.clone(), entry.list("upcast(1 => from_v1)")?)),
            }
            Ok(())
        });
        let readable = errors.count() == before;
        refuse_serde(&variant.attrs, "variant", errors);
        let history = if readable { errors.take(History::new(ident, version, upcasts)) } else { None };
        refuse_borrowed(&variant.fields, errors);
        let tags = variant.fields.iter().zip(variant.fields.members());
        let tags = tags.flat_map(|(field, member)| Tag::read(field, &member, errors)).collect();
        let name = match name {
            Some(name) => (name.value(), name.span()),
            None if prefix.is_empty() => (String::new(), ident.span()),
            None => (format!("{prefix}.{}", snake_case(&ident.unraw().to_string())), ident.span()),
        };
        Self { ident, fields: &variant.fields, name, aliases, history: history.unwrap_or_default(), tags }
    }

    /// Has its names begin with a topic.
    fn publish_under(&mut self, topic: &str) {
        if !self.name.0.is_empty() {
            self.name.0 = format!("{topic}:{}", self.name.0);
        }
        self.aliases.iter_mut().for_each(|alias| *alias = under(topic, alias));
    }

    /// Returns the stored name and all aliases.
    pub(crate) fn names(&self) -> Vec<String> {
        let aliases = self.aliases.iter().map(LitStr::value);
        [self.name.0.clone()].into_iter().chain(aliases).collect()
    }
}

/// Returns the stored name of a message.
fn under(topic: &str, name: &LitStr) -> LitStr {
    LitStr::new(&format!("{topic}:{}", name.value()), name.span())
}

/// Refuses borrowed fields: an event is decoded from bytes that it cannot borrow.
fn refuse_borrowed(fields: &Fields, errors: &mut Errors) {
    for field in fields.iter().filter(|field| !written_by_hand(field)) {
        let Type::Reference(reference) = innermost_type(&field.ty) else { continue };
        let owned = if text(&reference.elem) == "str" { "a `String`" } else { "an owned type" };
        errors.at(reference, format!("an event cannot borrow what it is read back from: make this {owned}"));
    }
}
