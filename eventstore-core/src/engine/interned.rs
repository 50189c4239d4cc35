//! Texts that live as long as the program, each once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Returns a text that lives as long as the program: the same one for the same text, however often it is asked for. For
/// texts made of the names of processes, which are few.
pub fn interned(text: String) -> &'static str {
    static TEXTS: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.get(&*text) {
        return known;
    }
    let text = Box::leak(text.into_boxed_str());
    texts.insert(text);
    text
}
