//! `#[event(tag)]`: whom an event concerns.

use proc_macro2::{Ident, TokenStream};
use quote::{ToTokens, quote};
use syn::{Field, LitStr, Member, Path, Type};

use crate::{
    attr::Errors,
    names::plain,
    places::ON_FIELD,
    types::{one, some, text, without_self},
};

/// A field that is a tag.
pub(crate) struct Tag<'a> {
    pub member: Member,
    ty: &'a Type,
    /// What the tag is called, if the type of the field does not say it.
    name: Option<LitStr>,
}

impl<'a> Tag<'a> {
    pub(crate) fn read(field: &'a Field, member: Member, errors: &mut Errors) -> Option<Self> {
        let mut tag = None;
        ON_FIELD.read(&field.attrs, errors, |entry| {
            let name = if entry.has_value() { Some(entry.text("tag = \"course\"", plain)?) } else { None };
            tag = Some(Self { member: member.clone(), ty: &field.ty, name });
            Ok(())
        });
        tag
    }

    /// What tells it from others. An id, some ids and perhaps an id have one tag.
    pub(crate) fn key(&self) -> String {
        self.name.as_ref().map_or_else(|| text(one(self.ty)), |name| name.to_token_stream().to_string())
    }

    /// What it is called, for an event of this name.
    pub(crate) fn name(&self, event: &Ident, krate: &Path) -> TokenStream {
        let ty = without_self(self.ty, event);
        self.name.as_ref().map_or_else(|| quote!(<#ty as #krate::Tagged>::TAG), LitStr::to_token_stream)
    }

    /// Adds the tags of the field, which is bound to a name.
    pub(crate) fn push(&self, bound: &Ident, event: &Ident, krate: &Path) -> TokenStream {
        match &self.name {
            Some(name) => push_each(name, self.ty, bound, event, krate),
            None => {
                let ty = without_self(self.ty, event);
                quote!(<#ty as #krate::Tagged>::tag(#bound, &mut __tags);)
            }
        }
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
