//! Encodes and decodes events, through generated types that mirror the enum and derive serde's traits.
//!
//! The enum itself needs no serde, so attributes for other uses do not affect its stored form. A field that cannot be
//! stored would be reported wherever a generated type uses it. So the generated types and functions assume that it can
//! (see [`assumed`]), and a chain of functions discharges the assumptions one by one, each at the span of its type.
//! That gives one error for each type.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{Attribute, Field, Fields, LitStr, Type};

use crate::{
    attr::written_by_hand,
    shape::{Event, Variant},
    types::{binding, innermost_type, span_of, text, without_self},
    versions::History,
};

/// The codec of an event, and the types that it must be able to store.
pub(crate) struct Codec<'a> {
    event: &'a Event<'a>,
    types: Vec<TypeAlias<'a>>,
}

/// A type of a field, and the name of its alias in the generated code.
struct TypeAlias<'a> {
    alias: Ident,
    ty: &'a Type,
}

impl<'a> Codec<'a> {
    pub(crate) fn new(event: &'a Event<'a>) -> Self {
        let mut types: Vec<TypeAlias<'a>> = vec![];
        for field in event.variants.iter().flat_map(|variant| variant.fields).filter(|field| !written_by_hand(field)) {
            let ty = innermost_type(&field.ty);
            if types.iter().all(|alias| text(alias.ty) != text(ty)) {
                types.push(TypeAlias { alias: format_ident!("__T{}", types.len(), span = span_of(ty)), ty });
            }
        }
        Self { event, types }
    }

    /// Returns the constant `__CODEC`, the functions that encode and decode, and what they need.
    pub(crate) fn codec(&self) -> TokenStream {
        let Event { ident, krate, .. } = self.event;
        let aliases = self.types.iter().map(|TypeAlias { alias, ty }| {
            let ty = without_self(ty, ident);
            quote!(type #alias = #ty;)
        });
        let assumed = assumed(&self.types);
        let shadow = self.shadow();
        let decode = self.decode();
        let proofs = self.proofs();
        quote! {
            #(#aliases)*
            #shadow

            fn __encode(__event: &#ident) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError>
            where
                #assumed
            {
                __private::encode(&__Event(__event))
            }

            fn __decode(
                __name: &str,
                __schema: u32,
                __body: &[u8],
                __push: &mut dyn ::core::ops::FnMut(#ident),
            ) -> ::core::result::Result<(), #krate::EventError>
            where
                #assumed
            {
                #decode
            }

            type __Codec = (
                fn(&#ident) -> ::core::result::Result<::std::vec::Vec<u8>, #krate::EventError>,
                fn(
                    &str,
                    u32,
                    &[u8],
                    &mut dyn ::core::ops::FnMut(#ident),
                ) -> ::core::result::Result<(), #krate::EventError>,
            );
            #proofs
        }
    }

    /// Returns a mirror of the enum with serde's derive, which serializes the fields of the real enum (`remote`).
    fn shadow(&self) -> TokenStream {
        let ident = self.event.ident;
        let (remote, bound) = (ident.to_string(), bound(&self.types));
        let variants = self.event.variants.iter().map(|Variant { ident: variant, fields, .. }| {
            let fields = self.fields(fields);
            quote!(#variant #fields)
        });
        let assumed = assumed(&self.types);
        let renamed = self.event.rename_all.as_ref().map(|case| quote!(#[serde(rename_all_fields = #case)]));
        quote! {
            #[derive(__private::serde::Serialize)]
            #[serde(crate = "__private::serde", remote = #remote, untagged, bound = #bound)]
            #renamed
            enum __Shadow {
                #(#variants),*
            }

            struct __Event<'__a>(&'__a #ident);

            impl __private::serde::Serialize for __Event<'_>
            where
                #assumed
            {
                fn serialize<__S: __private::serde::Serializer>(
                    &self,
                    __serializer: __S,
                ) -> ::core::result::Result<__S::Ok, __S::Error> {
                    __Shadow::serialize(self.0, __serializer)
                }
            }
        }
    }

    /// Returns the fields with their serde attributes only.
    fn fields(&self, fields: &Fields) -> TokenStream {
        let field = |Field { attrs, ident, ty, .. }: &Field| {
            let serde = attrs.iter().filter(is_serde);
            let ty = without_self(ty, self.event.ident);
            let colon = ident.as_ref().map(|ident| quote!(#ident:));
            quote!(#(#serde)* #colon #ty)
        };
        let all = fields.iter().map(field);
        match fields {
            Fields::Named(_) => quote!({ #(#all),* }),
            Fields::Unnamed(_) => quote!(( #(#all),* )),
            Fields::Unit => TokenStream::new(),
        }
    }

    /// Returns the body of the function that decodes.
    fn decode(&self) -> TokenStream {
        let Event { ident, krate, variants, retired, .. } = self.event;
        let arms = variants.iter().map(|variant| self.arms(variant));
        let live: Vec<_> = variants.iter().flat_map(Variant::names).collect();
        let retired: Vec<_> = retired.iter().map(LitStr::value).collect();
        let retired = (!retired.is_empty()).then(|| quote!((#(#retired)|*, _) => {}));
        quote! {
            match (__name, __schema) {
                #(#arms)*
                #retired
                (#(#live)|*, _) => {
                    return ::core::result::Result::Err(#krate::EventError::Schema(
                        ::core::convert::From::from(__name),
                        __schema,
                    ));
                }
                _ => {
                    return ::core::result::Result::Err(#krate::EventError::Name(
                        ::core::convert::From::from(__name),
                        ::core::any::type_name::<#ident>(),
                    ));
                }
            }
            ::core::result::Result::Ok(())
        }
    }

    /// Returns a match arm for the present form of a variant, and one for each earlier form.
    fn arms(&self, variant: &Variant<'_>) -> TokenStream {
        let Event { ident, krate, .. } = self.event;
        let (names, History { version, upcasts }) = (variant.names(), &variant.history);
        let body = self.body(variant);
        let upcasts = upcasts.iter().map(|(version, path)| {
            let span = path.segments.last().map_or_else(Span::call_site, |last| last.ident.span());
            let (function, body, push) = (without_self(path, ident), quote!(__body), quote!(__push));
            let event = quote_spanned!(span=> #function(__private::decode(#body)?));
            let push = quote_spanned!(span=> #krate::Upcast::<#ident>::upcast(#event, #push));
            quote!((#(#names)|*, #version) => #push,)
        });
        quote! {
            (#(#names)|*, #version) => #body
            #(#upcasts)*
        }
    }

    /// Returns a block that decodes the present form of a variant.
    fn body(&self, variant: &Variant<'_>) -> TokenStream {
        let Event { ident, .. } = self.event;
        let Variant { ident: name, fields, .. } = variant;
        if let Fields::Unit = fields {
            return quote!({ __push(#ident::#name); });
        }
        let bound = bound(
            self.types
                .iter()
                .filter(|alias| fields.iter().any(|field| text(innermost_type(&field.ty)) == text(alias.ty))),
        );
        let expecting = format!("the body of `{}`", variant.name.0);
        let shadow = self.fields(fields);
        let renamed = self.event.rename_all.as_ref().map(|case| quote!(#[serde(rename_all = #case)]));
        let end = matches!(fields, Fields::Unnamed(_)).then(|| quote!(;));
        let members: Vec<_> = fields.members().collect();
        let bindings: Vec<_> = (0..members.len()).map(binding).collect();
        quote! {
            {
                #[derive(__private::serde::Deserialize)]
                #[serde(crate = "__private::serde", bound = #bound, expecting = #expecting)]
                #renamed
                struct __Body #shadow #end
                let __Body { #(#members: #bindings),* } = __private::decode(__body)?;
                __push(#ident::#name { #(#members: #bindings),* });
            }
        }
    }

    /// Returns the chain of functions that proves the assumptions, one type after the other.
    fn proofs(&self) -> TokenStream {
        let mut tokens = quote!((__encode, __decode));
        let mut all = TokenStream::new();
        for (n, alias) in self.types.iter().enumerate() {
            let (span, assumed) = (span_of(alias.ty), assumed(&self.types[n..]));
            let name = format_ident!("__codec_{n}", span = span);
            all.extend(quote! {
                const fn #name() -> __Codec
                where
                    #assumed
                {
                    #tokens
                }
            });
            tokens = quote_spanned!(span=> #name());
        }
        quote! {
            #all
            const __CODEC: __Codec = #tokens;
        }
    }
}

/// Returns bounds that a function assumes and its caller must prove. `for<'__any>` keeps rustc from checking them for
/// types that it knows.
fn assumed<'a>(types: impl IntoIterator<Item = &'a TypeAlias<'a>>) -> TokenStream {
    types
        .into_iter()
        .map(|TypeAlias { alias, ty }| quote_spanned!(span_of(ty)=> for<'__any> #alias: __private::Field,))
        .collect()
}

fn bound<'a>(types: impl IntoIterator<Item = &'a TypeAlias<'a>>) -> String {
    assumed(types).to_string()
}

fn is_serde(attribute: &&Attribute) -> bool {
    attribute.path().is_ident("serde")
}
