//! What the tokens of a type say about it, and the variables that fields are bound to.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::{GenericArgument, PathArguments, Type};

/// Returns `T` of `<T>` and of `<'a, T>`.
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

/// Returns the type without parentheses, and without the invisible group around a type that a macro wrote.
pub(crate) fn bare(ty: &Type) -> &Type {
    match ty {
        Type::Group(group) => bare(&group.elem),
        Type::Paren(paren) => bare(&paren.elem),
        _ => ty,
    }
}

/// Returns `T` of `Option<T>` and `Vec<T>`.
pub(crate) fn item_type(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = bare(ty) else { return None };
    let last = path.path.segments.last()?;
    if last.ident == "Option" || last.ident == "Vec" { inner(&last.arguments) } else { None }
}

/// Returns `T` of `T`, `Option<T>`, `Vec<T>`, `Option<Vec<T>>`.
pub(crate) fn innermost_type(ty: &Type) -> &Type {
    item_type(ty).map_or(bare(ty), innermost_type)
}

/// Returns the tokens of the type as text, for comparison.
pub(crate) fn text(ty: &Type) -> String {
    bare(ty).to_token_stream().to_string()
}

/// Replaces `Self` by the name of the enum, for code in which `Self` is another type.
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

/// Returns the span for errors about a type: that of `Money` in `crate::money::Money`.
///
/// The span may come from another macro, in which the variables of this crate are unknown. So they go into
/// `quote_spanned!` as `#variable`.
pub(crate) fn span_of(ty: &Type) -> Span {
    match bare(ty) {
        Type::Path(path) => path.path.segments.last().map_or_else(Span::call_site, |last| last.ident.span()),
        other => other.to_token_stream().into_iter().next().map_or_else(Span::call_site, |first| first.span()),
    }
}

/// Returns the variable that a field is bound to.
pub(crate) fn binding(n: usize) -> Ident {
    format_ident!("__f{n}")
}
