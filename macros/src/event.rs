//! `#[derive(Event)]`: the names, tags and codec of an enum of events.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, LitStr, Member};

use crate::{
    attr::{Errors, facade, refuse_serde},
    body, fallback,
    shape::{Event, Keys, Variant},
    tags::Tag,
    transparent,
    types::binding,
    versions::History,
};

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let keys = Keys::read(&input.attrs, &mut errors);
    let krate = keys.krate.clone().unwrap_or_else(facade);
    refuse_serde(&input.attrs, "enum", &mut errors);
    if !input.generics.params.is_empty() {
        errors
            .at(&input.generics, "an event cannot be generic, since what is stored has one form: write the types out");
    }
    let fallback = || fallback::event(input, &krate);
    let data = match &input.data {
        Data::Enum(data) if data.variants.is_empty() => {
            errors.at(&input.ident, "nothing can happen: give the enum a variant for each kind of event");
            return errors.or(TokenStream::new, fallback);
        }
        Data::Enum(data) => data,
        _ => {
            let message = "only an enum can be an event: one variant for each kind of thing that can happen, \
                           `enum AccountEvent { Opened { owner: String }, Closed }`";
            errors.at(&input.ident, message);
            return errors.or(TokenStream::new, fallback);
        }
    };
    if keys.transparent {
        return transparent::derive(input, data, &keys.others, &krate, errors);
    }
    let event = Event::read(input, data, &keys, krate.clone(), &mut errors);
    errors.or(|| event.emit(), fallback)
}

impl Event<'_> {
    fn emit(&self) -> TokenStream {
        let Self { ident, krate, variants, retired, others, .. } = self;
        let others = (!others.is_empty()).then(|| {
            quote! {
                const OTHERS: &'static [&'static [&'static str]] = &[#(<#others as #krate::Event>::NAMES),*];
            }
        });
        let names = variants.iter().flat_map(Variant::names).chain(retired.iter().map(LitStr::value));
        let written = |variant: &Variant<'_>| std::iter::repeat_n(variant.history.version, variant.names().len());
        let schemas = variants.iter().flat_map(written).chain(retired.iter().map(|_| 0));
        let name = variants.iter().map(|Variant { ident, name: (name, _), .. }| quote!(Self::#ident { .. } => #name));
        let schema = self.schema();
        let tags = self.tags();
        let stored = body::Codec::new(self);
        let codec = stored.codec();
        let message = self.topic.as_ref().map(|topic| {
            quote! {
                #[automatically_derived]
                impl #krate::Message for #ident {
                    const TOPIC: &'static str = #topic;
                }
            }
        });
        quote! {
            #[doc(hidden)]
            #[allow(
                deprecated,
                non_camel_case_types,
                non_snake_case,
                unused_lifetimes,
                unused_qualifications,
                clippy::all,
                clippy::pedantic,
            )]
            const _: () = {
                use #krate::__private;
                #codec
                #message

                #[automatically_derived]
                impl #krate::Event for #ident {
                    const NAMES: &'static [&'static str] = &[#(#names),*];
                    const SCHEMAS: &'static [u32] = &[#(#schemas),*];
                    #others

                    fn name(&self) -> &'static str {
                        match self {
                            #(#name,)*
                        }
                    }

                    #schema
                    #tags

                    fn encode(&self) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError> {
                        (__CODEC.0)(self)
                    }

                    fn decode(
                        __name: &str,
                        __schema: u32,
                        __body: &[u8],
                        __push: &mut dyn ::core::ops::FnMut(Self),
                    ) -> ::core::result::Result<(), #krate::EventError> {
                        (__CODEC.1)(__name, __schema, __body, __push)
                    }
                }
            };
        }
    }

    fn schema(&self) -> Option<TokenStream> {
        let raised: Vec<_> = self.variants.iter().filter(|variant| variant.history.version > 1).collect();
        if raised.is_empty() {
            return None;
        }
        let arms = raised
            .iter()
            .map(|Variant { ident, history: History { version, .. }, .. }| quote!(Self::#ident { .. } => #version,));
        let others = (raised.len() < self.variants.len()).then(|| quote!(_ => 1,));
        Some(quote! {
            fn schema(&self) -> u32 {
                match self {
                    #(#arms)*
                    #others
                }
            }
        })
    }

    /// Returns `TAGS` and `tags`, if a field is tagged.
    fn tags(&self) -> Option<TokenStream> {
        let Self { ident: event, krate, variants, .. } = self;
        let tagged: Vec<_> = variants.iter().filter(|variant| !variant.tags.is_empty()).collect();
        if tagged.is_empty() {
            return None;
        }
        let mut all: Vec<&Tag<'_>> = vec![];
        for tag in tagged.iter().flat_map(|variant| &variant.tags) {
            if all.iter().all(|other| other.key() != tag.key()) {
                all.push(tag);
            }
        }
        let names = all.iter().map(|tag| tag.name(event, krate));
        let arms = tagged.iter().map(|Variant { ident, tags, .. }| {
            // A field with several tags is bound once.
            let mut members: Vec<&Member> = tags.iter().map(|tag| &tag.member).collect();
            members.dedup();
            let bindings: Vec<_> = (0..members.len()).map(binding).collect();
            let bound = |tag: &Tag<'_>| members.iter().position(|member| **member == tag.member).unwrap_or_default();
            let pushes = tags.iter().map(|tag| tag.push(&bindings[bound(tag)], event, krate));
            quote!(Self::#ident { #(#members: #bindings,)* .. } => { #(#pushes)* })
        });
        let others = (tagged.len() < variants.len()).then(|| quote!(_ => {}));
        Some(quote! {
            const TAGS: &'static [&'static str] = &[#(#names),*];

            fn tags(&self) -> ::std::vec::Vec<#krate::Tag> {
                let mut __tags = ::std::vec::Vec::new();
                match self {
                    #(#arms)*
                    #others
                }
                __tags
            }
        })
    }
}
