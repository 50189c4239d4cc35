//! `snapshot = 100`, `snapshot(slow = "5ms", version = 2)`: when snapshots are taken, and the fingerprint of their
//! form.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Attribute, Data, DeriveInput, Fields, LitInt, LitStr, Path};

use crate::attr::{AttributeSpec, Entry, Errors, serde_keys};

const ON_SNAPSHOT: AttributeSpec = AttributeSpec {
    attribute: "aggregate",
    on: "a snapshot",
    keys: &["every", "slow", "by_hand", "version"],
    repeated: &[],
    elsewhere: &[],
};

/// When snapshots are taken, and the version that the user raises when the form changes in a way that the type does not
/// show.
pub(crate) struct Snapshot {
    key: Ident,
    when: When,
    version: u32,
}

enum When {
    Every(u64),
    Slow { micros: u64 },
    ByHand,
}

impl Snapshot {
    pub(crate) fn read(entry: &Entry<'_>) -> syn::Result<Self> {
        let key = entry.key.clone();
        if !entry.has_keys() {
            let when = When::Every(number(&entry.value("snapshot = 100")?, "events")?);
            return Ok(Self { key, when, version: 1 });
        }
        let (mut chosen, mut version) = (None, 1);
        entry.keys(&ON_SNAPSHOT, |entry| {
            let when = match &*entry.name() {
                "every" => When::Every(number(&entry.value("every = 100")?, "events")?),
                "slow" => When::Slow { micros: micros(&entry.value("slow = \"5ms\"")?)? },
                "by_hand" => {
                    entry.flag()?;
                    When::ByHand
                }
                _ => {
                    version = number(&entry.value("version = 2")?, "versions")?;
                    return Ok(());
                }
            };
            match &chosen {
                Some((other, _)) => {
                    let message = format!("say one of them: `{}`, or `{other}`", entry.key);
                    Err(syn::Error::new(entry.key.span(), message))
                }
                None => {
                    chosen = Some((entry.key.clone(), when));
                    Ok(())
                }
            }
        })?;
        match chosen {
            Some((_, when)) => Ok(Self { key, when, version }),
            None => {
                let message = "say when: `snapshot(every = 100)`, `snapshot(slow = \"5ms\")` or `snapshot(by_hand)`";
                Err(syn::Error::new(key.span(), message))
            }
        }
    }

    /// Returns the constant `SNAPSHOT`.
    pub(crate) fn emit(&self, input: &DeriveInput, krate: &Path) -> TokenStream {
        let Self { key, when, version } = self;
        let when = match when {
            When::Every(events) => quote!(#krate::SnapshotPolicy::Every(#events)),
            When::Slow { micros } => quote!(#krate::SnapshotPolicy::Slow(::core::time::Duration::from_micros(#micros))),
            When::ByHand => quote!(#krate::SnapshotPolicy::ByHand),
        };
        let kind = input.ident.to_string();
        let (path, form) = (format!("::{kind}"), form(input));
        let shape = quote! {
            #krate::__private::shape(
                &[::core::concat!(::core::module_path!(), #path), #(#form),*],
                <<Self as #krate::Evolve>::Event as #krate::Event>::NAMES,
                <<Self as #krate::Evolve>::Event as #krate::Event>::SCHEMAS,
                #version,
            )
        };
        let snapshot = quote_spanned!(key.span()=> #krate::__private::snapshot::<Self>(#kind, #when, #shape));
        quote! {
            const SNAPSHOT: ::core::option::Option<#krate::Snapshot<Self>> = ::core::option::Option::Some(#snapshot);
        }
    }
}

/// Parses a number from 1 on.
fn number<T: TryFrom<u64>>(literal: &LitInt, what: &str) -> syn::Result<T> {
    let number = literal.base10_parse::<u64>().ok().filter(|number| *number > 0);
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| syn::Error::new(literal.span(), format!("{what} count from 1")))
}

/// Parses a duration, `"5ms"`, and returns it in microseconds.
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

/// Refuses fields and variants that serde skips: a state that is read back would lack them.
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

/// Returns what serde's derives see of the type, as it is written.
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

/// Returns the tokens, each followed by a space. The spaces that a compiler prints between them may differ between
/// releases.
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
    use super::micros;

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        let parsed = |text: &str| micros(&syn::LitStr::new(text, proc_macro2::Span::call_site())).ok();
        assert_eq!([parsed("500us"), parsed("5ms"), parsed("1s")], [Some(500), Some(5_000), Some(1_000_000)]);
        for wrong in ["", "5", "ms", "5 ms", "-5ms", "1.5s", "5m", "18446744073709551615s"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

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
