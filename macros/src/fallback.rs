//! The impls that derives emit beside their errors, so that one mistake gives one error. They do nothing.
//!
//! Their bounds are assumed (see `assumed` in `body.rs`), so a missing trait is reported once the mistake is mended.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Generics, Path, Type, parse_quote};

/// Returns the generics with these bounds on `Self` assumed.
fn assuming(input: &DeriveInput, bounds: &TokenStream) -> Generics {
    let mut generics = input.generics.clone();
    generics.make_where_clause().predicates.push(parse_quote!(for<'__any> Self: #bounds));
    generics
}

pub(crate) fn event(input: &DeriveInput, krate: &Path) -> TokenStream {
    let generics =
        assuming(input, &quote!(::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static));
    let (name, (parameters, arguments, assumed)) = (&input.ident, generics.split_for_impl());
    quote! {
        #[automatically_derived]
        #[allow(unused_lifetimes)]
        impl #parameters #krate::Event for #name #arguments #assumed {
            const NAMES: &'static [&'static str] = &[];
            fn name(&self) -> &'static str {
                ::core::unreachable!()
            }
            fn encode(&self) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError> {
                ::core::unreachable!()
            }
            fn decode(
                _: &str,
                _: u32,
                _: &[u8],
                _: &mut dyn ::core::ops::FnMut(Self),
            ) -> ::core::result::Result<(), #krate::EventError> {
                ::core::unreachable!()
            }
        }
    }
}

pub(crate) fn aggregate(input: &DeriveInput, krate: &Path, by_tag: bool, error: &Type) -> TokenStream {
    let generics = assuming(input, &quote!(#krate::Evolve));
    let (name, (parameters, arguments, assumed)) = (&input.ident, generics.split_for_impl());
    quote! {
        #[automatically_derived]
        #[allow(unused_lifetimes)]
        impl #parameters #krate::Aggregate for #name #arguments #assumed {
            const NAME: &'static str = "";
            const BY_TAG: bool = #by_tag;
            type Error = #error;
            fn blank(_: &#krate::Id<Self>) -> Self {
                ::core::unreachable!()
            }
        }
    }
}

pub(crate) fn read_model(input: &DeriveInput, krate: &Path) -> TokenStream {
    let generics = assuming(input, &quote!(#krate::Project));
    let (name, (parameters, arguments, assumed)) = (&input.ident, generics.split_for_impl());
    quote! {
        #[automatically_derived]
        #[allow(unused_lifetimes)]
        impl #parameters #krate::ReadModel for #name #arguments #assumed {
            const NAME: &'static str = "";
            const COLUMNS: &'static [#krate::Column] = &[];
        }
    }
}

pub(crate) fn saga(input: &DeriveInput, krate: &Path) -> TokenStream {
    let bounds = quote!(::core::clone::Clone + ::core::marker::Send + ::core::marker::Sync + 'static);
    let generics = assuming(input, &bounds);
    let (name, (parameters, arguments, assumed)) = (&input.ident, generics.split_for_impl());
    let codec = unreachable_codec(krate);
    quote! {
        #[automatically_derived]
        #[allow(unused_lifetimes)]
        impl #parameters #krate::Saga for #name #arguments #assumed {
            const NAME: &'static str = "";
            type Process = #krate::process::Stateless<#krate::__private::Nothing>;
            #codec
        }
    }
}

pub(crate) fn command(input: &DeriveInput, krate: &Path) -> TokenStream {
    let bounds = quote! {
        ::core::clone::Clone
            + ::core::fmt::Debug
            + ::core::cmp::PartialEq
            + ::core::marker::Send
            + ::core::marker::Sync
            + 'static
    };
    let generics = assuming(input, &bounds);
    let (name, (parameters, arguments, assumed)) = (&input.ident, generics.split_for_impl());
    let codec = unreachable_codec(krate);
    quote! {
        #[automatically_derived]
        #[allow(unused_lifetimes)]
        impl #parameters #krate::Command for #name #arguments #assumed {
            const NAME: &'static str = "";
            #codec
        }
    }
}

fn unreachable_codec(krate: &Path) -> TokenStream {
    quote! {
        fn encode(&self) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError> {
            ::core::unreachable!()
        }
        fn decode(_: u32, _: &[u8]) -> ::core::result::Result<Self, #krate::EventError> {
            ::core::unreachable!()
        }
    }
}
