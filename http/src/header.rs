//! Reading one header.

use http::{HeaderMap, HeaderName, StatusCode};

use crate::problem::Problem;

/// The text of a header that may be there once, without the white space around it.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let wrong = |what: &str| Problem::new(StatusCode::BAD_REQUEST).detail(format!("the header `{name}` {what}"));
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("is there twice"));
    }
    value.to_str().map(|text| Some(text.trim())).map_err(|_| wrong("is no printable ASCII text"))
}
