//! `#[event(tag)]`: whom an event concerns.

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
    names::{check, plain},
    places::ON_FIELD,
    types::{one, some, text, without_self},
};

/// A tag of a field, or of what is in it.
pub(crate) struct Tag<'a> {
    pub member: Member,
    ty: &'a Type,
    /// What the tag is called, if the type of the field does not say it.
    name: Option<LitStr>,
    /// Where it is in the field: `customer.id`; nowhere, if it is the field itself.
    path: Vec<Member>,
}

/// What is said of a tag: its name, or where it is in the field, or both.
enum Said {
    Name(LitStr),
    Path(Vec<Member>),
}

impl Parse for Said {
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
            let said = match entry.has_keys() {
                true => entry.list("tag(\"customer\", address.customer)")?,
                false if entry.has_value() => vec![entry.value("tag = \"course\"")?],
                false => vec![],
            };
            let (mut name, mut path) = (None, vec![]);
            for said in said {
                match said {
                    Said::Name(literal) if name.is_none() && path.is_empty() => {
                        check(&literal, plain)?;
                        name = Some(literal);
                    }
                    Said::Path(members) if path.is_empty() => path = members,
                    Said::Name(literal) => {
                        return Err(Error::new(literal.span(), "expected `tag(\"customer\", address.customer)`"));
                    }
                    Said::Path(members) => {
                        let said = members.first().map_or_else(Span::call_site, Spanned::span);
                        return Err(Error::new(said, "a tag is in one place: say another `tag` for another"));
                    }
                }
            }
            tags.push(Self { member: member.clone(), ty: &field.ty, name, path });
            Ok(())
        });
        tags
    }

    /// What tells it from others. An id, some ids and perhaps an id have one tag.
    pub(crate) fn key(&self) -> String {
        let Self { name, path, .. } = self;
        let inside = path.iter().map(|member| format!(".{}", member.to_token_stream()));
        match name {
            Some(name) => name.to_token_stream().to_string(),
            None => [text(one(self.ty))].into_iter().chain(inside).collect(),
        }
    }

    /// What it is called, for an event of this name.
    pub(crate) fn name(&self, event: &Ident, krate: &Path) -> TokenStream {
        let Self { name, path, .. } = self;
        if let Some(name) = name {
            return name.to_token_stream();
        }
        if path.is_empty() {
            let ty = without_self(self.ty, event);
            return quote!(<#ty as #krate::Tagged>::TAG);
        }
        let ty = without_self(one(self.ty), event);
        quote!(#krate::__private::tag_of(|__field: &#ty| &__field #(.#path)*))
    }

    /// Adds the tags of the field, which is bound to a name.
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

/// Does something for the field, or for each in it.
fn each(ty: &Type, bound: &Ident, push: TokenStream) -> TokenStream {
    match some(ty) {
        Some(inner) => {
            let push = each(inner, bound, push);
            quote!(for #bound in #bound.iter() { #push })
        }
        None => push,
    }
}

fn push_each(name: &LitStr, ty: &Type, bound: &Ident, event: &Ident, krate: &Path) -> TokenStream {
    if let Some(inner) = some(ty) {
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
