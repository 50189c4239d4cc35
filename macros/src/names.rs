//! Stored names: how the name of a type becomes one, and the rules they must follow.

use syn::LitStr;

/// The longest name of an event, in bytes: `limits::NAME_BYTES` of core.
const NAME_BYTES: usize = 512;

/// Returns a name in snake case: `HTTPServer` becomes `http_server`.
pub(crate) fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (i, letter) in letters.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| letters[i]);
        let ends_an_acronym = letters.get(i + 1).is_some_and(|next| next.is_lowercase());
        let after_a_word = before.is_some_and(|before| before != '_' && (!before.is_uppercase() || ends_an_acronym));
        if letter.is_uppercase() && after_a_word {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// The rule for names of events: any text without control characters.
pub(crate) fn stored(name: &str) -> Result<(), String> {
    match name.len() {
        0 => Err("a name cannot be empty".into()),
        len if len > NAME_BYTES => Err(format!("a name has at most {NAME_BYTES} bytes, this one has {len}")),
        _ if name.chars().any(char::is_control) => Err("a name has no control characters".into()),
        _ => Ok(()),
    }
}

/// The rule for names of categories and tags: `a-z`, `0-9`, `_` and `.`.
pub(crate) fn plain(name: &str) -> Result<(), String> {
    stored(name)?;
    only(name, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'), "a-z, 0-9, `_` and `.`")
}

/// The rule for names of topics: `a-z`, `0-9`, `_` and `.`, at most 200 bytes, since brokers allow no more.
pub(crate) fn topic(name: &str) -> Result<(), String> {
    plain(name)?;
    if name.len() > 200 {
        return Err(format!("the name of a topic has at most 200 bytes, this one has {}", name.len()));
    }
    Ok(())
}

/// The rule for how fields are renamed: one of serde's.
pub(crate) fn case(name: &str) -> Result<(), String> {
    const CASES: [&str; 8] = [
        "lowercase",
        "UPPERCASE",
        "PascalCase",
        "camelCase",
        "snake_case",
        "SCREAMING_SNAKE_CASE",
        "kebab-case",
        "SCREAMING-KEBAB-CASE",
    ];
    if CASES.contains(&name) { Ok(()) } else { Err(format!("fields are renamed by {}", one_of(&CASES))) }
}

/// The rule for names of tables: `a-z`, `0-9` and `_`, at most 48 bytes, since they are parts of other names.
pub(crate) fn table(name: &str) -> Result<(), String> {
    stored(name)?;
    if name.len() > 48 {
        return Err(format!("the name of a read model has at most 48 bytes, this one has {}", name.len()));
    }
    only(name, |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'), "a-z, 0-9 and `_`")
}

/// The rule for names of columns: at most 63 bytes, as in PostgreSQL, and not `key`, which every row has.
pub(crate) fn column(name: &str) -> Result<(), String> {
    stored(name)?;
    match name {
        "key" => {
            Err("the column `key` is there already, read it with `row.key()`: call this one something else".into())
        }
        _ if name.len() > 63 => Err(format!("the name of a column has at most 63 bytes, this one has {}", name.len())),
        _ => Ok(()),
    }
}

fn only(name: &str, allowed: impl Fn(u8) -> bool, these: &str) -> Result<(), String> {
    if name.bytes().all(allowed) { Ok(()) } else { Err(format!("`{name}` is not a name of {these} only")) }
}

/// Applies a rule to a literal. The error is at the literal.
pub(crate) fn check(literal: &LitStr, rule: impl Fn(&str) -> Result<(), String>) -> syn::Result<()> {
    rule(&literal.value()).map_err(|reason| syn::Error::new(literal.span(), reason))
}

/// Returns the option that a misspelt word probably means.
pub(crate) fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |option: &&str| {
        let starts_so = word.len() > 2 && option.starts_with(word);
        starts_so || strsim::damerau_levenshtein(word, option) <= 1 + word.len() / 4
    };
    options.into_iter().filter(near).min_by_key(|option| strsim::damerau_levenshtein(word, option))
}

/// Returns the options for an error: `` one of `a`, `b`, `c` ``, or the only one.
pub(crate) fn one_of(options: &[&str]) -> String {
    let quoted: Vec<_> = options.iter().map(|option| format!("`{option}`")).collect();
    match quoted.as_slice() {
        [one] => one.clone(),
        all => format!("one of {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_names_allows_its_longest_name_and_no_longer_one() {
        let long = |bytes| "a".repeat(bytes);
        assert!(stored(&long(512)).is_ok() && stored(&long(513)).is_err());
        assert!(stored(&"ä".repeat(256)).is_ok() && stored(&"ä".repeat(257)).is_err(), "bytes count, not characters");
        assert!(table(&long(48)).is_ok() && table(&long(49)).is_err());
        assert!(column(&long(63)).is_ok() && column(&long(64)).is_err());
    }

    #[test]
    fn a_rule_for_names_allows_what_the_stored_form_can_hold() {
        assert!(stored("Account opened").is_ok(), "the name of an event is any text");
        assert!(stored("").is_err() && stored("a\nb").is_err() && stored("a\u{85}b").is_err());
        assert!(plain("bank.account_1").is_ok() && plain("Bank").is_err() && plain("ä").is_err());
        assert!(plain("a-b").is_err(), "`-` ends the category of a stream");
        assert!(table("balance_1").is_ok() && table("bank.balance").is_err() && table("balance@1").is_err());
        assert!(column("Amount").is_ok() && column("key").is_err());
    }

    #[test]
    fn names_of_types_are_stored_in_snake_case() {
        let names = [
            ("Account", "account"),
            ("CourseOpened", "course_opened"),
            ("HTTPServer", "http_server"),
            ("ServerHTTP", "server_http"),
            ("Utf8Name", "utf8_name"),
            ("V2", "v2"),
            ("Already_Apart", "already_apart"),
            ("ÄrgerÖl", "ärger_öl"),
        ];
        for (name, snake) in names {
            assert_eq!(snake_case(name), snake);
        }
    }

    #[test]
    fn a_slip_is_recognized_and_a_guess_is_not() {
        let keys = ["name", "by_tag", "error", "index"];
        assert_eq!(nearest("indx", keys), Some("index"));
        assert_eq!(nearest("nmae", keys), Some("name"));
        assert_eq!(nearest("bytag", keys), Some("by_tag"));
        assert_eq!(nearest("bool", ["text", "boolean"]), Some("boolean"));
        assert_eq!(nearest("foo", keys), None);
    }
}
