//! `#[derive(Command)]`: the stored name of a command.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, LitStr, ext::IdentExt};

use crate::{
    attr::{AttributeSpec, Errors, facade},
    fallback,
    names::{plain, snake_case},
    snapshot,
    versions::{History, codec},
};

const ON_TYPE: AttributeSpec = AttributeSpec {
    attribute: "command",
    on: "the type",
    keys: &["name", "version", "upcast", "crate"],
    repeated: &[],
    elsewhere: &[],
};

pub(crate) fn derive(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let (mut said, mut version, mut upcasts_said, mut krate) = (None::<LitStr>, None, None, None);
    ON_TYPE.read(&input.attrs, &mut errors, |entry| {
        match &*entry.name() {
            "name" => said = Some(entry.text("name = \"payments.charge\"", plain)?),
            "version" => version = Some(entry.value("version = 2")?),
            "upcast" => upcasts_said = Some((entry.key.clone(), entry.list("upcast(1 => from_v1)")?)),
            _ => krate = Some(entry.path_to_crate()?),
        }
        Ok(())
    });
    let (readable, ident) = (errors.count() == 0, &input.ident);
    let krate = krate.unwrap_or_else(facade);
    if !input.generics.params.is_empty() {
        errors
            .at(&input.generics, "a command cannot be generic, since what is stored has one form: write the types out");
    }
    if let Data::Union(data) = &input.data {
        errors.at(data.union_token, "a command is a struct or an enum");
    }
    let name = said.as_ref().map_or_else(|| snake_case(&ident.unraw().to_string()), LitStr::value);
    if let (None, Err(reason)) = (&said, plain(&name)) {
        errors.at(ident, format!("{reason}: say another, `#[command(name = \"…\")]`"));
    }
    let history = if readable { errors.take(History::new(ident, version, upcasts_said)) } else { None };
    snapshot::refuse_skipped(input, "a stored command", &mut errors);
    let emitted = || {
        let history = history.unwrap_or_default();
        let version = (history.version > 1).then(|| {
            let version = history.version;
            quote!(const VERSION: u32 = #version;)
        });
        let (constant, codec) = codec(&history, ident, &krate, "command_codec");
        quote! {
            #[doc(hidden)]
            #[allow(deprecated)]
            const _: () = {
                use #krate::__private;
                #constant

                #[automatically_derived]
                impl #krate::Command for #ident {
                    const NAME: &'static str = #name;
                    #version
                    #codec
                }
            };
        }
    };
    errors.or(emitted, || fallback::command(input, &krate))
}
