//! What can be told about a type by the way it is written, and what a field is bound to.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::{GenericArgument, PathArguments, Type};

/// `T` in `<T>` and in `<'a, T>`.
pub(crate) fn inner(arguments: &PathArguments) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = arguments else { return None };
    let mut types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    match (types.next(), types.next()) {
        (Some(inner), None) => Some(inner),
        _ => None,
    }
}

/// The type without parentheses, and without those that cannot be seen around a type that comes out of a macro.
pub(crate) fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        _ => ty,
    }
}

/// `T` in `Option<T>` and `Vec<T>`.
pub(crate) fn some(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = bare(ty) else { return None };
    let last = path.path.segments.last()?;
    if last.ident == "Option" || last.ident == "Vec" { inner(&last.arguments) } else { None }
}

/// `T` in `T`, `Option<T>`, `Vec<T>`, `Option<Vec<T>>`.
pub(crate) fn one(ty: &Type) -> &Type {
    some(ty).map_or(bare(ty), one)
}

/// The type as it is written, to be compared.
pub(crate) fn text(ty: &Type) -> String {
    bare(ty).to_token_stream().to_string()
}

/// The tokens, saying `AccountEvent` where they said `Self`: for use where `Self` is something else.
pub(crate) fn without_self(tokens: impl ToTokens, ident: &Ident) -> TokenStream {
    let replace = |token| match token {
        TokenTree::Ident(word) if word == "Self" => {
            let mut ident = ident.clone();
            ident.set_span(word.span());
            TokenTree::Ident(ident)
        }
        TokenTree::Group(group) => {
            let mut replaced = Group::new(group.delimiter(), without_self(group.stream(), ident));
            replaced.set_span(group.span());
            TokenTree::Group(replaced)
        }
        other => other,
    };
    tokens.into_token_stream().into_iter().map(replace).collect()
}

/// The span that shows best which type is meant: `Money` in `crate::money::Money`.
///
/// It may come from another macro, where our variables are not known: they go into `quote_spanned!` as `#variable`.
pub(crate) fn span_of(ty: &Type) -> Span {
    match bare(ty) {
        Type::Path(path) => path.path.segments.last().map_or_else(Span::call_site, |last| last.ident.span()),
        other => other.to_token_stream().into_iter().next().map_or_else(Span::call_site, |first| first.span()),
    }
}

/// What a field is bound to.
pub(crate) fn place(n: usize) -> Ident {
    format_ident!("__f{n}")
}
