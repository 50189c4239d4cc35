//! `snapshot = 100`, `snapshot(slow = "5ms", version = 2)`: when a state is kept, and the fingerprint of what it is
//! kept as.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Fields, LitInt, LitStr, Path};

use crate::attr::{Entry, Errors, Place, serde_keys};

const PLACE: Place = Place {
    attribute: "aggregate",
    on: "a snapshot",
    keys: &["every", "slow", "by_hand", "version"],
    repeated: &[],
    elsewhere: &[],
};

/// When snapshots are taken, and the version of what cannot be told from the type.
pub(crate) struct Snapshot {
    key: Ident,
    take: Take,
    version: u32,
}

enum Take {
    Every(u64),
    Slow { micros: u64 },
    ByHand,
}

impl Snapshot {
    pub(crate) fn read(entry: &Entry<'_>) -> syn::Result<Self> {
        let key = entry.key.clone();
        if !entry.has_keys() {
            let take = Take::Every(number(&entry.value("snapshot = 100")?, "events")?);
            return Ok(Self { key, take, version: 1 });
        }
        let (mut said, mut version) = (None, 1);
        entry.keys(&PLACE, |entry| {
            let take = match &*entry.name() {
                "every" => Take::Every(number(&entry.value("every = 100")?, "events")?),
                "slow" => Take::Slow { micros: micros(&entry.value("slow = \"5ms\"")?)? },
                "by_hand" => {
                    entry.flag()?;
                    Take::ByHand
                }
                _ => {
                    version = number(&entry.value("version = 2")?, "versions")?;
                    return Ok(());
                }
            };
            match &said {
                Some((other, _)) => {
                    let message = format!("say one of them: `{}`, or `{other}`", entry.key);
                    Err(syn::Error::new(entry.key.span(), message))
                }
                None => {
                    said = Some((entry.key.clone(), take));
                    Ok(())
                }
            }
        })?;
        match said {
            Some((_, take)) => Ok(Self { key, take, version }),
            None => {
                let message = "say when: `snapshot(every = 100)`, `snapshot(slow = \"5ms\")` or `snapshot(by_hand)`";
                Err(syn::Error::new(key.span(), message))
            }
        }
    }

    /// `const SNAPSHOT`
    pub(crate) fn emit(&self, input: &DeriveInput, krate: &Path) -> TokenStream {
        let Self { key, take, version } = self;
        let take = match take {
            Take::Every(events) => quote!(#krate::SnapshotPolicy::Every(#events)),
            Take::Slow { micros } => quote!(#krate::SnapshotPolicy::Slow(::core::time::Duration::from_micros(#micros))),
            Take::ByHand => quote!(#krate::SnapshotPolicy::ByHand),
        };
        let kind = input.ident.to_string();
        let (place, form) = (format!("::{kind}"), form(input));
        let shape = quote! {
            #krate::__private::shape(
                &[::core::concat!(::core::module_path!(), #place), #(#form),*],
                <<Self as #krate::Evolve>::Event as #krate::Event>::NAMES,
                <<Self as #krate::Evolve>::Event as #krate::Event>::SCHEMAS,
                #version,
            )
        };
        let snapshot = quote_spanned!(key.span()=> #krate::__private::snapshot::<Self>(#kind, #take, #shape));
        quote! {
            const SNAPSHOT: ::core::option::Option<#krate::Snapshot<Self>> = ::core::option::Option::Some(#snapshot);
        }
    }
}

fn number<T: TryFrom<u64>>(literal: &LitInt, what: &str) -> syn::Result<T> {
    let number = literal.base10_parse::<u64>().ok().filter(|number| *number > 0);
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| syn::Error::new(literal.span(), format!("{what} count from 1")))
}

/// `"5ms"`
fn micros(literal: &LitStr) -> syn::Result<u64> {
    let text = literal.value();
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let unit: Option<u64> = match unit {
        "us" => Some(1),
        "ms" => Some(1_000),
        "s" => Some(1_000_000),
        _ => None,
    };
    let micros = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    micros.ok_or_else(|| syn::Error::new(literal.span(), "expected a time, as `\"5ms\"`, `\"500us\"` or `\"1s\"`"))
}

/// What serde does not write is not in what is kept, and would be blank once it is read.
pub(crate) fn refuse_skipped(input: &DeriveInput, kept: &str, errors: &mut Errors) {
    let mut refuse = |attributes: &[Attribute], what: &str| {
        for key in serde_keys(attributes) {
            if key.is_one_of(&["skip", "skip_serializing", "skip_deserializing"]) {
                let name = key.key.to_token_stream();
                let message = format!("{kept} would lose this {what}: remove `#[serde({name})]`");
                errors.at(&key.key, message);
            }
        }
    };
    match &input.data {
        Data::Struct(data) => data.fields.iter().for_each(|field| refuse(&field.attrs, "field")),
        Data::Enum(data) => {
            for variant in &data.variants {
                refuse(&variant.attrs, "variant");
                variant.fields.iter().for_each(|field| refuse(&field.attrs, "field"));
            }
        }
        Data::Union(_) => {}
    }
}

/// Everything about the type that serde's derives look at, as it is written.
fn form(input: &DeriveInput) -> Vec<String> {
    let mut form = vec![serde(&input.attrs)];
    match &input.data {
        Data::Struct(data) => fields("struct", &data.fields, &mut form),
        Data::Enum(data) => {
            for variant in &data.variants {
                form.push(serde(&variant.attrs));
                fields(&format!("variant {}", variant.ident), &variant.fields, &mut form);
            }
        }
        Data::Union(_) => {}
    }
    form
}

fn fields(of: &str, fields: &Fields, form: &mut Vec<String>) {
    form.push(match fields {
        Fields::Named(_) => format!("{of} named"),
        Fields::Unnamed(_) => format!("{of} numbered"),
        Fields::Unit => format!("{of} unit"),
    });
    for field in fields {
        let name = field.ident.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        form.push(format!("{}{name}{}", serde(&field.attrs), text(field.ty.to_token_stream())));
    }
}

fn serde(attributes: &[Attribute]) -> String {
    let serde = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    serde.map(|attribute| text(attribute.to_token_stream())).collect()
}

/// The tokens, each followed by a space. What compilers print between them is theirs to change.
fn text(tokens: TokenStream) -> String {
    let mut all = String::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("( ", ") "),
                    Delimiter::Brace => ("{ ", "} "),
                    Delimiter::Bracket => ("[ ", "] "),
                    Delimiter::None => ("", ""),
                };
                all.extend([open, &text(group.stream()), close]);
            }
            token => all.extend([&token.to_string(), " "]),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::form;

    #[test]
    fn the_form_of_a_state_is_what_serde_looks_at_and_nothing_else() {
        let account = form(&parse_quote! {
            /// An account.
            #[derive(Aggregate, Serialize, Deserialize)]
            #[aggregate(snapshot = 100)]
            #[serde(rename_all = "kebab-case")]
            pub struct Account {
                /// Whether it is open.
                pub open: bool,
                #[serde(default)]
                owners: BTreeMap<String, Vec<Option<(u8, &'static str)>>>,
            }
        });
        let expected = [
            "# [ serde ( rename_all = \"kebab-case\" ) ] ",
            "struct named",
            "open: bool ",
            "# [ serde ( default ) ] owners: BTreeMap < String , Vec < Option < ( u8 , & ' static str ) > > > ",
        ];
        assert_eq!(account, expected);
        let door = form(&parse_quote!(
            enum Door {
                Open {
                    since: u8,
                },
                #[serde(rename = "closed")]
                Shut,
                Ajar(u8, u16),
            }
        ));
        let expected = [
            "",
            "",
            "variant Open named",
            "since: u8 ",
            "# [ serde ( rename = \"closed\" ) ] ",
            "variant Shut unit",
            "",
            "variant Ajar numbered",
            "u8 ",
            "u16 ",
        ];
        assert_eq!(door, expected);
    }
}
