//! `#[derive(ReadModel)]`: the table of a row, with a column for each field.

use std::collections::{HashMap, hash_map::Entry};

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Field, Fields, LitInt, LitStr, Path, Type, ext::IdentExt};

use crate::{
    attr::{AttributeSpec, Errors, SerdeKey, facade, serde_keys},
    fallback,
    names::{self, nearest, one_of, plain, snake_case, table},
    types::{bare, inner},
};

const STRUCT: &[&str] = &["name", "version", "tag", "keys", "crate"];
const FIELD: &[&str] = &["index", "column"];

const ON_STRUCT: AttributeSpec = AttributeSpec {
    attribute: "read_model",
    on: "the struct",
    keys: STRUCT,
    repeated: &[],
    elsewhere: &[("a field", FIELD)],
};
const ON_FIELD: AttributeSpec = AttributeSpec {
    attribute: "read_model",
    on: "a field",
    keys: FIELD,
    repeated: &[],
    elsewhere: &[("the struct", STRUCT)],
};

#[derive(Default)]
struct Keys {
    name: Option<LitStr>,
    version: Option<u32>,
    tag: Option<LitStr>,
    keys: Option<(Ident, Path)>,
    krate: Option<Path>,
}

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let mut keys = Keys::default();
    ON_STRUCT.read(&input.attrs, &mut errors, |entry| {
        match &*entry.name() {
            "name" => keys.name = Some(entry.text("name = \"balance\"", table)?),
            "version" => keys.version = Some(version(&entry.value("version = 2")?)?),
            "tag" => keys.tag = Some(entry.text("tag = \"student\"", plain)?),
            "keys" => keys.keys = Some((entry.key.clone(), entry.value("keys = path::to::function")?)),
            _ => keys.krate = Some(entry.path_to_crate()?),
        }
        Ok(())
    });
    if let (Some(_), Some((key, _))) = (&keys.tag, &keys.keys) {
        errors.at(key, "`keys` and `tag` both say which rows an event concerns: keep one of them");
    }
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            "a read model cannot be generic, since its table is made for one type: write the types out",
        );
    }
    let ident = &input.ident;
    let name = keys.name.as_ref().map_or_else(|| snake_case(&ident.unraw().to_string()), LitStr::value);
    if let (None, Err(reason)) = (&keys.name, table(&name)) {
        errors.at(ident, format!("{reason}: say another, `#[read_model(name = \"…\")]`"));
    }
    refuse_serde(&input.attrs, &mut errors);
    let columns = columns(input, &mut errors);
    let krate = keys.krate.unwrap_or_else(facade);
    let emitted = || {
        let version = keys.version.map(|version| quote!(const VERSION: u32 = #version;));
        let (keys, assertion) = match (&keys.tag, &keys.keys) {
            (Some(tag), _) => (Some(quote!(Tag(#tag))), Some(assert_tagged(tag, ident, &krate))),
            (None, Some((_, function))) => (Some(quote!(By(#function))), None),
            (None, None) => (None, None),
        };
        let keys = keys.map(|keys| {
            quote! {
                const KEYS: #krate::Keys<<Self as #krate::Project>::Event> = #krate::Keys::#keys;
            }
        });
        let columns = columns.iter().map(|Column { name, kind, index, optional, .. }| {
            let kind = Ident::new(kind, Span::call_site());
            quote!(#krate::Column { name: #name, kind: #krate::Kind::#kind, index: #index, optional: #optional })
        });
        quote! {
            #[automatically_derived]
            impl #krate::ReadModel for #ident {
                const NAME: &'static str = #name;
                #version
                #keys
                const COLUMNS: &'static [#krate::Column] = &[#(#columns),*];
            }
            #assertion
        }
    };
    errors.or(emitted, || fallback::read_model(input, &krate))
}

fn version(literal: &LitInt) -> syn::Result<u32> {
    match literal.base10_parse()? {
        0 => Err(syn::Error::new(literal.span(), "versions count from 1")),
        version => Ok(version),
    }
}

/// Returns an assertion that some event has the read model's tag, without which the table would get no rows. It is
/// generic, so that a missing `Project` is reported once.
fn assert_tagged(tag: &LitStr, ident: &Ident, krate: &Path) -> TokenStream {
    let name = tag.value();
    let message = format!(
        "`{ident}` has a row for each tag `{name}`, but no field of its events is tagged so: mark one with `#[event(tag)]`, \
         or with `#[event(tag = \"{name}\")]` if it is no id"
    );
    quote_spanned! {tag.span()=>
        const _: () = {
            const fn __heard<__M: #krate::ReadModel>() -> bool {
                #krate::__private::contains(<<__M as #krate::Project>::Event as #krate::Event>::TAGS, #tag)
            }
            ::core::assert!(__heard::<#ident>(), #message);
        };
    }
}

/// Refuses serde's attributes with which a row would not be an object of its fields under their names.
fn refuse_serde(attributes: &[Attribute], errors: &mut Errors) {
    for SerdeKey { key, .. } in serde_keys(attributes) {
        let Some(name) = key.get_ident().map(Ident::to_string) else { continue };
        let instead = match &*name {
            "rename_all" | "rename_all_fields" => {
                "the columns are named as the fields are: rename a field with `#[serde(rename = \"…\")]` on it"
            }
            "tag" | "content" | "untagged" | "transparent" | "from" | "try_from" | "into" | "remote" => {
                "a row is an object of its fields, one column each: leave it out"
            }
            _ => continue,
        };
        errors.at(&key, format!("`{name}` does not go with a read model: {instead}"));
    }
}

/// The column of a field.
struct Column {
    name: String,
    /// The span of the name.
    span: Span,
    kind: &'static str,
    index: bool,
    optional: bool,
}

fn columns(input: &DeriveInput, errors: &mut Errors) -> Vec<Column> {
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        _ => &Fields::Unit,
    };
    let Fields::Named(fields) = fields else {
        errors.at(&input.ident, "a read model is a struct with named fields, one for each column");
        return vec![];
    };
    let before = errors.count();
    let mut columns = vec![];
    let mut seen = HashMap::new();
    for field in &fields.named {
        let Some(column) = column(field, errors) else { continue };
        // SQLite takes `Owner` and `owner` for one.
        match seen.entry(column.name.to_lowercase()) {
            Entry::Occupied(other) => {
                let message = format!("two columns are called `{}`: `{}` is the other one", column.name, other.get());
                errors.add(syn::Error::new(column.span, message));
            }
            Entry::Vacant(free) => _ = free.insert(field.ident.to_token_stream()),
        }
        columns.push(column);
    }
    if columns.is_empty() && errors.count() == before {
        errors.at(&input.ident, "a read model needs a column: give the struct a field");
    }
    columns
}

/// Returns the column of a field; `None` if an error was added.
fn column(field: &Field, errors: &mut Errors) -> Option<Column> {
    let (mut index, mut named) = (None, None);
    ON_FIELD.read(&field.attrs, errors, |entry| {
        match &*entry.name() {
            "index" => index = Some(entry.flag()?),
            _ => named = Some(named_kind(&entry.value("column = \"bigint\"")?)?),
        }
        Ok(())
    });
    let serde = serde_keys(&field.attrs);
    let refused = serde.iter().find_map(|key| Some((key, refused(key)?)));
    if let Some((key, reason)) = refused {
        errors.at(&key.key, reason);
        return None;
    }
    let ident = field.ident.as_ref()?;
    let rename = serde.iter().find(|key| key.is("rename")).and_then(|key| key.text.as_ref());
    let (name, span) = match rename {
        Some(literal) => (literal.value(), literal.span()),
        None => (ident.unraw().to_string(), ident.span()),
    };
    if let Err(reason) = names::column(&name) {
        errors.add(syn::Error::new(span, reason));
        return None;
    }
    let written_with = serde.iter().find(|key| key.is_one_of(&["with", "serialize_with"]));
    if let (Some(key), None) = (written_with, named) {
        errors.at(
            &key.key,
            "what this writes is not known here: say what the column is, `#[read_model(column = \"text\")]`",
        );
        return None;
    }
    let kind = named.unwrap_or_else(|| kind_of(&field.ty));
    if let (Some(index), "Json") = (&index, kind) {
        let hint = if named.is_some() { "" } else { ", unless you say what it is: `#[read_model(column = \"text\")]`" };
        errors.at(index, format!("a row cannot be looked up by this field, since its column is jsonb{hint}"));
    }
    let optional = matches!(bare(&field.ty), Type::Path(path) if path.path.segments.last().is_some_and(|last| last.ident == "Option"));
    Some(Column { name, span, kind, index: index.is_some(), optional })
}

/// Returns why a column must not have this attribute, if so.
fn refused(key: &SerdeKey) -> Option<&'static str> {
    match &*key.key.get_ident()?.to_string() {
        "flatten" => Some("`flatten` hides which columns there are: write the fields out, or nest them in one column"),
        "skip" | "skip_serializing" | "skip_deserializing" => Some(
            "a row is written and read back between events, and what is skipped is lost then: give the field a column, \
             or work it out from the others in a method",
        ),
        "skip_serializing_if" => Some("every row has every column: leave it out, `None` is stored as null"),
        "rename" if key.split => Some("a column has one name: use `rename = \"…\"`"),
        _ => None,
    }
}

/// The types of columns: the name in PostgreSQL, and the variant of `Kind`.
const KINDS: &[(&str, &str)] = &[
    ("text", "Text"),
    ("bigint", "Integer"),
    ("double precision", "Real"),
    ("boolean", "Bool"),
    ("uuid", "Uuid"),
    ("timestamptz", "Time"),
    ("jsonb", "Json"),
];

/// Returns the variant of `Kind` that `column = "…"` names.
fn named_kind(literal: &LitStr) -> syn::Result<&'static str> {
    let word = literal.value();
    if let Some((_, kind)) = KINDS.iter().find(|(sql, _)| *sql == word) {
        return Ok(kind);
    }
    let known: Vec<_> = KINDS.iter().map(|(sql, _)| *sql).collect();
    let message = match nearest(&word, known.iter().copied()) {
        Some(sql) => format!("no column is a `{word}`: did you mean `{sql}`?"),
        None => format!("no column is a `{word}`: expected {}", one_of(&known)),
    };
    Err(syn::Error::new(literal.span(), message))
}

/// Returns the variant of `Kind` for a field, by the name of its type.
fn kind_of(ty: &Type) -> &'static str {
    let path = match bare(ty) {
        Type::Path(path) => path,
        Type::Reference(reference) => return kind_of(&reference.elem),
        _ => return "Json",
    };
    let Some(last) = path.path.segments.last() else { return "Json" };
    let inner = inner(&last.arguments).map(bare);
    match (&*last.ident.to_string(), inner) {
        ("Option", Some(inner)) => kind_of(inner),
        ("Id", Some(_)) | ("String" | "str" | "char", None) => "Text",
        ("Cow" | "Arc" | "Rc" | "Box", Some(Type::Path(inner))) if inner.path.is_ident("str") => "Text",
        ("i8" | "i16" | "i32" | "i64" | "isize" | "u8" | "u16" | "u32" | "u64" | "usize", None) => "Integer",
        ("f32" | "f64", None) => "Real",
        ("bool", None) => "Bool",
        ("Uuid", None) => "Uuid",
        ("Timestamp", None) => "Time",
        _ => "Json",
    }
}
