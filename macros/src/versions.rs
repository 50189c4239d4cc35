//! `version = 3, upcast(1 => from_v1, 2 => from_v2)`: the earlier forms that are still read.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{
    LitInt, Path, Token,
    parse::{Parse, ParseStream},
};

use crate::types::without_self;

/// The version of the present form, and a function from each earlier form directly to the present one.
pub(crate) struct History {
    pub version: u32,
    pub upcasts: Vec<(u32, Path)>,
}

impl Default for History {
    fn default() -> Self {
        Self { version: 1, upcasts: vec![] }
    }
}

/// An entry of `upcast(…)`: `1 => from_v1`.
pub(crate) struct Upcast {
    from: LitInt,
    function: Path,
}

impl Parse for Upcast {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let from = input.parse()?;
        input.parse::<Token![=>]>()?;
        Ok(Self { from, function: input.parse()? })
    }
}

impl History {
    /// Checks that there is an upcast from every earlier version: otherwise some stored events could not be read.
    pub(crate) fn new(
        event: &Ident,
        version: Option<LitInt>,
        upcasts: Option<(Ident, Vec<Upcast>)>,
    ) -> syn::Result<Self> {
        let Some(literal) = version else {
            let Some((key, upcasts)) = upcasts else { return Ok(Self::default()) };
            let from = upcasts.iter().map(|upcast| number(&upcast.from)).collect::<syn::Result<Vec<_>>>()?;
            let today = from.into_iter().max().unwrap_or(1).saturating_add(1);
            let message = format!("an upcast leads to a later version: say which is today's, `version = {today}`");
            return Err(syn::Error::new(key.span(), message));
        };
        let version = number(&literal)?;
        let said = upcasts.is_some();
        let upcasts = upcasts.map_or_else(Vec::new, |(_, upcasts)| upcasts);
        let upcasts =
            upcasts.into_iter().try_fold(vec![], |mut upcasts: Vec<(u32, Path)>, Upcast { from, function }| {
                let earlier = number(&from)?;
                if earlier >= version {
                    let message =
                        format!("today's version of `{event}` is {version}, so an upcast comes from an earlier one");
                    return Err(syn::Error::new(from.span(), message));
                }
                if upcasts.iter().any(|(other, _)| *other == earlier) {
                    return Err(syn::Error::new(
                        from.span(),
                        format!("there is an upcast from version {earlier} already"),
                    ));
                }
                upcasts.push((earlier, function));
                Ok(upcasts)
            })?;
        // The error names at most nine.
        let missing = (1..version).filter(|earlier| upcasts.iter().all(|(other, _)| other != earlier)).take(9);
        match missing.collect::<Vec<_>>().as_slice() {
            [] => Ok(Self { version, upcasts }),
            missing => Err(syn::Error::new(literal.span(), gap(event, version, missing, said))),
        }
    }
}

/// Returns the constant `__CODEC`, and the functions `encode` and `decode`. The framework's function decodes the
/// present form; earlier forms go through their upcasts.
pub(crate) fn codec(history: &History, ident: &Ident, krate: &Path, today: &str) -> (TokenStream, TokenStream) {
    let arms = history.upcasts.iter().map(|(version, path)| {
        let span = path.segments.last().map_or_else(Span::call_site, |last| last.ident.span());
        let (function, bytes) = (without_self(path, ident), quote!(__bytes));
        quote_spanned!(span=> #version => #function(__private::decode(#bytes)?),)
    });
    let (version, bytes) = (quote!(__version), quote!(__bytes));
    let read = if history.upcasts.is_empty() {
        quote!((__CODEC.1)(#version, #bytes))
    } else {
        quote! {
            ::core::result::Result::Ok(match #version {
                #(#arms)*
                _ => return (__CODEC.1)(#version, #bytes),
            })
        }
    };
    // At this span a missing trait of the type is reported once.
    let today = Ident::new(today, ident.span());
    let constant = quote_spanned!(ident.span()=> const __CODEC: __private::Codec<#ident> = __private::#today(););
    let functions = quote! {
        fn encode(&self) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError> {
            (__CODEC.0)(self)
        }

        fn decode(__version: u32, __bytes: &[u8]) -> ::core::result::Result<Self, #krate::EventError> {
            #read
        }
    };
    (constant, functions)
}

fn gap(event: &Ident, version: u32, missing: &[u32], said: bool) -> String {
    let from = match missing {
        [one] => format!("an upcast from {one}"),
        [some @ .., last] => {
            let some: Vec<_> = some.iter().map(u32::to_string).collect();
            format!("upcasts from {} and {last}", some.join(", "))
        }
        [] => String::new(),
    };
    let entries: Vec<_> = missing.iter().map(|earlier| format!("{earlier} => from_v{earlier}")).collect();
    let entries = entries.join(", ");
    let add = if said { format!("`{entries}` to `upcast`") } else { format!("`upcast({entries})`") };
    format!("version {version} of `{event}` needs {from}: add {add}")
}

/// Parses a version. Stores keep it as a positive `i32`.
fn number(literal: &LitInt) -> syn::Result<u32> {
    match literal.base10_parse::<i32>().ok().and_then(|number| u32::try_from(number).ok()) {
        Some(0) => Err(syn::Error::new(literal.span(), "versions count from 1")),
        Some(number) => Ok(number),
        None => Err(syn::Error::new(literal.span(), format!("a version is a number from 1 to {}", i32::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    /// The versions that have an upcast, or the error.
    fn history(version: Option<LitInt>, upcasts: &[&str]) -> Result<Vec<u32>, String> {
        let parse = |upcast: &&str| syn::parse_str(upcast).expect("it is an upcast");
        let upcasts = (!upcasts.is_empty()).then(|| (parse_quote!(upcast), upcasts.iter().map(parse).collect()));
        let history = History::new(&parse_quote!(Deposited), version, upcasts).map_err(|error| error.to_string())?;
        Ok(history.upcasts.into_iter().map(|(version, _)| version).collect())
    }

    #[test]
    fn every_earlier_version_needs_an_upcast() {
        assert_eq!(history(None, &[]), Ok(vec![]));
        assert_eq!(history(Some(parse_quote!(1)), &[]), Ok(vec![]));
        assert_eq!(history(Some(parse_quote!(3)), &["2 => from_v2", "1 => from_v1"]), Ok(vec![2, 1]));
        let gap = history(Some(parse_quote!(4)), &["2 => from_v2"]).expect_err("versions 1 and 3 could not be read");
        assert!(gap.contains("upcasts from 1 and 3"), "{gap}");
    }

    #[test]
    fn an_upcast_comes_once_from_an_earlier_version() {
        assert!(history(Some(parse_quote!(2)), &["2 => from_v2"]).is_err(), "it is the present version");
        assert!(history(Some(parse_quote!(2)), &["1 => from_v1", "1 => again"]).is_err());
        assert!(history(None, &["1 => from_v1"]).is_err(), "the present version is not named");
        assert!(history(Some(parse_quote!(0)), &[]).is_err());
        assert!(history(Some(parse_quote!(2147483648)), &[]).is_err(), "stores keep an `i32`");
    }

    #[test]
    fn a_version_of_millions_is_an_error_that_ends() {
        let error = history(Some(parse_quote!(2_000_000_000)), &[]).expect_err("all upcasts are missing");
        assert!(error.len() < 500, "{error}");
    }
}
