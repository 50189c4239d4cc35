//! Plants bugs, one after the other, and says what catches each.

use crate::Error;

/// Which bugs.
#[derive(clap::Args)]
pub struct Options {
    /// All, unless some are named.
    names: Vec<String>,
}

/// Whether each was caught.
pub async fn mutants(options: &Options) -> Result<bool, Error> {
    Err(format!("there is no mutant yet: {:?}", options.names).into())
}
