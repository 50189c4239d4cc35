//! Parses `#[event(…)]` and similar attributes key by key. An error says what to write instead.

use std::fmt::Display;

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::{
    Attribute, Field, LitStr, Meta, Path, Token,
    ext::IdentExt,
    parenthesized,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    token::Paren,
};

use crate::names::{nearest, one_of};

/// The errors of a derive, collected so that all of them are reported at once.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Adds an error at these tokens.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.add(syn::Error::new_spanned(tokens, message));
    }

    /// Returns all errors as one, if there are any.
    pub(crate) fn into_result(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }

    /// Returns the value, or adds the error.
    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// Returns the number of errors so far.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Returns the tokens to emit: the impl, or the errors and a fallback impl that prevents further errors.
    pub(crate) fn or(
        self,
        emitted: impl FnOnce() -> TokenStream,
        fallback: impl FnOnce() -> TokenStream,
    ) -> TokenStream {
        let Some(errors) = self.0 else { return emitted() };
        let mut tokens = errors.into_compile_error();
        tokens.extend(fallback());
        tokens
    }
}

/// An attribute, the item it is on, and the keys it can have there.
pub(crate) struct AttributeSpec {
    /// `event` in `#[event(…)]`.
    pub attribute: &'static str,
    /// The item it is on, with an article.
    pub on: &'static str,
    pub keys: &'static [&'static str],
    /// The keys that can be repeated.
    pub repeated: &'static [&'static str],
    /// Other items, and the keys that the attribute has on them.
    pub elsewhere: &'static [(&'static str, &'static [&'static str])],
}

impl AttributeSpec {
    /// Calls `take` for each key, which parses its value.
    pub(crate) fn read(
        &self,
        attributes: &[Attribute],
        errors: &mut Errors,
        mut take: impl FnMut(&Entry<'_>) -> syn::Result<()>,
    ) {
        let mut seen = vec![];
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(self.attribute)) {
            let Meta::List(list) = &attribute.meta else {
                let message = format!("expected {} in parentheses", one_of(self.keys));
                errors.at(&attribute.meta, message);
                continue;
            };
            let read = |input: ParseStream<'_>| self.read_keys(input, &mut seen, errors, &mut take);
            if let Err(error) = list.parse_args_with(read) {
                errors.add(error);
            }
        }
    }

    fn read_keys(
        &self,
        input: ParseStream<'_>,
        seen: &mut Vec<String>,
        errors: &mut Errors,
        take: &mut dyn FnMut(&Entry<'_>) -> syn::Result<()>,
    ) -> syn::Result<()> {
        while !input.is_empty() {
            let entry = self.entry(input, seen).and_then(|entry| take(&entry));
            let ended = entry.and_then(|()| if at_end(input) { Ok(()) } else { Err(input.error("expected `,`")) });
            if errors.take(ended).is_none() {
                skip(input)?;
            }
            input.parse::<Option<Token![,]>>()?;
        }
        Ok(())
    }

    fn entry<'a>(&self, input: ParseStream<'a>, seen: &mut Vec<String>) -> syn::Result<Entry<'a>> {
        let key = input.call(Ident::parse_any);
        let key = key.map_err(|error| syn::Error::new(error.span(), format!("expected {}", one_of(self.keys))))?;
        let name = key.to_string();
        if !self.keys.contains(&&*name) {
            return Err(syn::Error::new(key.span(), self.unknown(&name)));
        }
        if seen.contains(&name) && !self.repeated.contains(&&*name) {
            return Err(syn::Error::new(key.span(), format!("`{name}` has been said already")));
        }
        seen.push(name);
        Ok(Entry { key, input })
    }

    fn unknown(&self, name: &str) -> String {
        if let Some((on, _)) = self.elsewhere.iter().find(|(_, keys)| keys.contains(&name)) {
            return format!("`{name}` goes on {on}, not on {}", self.on);
        }
        match nearest(name, self.keys.iter().copied()) {
            Some(key) => format!("unknown key `{name}`: did you mean `{key}`?"),
            None => format!("unknown key `{name}`: expected {}", one_of(self.keys)),
        }
    }
}

fn at_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

/// Skips the tokens up to the next key. A comma between `<` and `>` is part of a type.
fn skip(input: ParseStream<'_>) -> syn::Result<()> {
    let mut depth = 0_usize;
    while !input.is_empty() && (depth > 0 || !input.peek(Token![,])) {
        if input.peek(Token![<]) {
            depth += 1;
        } else if input.peek(Token![>]) {
            depth = depth.saturating_sub(1);
        }
        input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}

/// A key whose value is not parsed yet.
pub(crate) struct Entry<'a> {
    pub key: Ident,
    input: ParseStream<'a>,
}

impl Entry<'_> {
    pub(crate) fn name(&self) -> String {
        self.key.to_string()
    }

    pub(crate) fn has_value(&self) -> bool {
        !at_end(self.input)
    }

    /// Parses a key without a value: `by_tag`.
    pub(crate) fn flag(&self) -> syn::Result<Ident> {
        if self.has_value() {
            return Err(syn::Error::new(self.key.span(), format!("`{}` takes no value", self.key)));
        }
        Ok(self.key.clone())
    }

    /// Parses a value: `error = AccountError`.
    pub(crate) fn value<T: Parse>(&self, example: &str) -> syn::Result<T> {
        if !self.input.peek(Token![=]) {
            return Err(self.incomplete(example));
        }
        self.input.parse::<Token![=]>()?;
        if at_end(self.input) {
            return Err(self.incomplete(example));
        }
        self.input.parse().map_err(|error| syn::Error::new(error.span(), format!("expected `{example}`")))
    }

    /// Parses a text that a rule allows: `name = "account"`.
    pub(crate) fn text(&self, example: &str, rule: impl Fn(&str) -> Result<(), String>) -> syn::Result<LitStr> {
        let literal: LitStr = self.value(example)?;
        crate::names::check(&literal, rule)?;
        Ok(literal)
    }

    /// Parses a list: `retired("account.flagged", "account.blocked")`. The caller checks the values; an error here is
    /// one of syntax.
    pub(crate) fn list<T: Parse>(&self, example: &str) -> syn::Result<Vec<T>> {
        if !self.input.peek(Paren) {
            return Err(self.incomplete(example));
        }
        let values;
        parenthesized!(values in self.input);
        if values.is_empty() {
            return Err(self.incomplete(example));
        }
        let list = Punctuated::<T, Token![,]>::parse_terminated(&values);
        // Consumes the rest, which syn would report as a second error.
        values.parse::<TokenStream>()?;
        match list {
            Ok(list) => Ok(list.into_iter().collect()),
            Err(error) => Err(syn::Error::new(error.span(), format!("expected `{example}`"))),
        }
    }

    /// Parses the key's own keys in parentheses: `snapshot(every = 100, version = 2)`.
    pub(crate) fn keys(
        &self,
        spec: &AttributeSpec,
        mut take: impl FnMut(&Entry<'_>) -> syn::Result<()>,
    ) -> syn::Result<()> {
        let values;
        parenthesized!(values in self.input);
        let mut errors = Errors::default();
        spec.read_keys(&values, &mut vec![], &mut errors, &mut take)?;
        errors.into_result()
    }

    /// Whether the key has its own keys in parentheses.
    pub(crate) fn has_keys(&self) -> bool {
        self.input.peek(Paren)
    }

    /// Parses `crate = path::to::eventstore`.
    pub(crate) fn path_to_crate(&self) -> syn::Result<Path> {
        let ModStyle(path) = self.value("crate = path::to::eventstore")?;
        Ok(path)
    }

    fn incomplete(&self, example: &str) -> syn::Error {
        syn::Error::new(self.key.span(), format!("expected `{example}`"))
    }
}

/// A path that may start with `crate`.
struct ModStyle(Path);

impl Parse for ModStyle {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Path::parse_mod_style(input).map(Self)
    }
}

/// Returns the path of the facade, if no `crate = …` names another.
pub(crate) fn facade() -> Path {
    syn::parse_quote!(::eventstore)
}

/// A key of `#[serde(…)]`, and its value if that is a string. Serde itself reports a key that it does not have.
pub(crate) struct SerdeKey {
    pub key: Path,
    pub text: Option<LitStr>,
    /// Whether the key has its own keys: `rename(serialize = "…")`.
    pub split: bool,
}

impl SerdeKey {
    pub(crate) fn is(&self, key: &str) -> bool {
        self.key.is_ident(key)
    }

    pub(crate) fn is_one_of(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.is(key))
    }
}

/// Returns the keys of all `#[serde(…)]` attributes.
pub(crate) fn serde_keys(attributes: &[Attribute]) -> Vec<SerdeKey> {
    let mut keys = vec![];
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        let _ = attribute.parse_nested_meta(|meta| {
            let split = meta.input.peek(Paren);
            let text = match meta.value() {
                Ok(value) if value.peek(LitStr) => Some(value.parse()?),
                _ => None,
            };
            skip(meta.input)?;
            keys.push(SerdeKey { key: meta.path, text, split });
            Ok(())
        });
    }
    keys
}

/// Refuses serde's attributes on an enum or a variant: `#[event(…)]` says how those are stored.
pub(crate) fn refuse_serde(attributes: &[Attribute], on: &str, errors: &mut Errors) {
    for SerdeKey { key, .. } in serde_keys(attributes) {
        let name = key.to_token_stream().to_string();
        let instead = match (&*name, on) {
            ("rename", "variant") => "say the stored name with `#[event(name = \"…\")]`",
            ("alias", "variant") => "say an earlier name with `#[event(alias = \"…\")]`",
            ("rename", "enum") => "say what stored names begin with: `#[event(prefix = \"…\")]`",
            ("rename_all" | "rename_all_fields", "enum") => {
                "rename the fields of all variants with `#[event(rename_all = \"…\")]`"
            }
            ("rename_all" | "rename_all_fields", _) => {
                "rename fields one by one, with `#[serde(rename = \"…\")]` on them"
            }
            ("tag" | "content" | "untagged", _) => "the name is stored beside the body, so leave it out",
            ("crate", _) => "`#[event(crate = …)]` says where eventstore is, and serde comes with it",
            ("transparent", _) => "an enum of other events is `#[event(transparent)]`",
            ("other", _) => "a name that means nothing any more is `#[event(retired(\"…\"))]`, on the enum",
            _ => "put it on the fields",
        };
        errors.at(&key, format!("`#[serde({name})]` on the {on} does not change how an event is stored: {instead}"));
    }
}

/// Whether an attribute tells serde how to write or read the field, so that the field's type need not implement serde.
pub(crate) fn written_by_hand(field: &Field) -> bool {
    let by_hand =
        ["with", "serialize_with", "deserialize_with", "skip", "skip_serializing", "skip_deserializing", "getter"];
    serde_keys(&field.attrs).iter().any(|key: &SerdeKey| key.is_one_of(&by_hand))
}
