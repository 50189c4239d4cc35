//! `#[derive(Aggregate)]`: the name of a state, and the state before its first event.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Field, Fields, LitStr, Path, Type, ext::IdentExt, parse_quote_spanned};

use crate::{
    attr::{AttributeSpec, Errors, facade},
    fallback,
    names::{plain, snake_case},
    snapshot::{self, Snapshot},
};

const TYPE: &[&str] = &["name", "by_tag", "error", "snapshot", "crate"];
const FIELD: &[&str] = &["id"];

const ON_TYPE: AttributeSpec = AttributeSpec {
    attribute: "aggregate",
    on: "the type",
    keys: TYPE,
    repeated: &[],
    elsewhere: &[("a field", FIELD)],
};
const ON_FIELD: AttributeSpec = AttributeSpec {
    attribute: "aggregate",
    on: "a field",
    keys: FIELD,
    repeated: &[],
    elsewhere: &[("the type", TYPE)],
};

#[derive(Default)]
struct Keys {
    name: Option<LitStr>,
    by_tag: Option<Ident>,
    error: Option<Type>,
    snapshot: Option<Snapshot>,
    krate: Option<Path>,
}

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let mut keys = Keys::default();
    ON_TYPE.read(&input.attrs, &mut errors, |entry| {
        match &*entry.name() {
            "name" => keys.name = Some(entry.text("name = \"account\"", plain)?),
            "by_tag" => keys.by_tag = Some(entry.flag()?),
            "error" => keys.error = Some(entry.value("error = AccountError")?),
            "snapshot" => keys.snapshot = Some(Snapshot::read(entry)?),
            _ => keys.krate = Some(entry.path_to_crate()?),
        }
        Ok(())
    });
    let krate = keys.krate.unwrap_or_else(facade);
    let error = keys.error.unwrap_or_else(|| parse_quote_spanned!(input.ident.span()=> #krate::Refusal));
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            "an aggregate cannot be generic, since its name stands for one type: write the types out",
        );
    }
    let name = keys.name.as_ref().map_or_else(|| snake_case(&input.ident.unraw().to_string()), LitStr::value);
    if let (None, Err(reason)) = (&keys.name, plain(&name)) {
        errors.at(&input.ident, format!("{reason}: say another, `#[aggregate(name = \"…\")]`"));
    }
    if keys.snapshot.is_some() {
        snapshot::refuse_skipped(input, "a snapshot", &mut errors);
    }
    let blank = blank(input, &krate, &mut errors);
    let ident = &input.ident;
    let by_tag = keys.by_tag.is_some();
    let emitted = || {
        let says_by_tag = by_tag.then(|| {
            quote!(
                const BY_TAG: bool = true;
            )
        });
        let snapshot = keys.snapshot.as_ref().map(|snapshot| snapshot.emit(input, &krate));
        let assertion = keys.by_tag.as_ref().map(|key| assert_tagged(key, ident, &name, &krate));
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #krate::Aggregate for #ident {
                const NAME: &'static str = #name;
                #says_by_tag
                #snapshot
                type Error = #error;
                #blank
            }
            #assertion
        }
    };
    errors.or(emitted, || fallback::aggregate(input, &krate, by_tag, &error))
}

/// Returns the function `blank`, which makes the state before the first event.
fn blank(input: &DeriveInput, krate: &Path, errors: &mut Errors) -> TokenStream {
    let (id, state) = match &input.data {
        Data::Struct(data) => blank_struct(&data.fields, krate, errors),
        Data::Enum(data) => {
            for attributes in data.variants.iter().flat_map(|v| v.fields.iter().map(|f| &f.attrs).chain([&v.attrs])) {
                if let Some(attribute) = attributes.iter().find(|attribute| attribute.path().is_ident("aggregate")) {
                    errors
                        .at(attribute, "an enum starts as its default, which knows no id: put the enum into a struct");
                }
            }
            let ident = &input.ident;
            (None, quote!(<#ident as #krate::__private::Blank>::blank()))
        }
        Data::Union(data) => {
            errors.at(data.union_token, "an aggregate is a struct or an enum");
            return TokenStream::new();
        }
    };
    let id = if id.is_some() { quote!(__id) } else { quote!(_) };
    quote! {
        fn blank(#id: &#krate::Id<Self>) -> Self {
            #state
        }
    }
}

/// Returns the index of the id's field, and an expression for a struct of the id and of defaults.
fn blank_struct(fields: &Fields, krate: &Path, errors: &mut Errors) -> (Option<usize>, TokenStream) {
    let mut id = None;
    for (index, field) in fields.iter().enumerate() {
        ON_FIELD.read(&field.attrs, errors, |entry| {
            let key = entry.flag()?;
            if id.is_some() {
                return Err(syn::Error::new(key.span(), "an aggregate has one id, and another field is it already"));
            }
            id = Some(index);
            Ok(())
        });
    }
    let values = fields.iter().enumerate().map(|(index, Field { ty, .. })| {
        if id == Some(index) {
            quote!(<#ty as #krate::__private::OwnId<Self>>::own(__id))
        } else {
            quote!(<#ty as #krate::__private::Blank>::blank())
        }
    });
    let members = fields.members();
    (id, quote!(Self { #(#members: #values),* }))
}

/// Returns an assertion that some event has the aggregate's tag, without which the aggregate would get no events. It is
/// generic, so that a missing `Evolve` is reported once.
fn assert_tagged(key: &Ident, ident: &Ident, name: &str, krate: &Path) -> TokenStream {
    let message = format!(
        "`{ident}` is read by tag, but no field of its events is tagged `{name}`: mark one with `#[event(tag)]`"
    );
    quote_spanned! {key.span()=>
        const _: () = {
            const fn __heard<__A: #krate::Aggregate>() -> bool {
                #krate::__private::contains(
                    <<__A as #krate::Evolve>::Event as #krate::Event>::TAGS,
                    <__A as #krate::Aggregate>::NAME,
                )
            }
            ::core::assert!(__heard::<#ident>(), #message);
        };
    }
}
