//! `#[event(tag)]`: the tags of an event, which say whom it concerns.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{
    Error, Field, LitStr, Member, Path, Token, Type,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    spanned::Spanned,
};

use crate::{
    attr::Errors,
    event_attributes::ON_FIELD,
    names::{check, plain},
    types::{innermost_type, item_type, text, without_self},
};

/// A tag for a field, or for a part of it.
pub(crate) struct Tag<'a> {
    pub member: Member,
    ty: &'a Type,
    /// The name of the tag, if the attribute says it; else the type of the field does.
    name: Option<LitStr>,
    /// The path of the tagged part in the field, `customer.id`; empty for the field itself.
    path: Vec<Member>,
}

/// An argument of `tag(…)`: the name of the tag, or the path of the tagged part in the field.
enum TagArgument {
    Name(LitStr),
    Path(Vec<Member>),
}

impl Parse for TagArgument {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(LitStr) {
            return input.parse().map(Self::Name);
        }
        let path = Punctuated::<Member, Token![.]>::parse_separated_nonempty(input)?;
        Ok(Self::Path(path.into_iter().collect()))
    }
}

impl<'a> Tag<'a> {
    pub(crate) fn read(field: &'a Field, member: &Member, errors: &mut Errors) -> Vec<Self> {
        let mut tags = vec![];
        ON_FIELD.read(&field.attrs, errors, |entry| {
            let arguments = match entry.has_keys() {
                true => entry.list("tag(\"customer\", address.customer)")?,
                false if entry.has_value() => vec![entry.value("tag = \"course\"")?],
                false => vec![],
            };
            let (mut name, mut path) = (None, vec![]);
            for argument in arguments {
                match argument {
                    TagArgument::Name(literal) if name.is_none() && path.is_empty() => {
                        check(&literal, plain)?;
                        name = Some(literal);
                    }
                    TagArgument::Path(members) if path.is_empty() => path = members,
                    TagArgument::Name(literal) => {
                        return Err(Error::new(literal.span(), "expected `tag(\"customer\", address.customer)`"));
                    }
                    TagArgument::Path(members) => {
                        let span = members.first().map_or_else(Span::call_site, Spanned::span);
                        return Err(Error::new(span, "a tag is in one place: say another `tag` for another"));
                    }
                }
            }
            tags.push(Self { member: member.clone(), ty: &field.ty, name, path });
            Ok(())
        });
        tags
    }

    /// Returns what tells tags apart. An `Id`, an `Option` of one and a `Vec` of them have the same tag.
    pub(crate) fn key(&self) -> String {
        let Self { name, path, .. } = self;
        let inside = path.iter().map(|member| format!(".{}", member.to_token_stream()));
        match name {
            Some(name) => name.to_token_stream().to_string(),
            None => [text(innermost_type(self.ty))].into_iter().chain(inside).collect(),
        }
    }

    /// Returns an expression for the name of the tag; `event` stands for `Self`.
    pub(crate) fn name(&self, event: &Ident, krate: &Path) -> TokenStream {
        let Self { name, path, .. } = self;
        if let Some(name) = name {
            return name.to_token_stream();
        }
        if path.is_empty() {
            let ty = without_self(self.ty, event);
            return quote!(<#ty as #krate::Tagged>::TAG);
        }
        let ty = without_self(innermost_type(self.ty), event);
        quote!(#krate::__private::tag_of(|__field: &#ty| &__field #(.#path)*))
    }

    /// Returns statements that add the tags of the field, which is `bound` to a variable.
    pub(crate) fn push(&self, bound: &Ident, event: &Ident, krate: &Path) -> TokenStream {
        match (&self.name, &self.path[..]) {
            (Some(name), []) => push_each(name, self.ty, bound, event, krate),
            (None, []) => {
                let ty = without_self(self.ty, event);
                quote!(<#ty as #krate::Tagged>::tag(#bound, &mut __tags);)
            }
            (name, path) => {
                let push = match name {
                    Some(name) => quote! {
                        __tags.push(#krate::Tag {
                            name: ::std::borrow::Cow::Borrowed(#name),
                            key: #krate::__private::TagKey::tag_key(&#bound #(.#path)*),
                        });
                    },
                    None => quote!(#krate::Tagged::tag(&#bound #(.#path)*, &mut __tags);),
                };
                each(self.ty, bound, push)
            }
        }
    }
}

/// Runs a statement for the field, or for each item in it.
fn each(ty: &Type, bound: &Ident, push: TokenStream) -> TokenStream {
    match item_type(ty) {
        Some(inner) => {
            let push = each(inner, bound, push);
            quote!(for #bound in #bound.iter() { #push })
        }
        None => push,
    }
}

fn push_each(name: &LitStr, ty: &Type, bound: &Ident, event: &Ident, krate: &Path) -> TokenStream {
    if let Some(inner) = item_type(ty) {
        let push = push_each(name, inner, bound, event, krate);
        return quote!(for #bound in #bound.iter() { #push });
    }
    let ty = without_self(ty, event);
    quote! {
        __tags.push(#krate::Tag {
            name: ::std::borrow::Cow::Borrowed(#name),
            key: <#ty as #krate::__private::TagKey>::tag_key(#bound),
        });
    }
}
