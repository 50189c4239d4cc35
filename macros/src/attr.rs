//! Reads `#[event(…)]` and its like, key by key, and says what to type where a key is wrong.

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

/// All that is wrong, so that it shows at once.
#[derive(Default)]
pub(crate) struct Errors(Option<syn::Error>);

impl Errors {
    pub(crate) fn add(&mut self, error: syn::Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            None => self.0 = Some(error),
        }
    }

    /// Something is wrong at these tokens.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.add(syn::Error::new_spanned(tokens, message));
    }

    /// All of them as one, if there are any.
    pub(crate) fn into_result(self) -> syn::Result<()> {
        self.0.map_or(Ok(()), Err)
    }

    pub(crate) fn take<T>(&mut self, result: syn::Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    /// How many there are so far.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// What to emit: the impl, or the errors beside an impl that keeps others quiet.
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

/// Where an attribute stands, and what can be said there.
pub(crate) struct Place {
    /// `event` in `#[event(…)]`.
    pub attribute: &'static str,
    /// What it stands on, with an article.
    pub on: &'static str,
    pub keys: &'static [&'static str],
    /// Those that can be said more than once.
    pub repeated: &'static [&'static str],
    /// What can be said on what else.
    pub elsewhere: &'static [(&'static str, &'static [&'static str])],
}

impl Place {
    /// Hands each key to `take`, which reads its value.
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

/// On to the next key. A comma between `<` and `>` is part of a type.
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

/// One key, whose value is still to be read.
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

    /// `by_tag`
    pub(crate) fn flag(&self) -> syn::Result<Ident> {
        if self.has_value() {
            return Err(syn::Error::new(self.key.span(), format!("`{}` takes no value", self.key)));
        }
        Ok(self.key.clone())
    }

    /// `error = AccountError`
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

    /// `name = "account"`, where a rule says which names there can be.
    pub(crate) fn text(&self, example: &str, rule: impl Fn(&str) -> Result<(), String>) -> syn::Result<LitStr> {
        let literal: LitStr = self.value(example)?;
        crate::names::check(&literal, rule)?;
        Ok(literal)
    }

    /// `retired("account.flagged", "account.blocked")`
    ///
    /// Values are checked by the derive that asked for them: an error while reading is one of form.
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
        // What is left over would be reported a second time.
        values.parse::<TokenStream>()?;
        match list {
            Ok(list) => Ok(list.into_iter().collect()),
            Err(error) => Err(syn::Error::new(error.span(), format!("expected `{example}`"))),
        }
    }

    /// `snapshot(every = 100, version = 2)`: keys of its own, in parentheses.
    pub(crate) fn keys(&self, place: &Place, mut take: impl FnMut(&Entry<'_>) -> syn::Result<()>) -> syn::Result<()> {
        let values;
        parenthesized!(values in self.input);
        let mut errors = Errors::default();
        place.read_keys(&values, &mut vec![], &mut errors, &mut take)?;
        errors.into_result()
    }

    /// Whether it has keys of its own.
    pub(crate) fn has_keys(&self) -> bool {
        self.input.peek(Paren)
    }

    /// `crate = path::to::eventstore`
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

/// Where the facade is, unless `crate = …` says so.
pub(crate) fn facade() -> Path {
    syn::parse_quote!(::eventstore)
}

/// A key of `#[serde(…)]` with its value, if that is a string. What serde does not take, serde refuses.
pub(crate) struct SerdeKey {
    pub key: Path,
    pub text: Option<LitStr>,
    /// `rename(serialize = "…")`
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

/// All keys of all `#[serde(…)]`.
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

/// Serde's attributes say how fields are written; everything else about the stored form is said by `#[event(…)]`.
pub(crate) fn refuse_serde(attributes: &[Attribute], on: &str, errors: &mut Errors) {
    for SerdeKey { key, .. } in serde_keys(attributes) {
        let name = key.to_token_stream().to_string();
        let instead = match (&*name, on) {
            ("rename", "variant") => "say the stored name with `#[event(name = \"…\")]`",
            ("alias", "variant") => "say an earlier name with `#[event(alias = \"…\")]`",
            ("rename" | "rename_all", "enum") => "say what stored names begin with: `#[event(prefix = \"…\")]`",
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

/// Whether serde is told how to write the field, so that its type need not know.
pub(crate) fn written_by_hand(field: &Field) -> bool {
    let by_hand =
        ["with", "serialize_with", "deserialize_with", "skip", "skip_serializing", "skip_deserializing", "getter"];
    serde_keys(&field.attrs).iter().any(|key: &SerdeKey| key.is_one_of(&by_hand))
}
