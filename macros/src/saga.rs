//! `#[derive(Saga)]`: the name of a process, the instances an event concerns, and when an instance is over.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, LitInt, LitStr, Path, ext::IdentExt};

use crate::{
    attr::{AttributeSpec, Entry, Errors, facade},
    fallback,
    names::{nearest, plain, snake_case, table},
    snapshot,
    versions::{History, codec},
};

const TYPE: &[&str] = &["name", "version", "upcast", "tag", "key", "stream", "end", "steps", "from", "crate"];
const VARIANT: &[&str] = &["end"];

const ON_TYPE: AttributeSpec = AttributeSpec {
    attribute: "saga",
    on: "the type",
    keys: TYPE,
    repeated: &[],
    elsewhere: &[("a variant", VARIANT)],
};
const ON_VARIANT: AttributeSpec = AttributeSpec {
    attribute: "saga",
    on: "a variant",
    keys: VARIANT,
    repeated: &[],
    elsewhere: &[("the type", TYPE)],
};

#[derive(Default)]
struct Keys {
    name: Option<LitStr>,
    version: Option<LitInt>,
    upcasts: Option<(Ident, Vec<crate::versions::Upcast>)>,
    /// The key that says which instances an event concerns, and its value for `KEYS`.
    instances: Option<(Ident, TokenStream)>,
    tag: Option<LitStr>,
    end: Option<(Ident, Path)>,
    steps: Option<Ident>,
    from: Option<TokenStream>,
    krate: Option<Path>,
}

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let mut keys = Keys::default();
    let unreadable = errors.count();
    ON_TYPE.read(&input.attrs, &mut errors, |entry| keys.take(entry));
    let readable = errors.count() == unreadable;
    let krate = keys.krate.clone().unwrap_or_else(facade);
    if !input.generics.params.is_empty() {
        errors.at(&input.generics, "a saga cannot be generic, since its name stands for one type: write the types out");
    }
    let ident = &input.ident;
    let name = keys.name.as_ref().map_or_else(|| snake_case(&ident.unraw().to_string()), LitStr::value);
    if let (None, Err(reason)) = (&keys.name, table(&name)) {
        errors.at(ident, format!("{reason}: say another, `#[saga(name = \"…\")]`"));
    }
    let history =
        if readable { errors.take(History::new(ident, keys.version.take(), keys.upcasts.take())) } else { None };
    let over = over(input, &keys, &mut errors);
    snapshot::refuse_skipped(input, "the row of a saga", &mut errors);
    let emitted = || keys.emit(ident, &krate, &name, &history.unwrap_or_default(), over.as_ref());
    errors.or(emitted, || fallback::saga(input, &krate))
}

impl Keys {
    fn take(&mut self, entry: &Entry<'_>) -> syn::Result<()> {
        match &*entry.name() {
            "name" => self.name = Some(entry.text("name = \"money_transfer\"", table)?),
            "version" => self.version = Some(entry.value("version = 2")?),
            "upcast" => self.upcasts = Some((entry.key.clone(), entry.list("upcast(1 => from_v1)")?)),
            "tag" => {
                let tag = entry.text("tag = \"order\"", plain)?;
                self.instances(entry, quote!(Tag(#tag)))?;
                self.tag = Some(tag);
            }
            "key" => {
                let function: Path = entry.value("key = path::to::function")?;
                self.instances(entry, quote!(By(#function)))?;
            }
            "stream" => {
                entry.flag()?;
                self.instances(entry, quote!(Stream))?;
            }
            "end" if entry.has_value() => {
                self.end = Some((entry.key.clone(), entry.value("end = path::to::function")?))
            }
            "end" => {
                let message =
                    "say which states are over: `#[saga(end)]` on variants of an enum, or `end = path::to::function`";
                return Err(syn::Error::new(entry.key.span(), message));
            }
            "steps" => self.steps = Some(entry.flag()?),
            "from" => self.from = Some(start(&entry.value("from = \"now\"")?)?),
            _ => self.krate = Some(entry.path_to_crate()?),
        }
        Ok(())
    }

    fn instances(&mut self, entry: &Entry<'_>, instances: TokenStream) -> syn::Result<()> {
        if let Some((other, _)) = &self.instances {
            let message =
                format!("`{}` and `{other}` both say which instance an event concerns: keep one of them", entry.key);
            return Err(syn::Error::new(entry.key.span(), message));
        }
        self.instances = Some((entry.key.clone(), instances));
        Ok(())
    }

    fn emit(
        &self,
        ident: &Ident,
        krate: &Path,
        name: &str,
        history: &History,
        over: Option<&TokenStream>,
    ) -> TokenStream {
        let version = (history.version > 1).then(|| {
            let version = history.version;
            quote!(const VERSION: u32 = #version;)
        });
        let from = self.from.as_ref().map(|from| {
            quote! {
                const FROM: ::core::option::Option<#krate::StartFrom> = ::core::option::Option::Some(#krate::StartFrom::#from);
            }
        });
        let instances = self.instances.as_ref().map(|(_, instances)| {
            quote! {
                const KEYS: #krate::Instances<#krate::EventOf<Self>> = #krate::Instances::#instances;
            }
        });
        let process = match &self.steps {
            Some(steps) => quote_spanned!(steps.span()=> #krate::Stepping<Self>),
            None => quote_spanned!(ident.span()=> #krate::Reacting<Self>),
        };
        let over = over.map(|over| {
            quote! {
                fn is_over(&self) -> bool {
                    #over
                }
            }
        });
        let (constant, codec) = codec(history, ident, krate, "state_codec");
        let assertion = self.tag.as_ref().map(|tag| assert_tagged(tag, ident, krate));
        let no_react = self.steps.as_ref().map(|steps| assert_no_react(steps, ident, krate));
        quote! {
            #[doc(hidden)]
            #[allow(deprecated)]
            const _: () = {
                use #krate::__private;
                #constant

                #[automatically_derived]
                impl #krate::Saga for #ident {
                    const NAME: &'static str = #name;
                    #version
                    #from
                    type Process = #process;
                    #instances
                    #over
                    #codec
                }
            };
            #assertion
            #no_react
        }
    }
}

/// Returns the variant of `Start` that `from = "…"` names.
fn start(literal: &LitStr) -> syn::Result<TokenStream> {
    let word = literal.value();
    match &*word {
        "beginning" => Ok(quote!(Beginning)),
        "now" => Ok(quote!(Now)),
        _ => {
            let message = match nearest(&word, ["beginning", "now"]) {
                Some(meant) => format!("a saga cannot begin at `{word}`: did you mean `{meant}`?"),
                None => format!("a saga cannot begin at `{word}`: expected `beginning` or `now`"),
            };
            Err(syn::Error::new(literal.span(), message))
        }
    }
}

/// Returns an expression for whether an instance is over, if the attributes say it.
fn over(input: &DeriveInput, keys: &Keys, errors: &mut Errors) -> Option<TokenStream> {
    let mut ends: Vec<(Ident, &Ident)> = vec![];
    match &input.data {
        Data::Enum(data) => {
            for variant in &data.variants {
                ON_VARIANT.read(&variant.attrs, errors, |entry| {
                    ends.push((entry.flag()?, &variant.ident));
                    Ok(())
                });
            }
        }
        Data::Struct(_) => {}
        Data::Union(data) => {
            errors.at(data.union_token, "the state of a saga is a struct or an enum");
            return None;
        }
    }
    let said = ends.first().map(|(key, _)| key).or(keys.end.as_ref().map(|(key, _)| key));
    if let (Some(key), Some(_)) = (said, &keys.steps) {
        errors.at(key, "a saga with steps is over when its steps are: leave `end` out");
        return None;
    }
    match (&keys.end, &ends[..]) {
        (Some((key, _)), [_, ..]) => {
            errors.at(key, "variants say already which states are over: keep one of the two");
            None
        }
        (Some((_, function)), []) => Some(quote!(#function(self))),
        (None, []) => None,
        (None, ends) => {
            let variants = ends.iter().map(|(_, variant)| variant);
            Some(quote!(::core::matches!(self, #(Self::#variants { .. })|*)))
        }
    }
}

/// Returns an assertion that some event has the saga's tag, without which it would get no events. It is generic, so
/// that a missing trait is reported once.
fn assert_tagged(tag: &LitStr, ident: &Ident, krate: &Path) -> TokenStream {
    let name = tag.value();
    let message = format!(
        "`{ident}` has an instance for each tag `{name}`, but no field of its events is tagged so: mark one with \
         `#[event(tag)]`, or with `#[event(tag = \"{name}\")]` if it is no id"
    );
    quote_spanned! {tag.span()=>
        const _: () = {
            const fn __heard<__S: #krate::Saga>() -> bool {
                #krate::__private::contains(<#krate::EventOf<__S> as #krate::Event>::TAGS, #tag)
            }
            ::core::assert!(__heard::<#ident>(), #message);
        };
    }
}

/// Returns an assertion that a saga with steps does not implement `React` as well. Rust prefers an associated constant
/// of a type to one of a trait, and the type has one only if the saga implements `React`.
fn assert_no_react(steps: &Ident, ident: &Ident, krate: &Path) -> TokenStream {
    let message = format!("`{ident}` declares steps, so its `React` is never asked: remove one of the two");
    quote_spanned! {steps.span()=>
        #[allow(dead_code)]
        const _: () = {
            struct __Saga<__S>(::core::marker::PhantomData<__S>);
            trait __Steps {
                const REACTS: bool = false;
            }
            impl<__S> __Steps for __Saga<__S> {}
            impl<__S: #krate::React> __Saga<__S> {
                const REACTS: bool = true;
            }
            ::core::assert!(!__Saga::<#ident>::REACTS, #message);
        };
    }
}
