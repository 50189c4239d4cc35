//! Reads a header.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::problem::Problem;

/// Returns the trimmed text of a header, if the request has it. A header that appears twice, or is not printable ASCII,
/// is 400.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let wrong = |what: &str| Problem::new(StatusCode::BAD_REQUEST).detail(format!("the header `{name}` {what}"));
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("is there twice"));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| wrong("is no printable ASCII text"))
}
