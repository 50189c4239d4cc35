//! `#[event(transparent)]`: an enum of other events, which delegates to them.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Attribute, DataEnum, DeriveInput, Fields, FieldsUnnamed, Path, Type};

use crate::{
    attr::{Errors, refuse_serde, serde_keys},
    fallback,
    types::{span_of, text},
};

/// The event that a variant holds.
struct InnerEvent<'a> {
    ident: &'a Ident,
    ty: &'a Type,
}

pub(crate) fn derive(
    input: &DeriveInput,
    data: &DataEnum,
    others: &[Path],
    krate: &Path,
    mut errors: Errors,
) -> TokenStream {
    let mut inner: Vec<InnerEvent<'_>> = vec![];
    for variant in &data.variants {
        let Some(found) = read_variant(variant, &mut errors) else { continue };
        match inner.iter().find(|other| text(other.ty) == text(found.ty)) {
            Some(InnerEvent { ident, .. }) => {
                errors.at(found.ty, format!("`{ident}` holds these events already: remove `{}`", found.ident));
            }
            None => inner.push(found),
        }
    }
    let mut emitted = errors.or(|| emit(&input.ident, &inner, others, krate), || fallback::event(input, krate));
    if input.generics.params.is_empty() {
        emitted.extend(impl_from(&input.ident, &inner));
    }
    emitted
}

fn read_variant<'a>(variant: &'a syn::Variant, errors: &mut Errors) -> Option<InnerEvent<'a>> {
    let ident = &variant.ident;
    refuse_event(&variant.attrs, errors);
    refuse_serde(&variant.attrs, "variant", errors);
    for field in &variant.fields {
        refuse_event(&field.attrs, errors);
        for key in serde_keys(&field.attrs) {
            errors.at(&key.key, "a transparent event is stored as the event inside: leave this out");
        }
    }
    match &variant.fields {
        Fields::Unnamed(FieldsUnnamed { unnamed, .. }) if unnamed.len() == 1 => {
            Some(InnerEvent { ident, ty: &unnamed[0].ty })
        }
        _ => {
            errors.at(
                ident,
                format!("each variant of a transparent event holds one other event: `{ident}({ident}Event)`"),
            );
            None
        }
    }
}

fn refuse_event(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
        errors.at(attribute, "a transparent event passes on what the event inside says: put this there");
    }
}

fn emit(event: &Ident, inner: &[InnerEvent<'_>], others: &[Path], krate: &Path) -> TokenStream {
    let types: Vec<_> = inner.iter().map(|event| event.ty).collect();
    let idents: Vec<_> = inner.iter().map(|event| event.ident).collect();
    let all = |what: TokenStream, ty: TokenStream, blank: TokenStream| {
        quote! {
            &{
                const __PARTS: &[&[#ty]] = &[#(<#types as #krate::Event>::#what),*];
                #krate::__private::concat::<#ty, { 0 #(+ <#types as #krate::Event>::#what.len())* }>(#blank, __PARTS)
            }
        }
    };
    let text = |what| all(what, quote!(&str), quote!(""));
    let (names, tags, schemas) =
        (text(quote!(NAMES)), text(quote!(TAGS)), all(quote!(SCHEMAS), quote!(u32), quote!(1)));
    let others = quote! {
        &{
            const __PARTS: &[&[&[&str]]] = &[
                #(<#types as #krate::Event>::OTHERS,)*
                #(&[<#others as #krate::Event>::NAMES],)*
            ];
            #krate::__private::concat::<&[&str], {
                0 #(+ <#types as #krate::Event>::OTHERS.len())* #(+ { let _ = <#others as #krate::Event>::NAMES; 1 })*
            }>(&[], __PARTS)
        }
    };
    let assertions = assert_distinct_names(event, inner, krate);
    quote! {
        #[automatically_derived]
            #[allow(deprecated)]
        impl #krate::Event for #event {
            const NAMES: &'static [&'static str] = #names;
            const SCHEMAS: &'static [u32] = #schemas;
            const TAGS: &'static [&'static str] = #tags;
            const OTHERS: &'static [&'static [&'static str]] = #others;

            fn name(&self) -> &'static str {
                match self {
                    #(Self::#idents(__event) => <#types as #krate::Event>::name(__event),)*
                }
            }

            fn schema(&self) -> u32 {
                match self {
                    #(Self::#idents(__event) => <#types as #krate::Event>::schema(__event),)*
                }
            }

            fn tags(&self) -> ::std::vec::Vec<#krate::Tag> {
                match self {
                    #(Self::#idents(__event) => <#types as #krate::Event>::tags(__event),)*
                }
            }

            fn encode(&self) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError> {
                match self {
                    #(Self::#idents(__event) => <#types as #krate::Event>::encode(__event),)*
                }
            }

            fn decode(
                __name: &str,
                __schema: u32,
                __body: &[u8],
                __push: &mut dyn ::core::ops::FnMut(Self),
            ) -> ::core::result::Result<(), #krate::EventError> {
                #(
                    if #krate::__private::contains(<#types as #krate::Event>::NAMES, __name) {
                        return <#types as #krate::Event>::decode(__name, __schema, __body, &mut |__event| {
                            __push(Self::#idents(__event))
                        });
                    }
                )*
                ::core::result::Result::Err(#krate::EventError::Name(
                    ::core::convert::From::from(__name),
                    ::core::any::type_name::<Self>(),
                ))
            }
        }
        #assertions
    }
}

/// Returns an impl of `From` for each inner event.
fn impl_from(event: &Ident, inner: &[InnerEvent<'_>]) -> TokenStream {
    let impls = inner.iter().map(|InnerEvent { ident, ty }| {
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl ::core::convert::From<#ty> for #event {
                fn from(__event: #ty) -> Self {
                    Self::#ident(__event)
                }
            }
        }
    });
    impls.collect()
}

/// Returns assertions that no two inner events have names in common. The error names the two variants.
fn assert_distinct_names(event: &Ident, inner: &[InnerEvent<'_>], krate: &Path) -> TokenStream {
    let pairs = inner.iter().enumerate().flat_map(|(n, second)| inner[..n].iter().map(move |first| (first, second)));
    let checks = pairs.map(|(InnerEvent { ident: a, ty: first }, InnerEvent { ident: b, ty: second })| {
        let message = format!(
            "an event in `{b}` is stored under the same name as one in `{a}`, so `{event}` cannot tell them apart: give \
             one of the two enums another prefix, `#[event(prefix = \"…\")]`"
        );
        quote_spanned! {span_of(second)=>
            const _: () = ::core::assert!(
                #krate::__private::distinct(&#krate::__private::concat::<
                    &str,
                    { <#first as #krate::Event>::NAMES.len() + <#second as #krate::Event>::NAMES.len() },
                >("", &[<#first as #krate::Event>::NAMES, <#second as #krate::Event>::NAMES])),
                #message,
            );
        }
    });
    checks.collect()
}
