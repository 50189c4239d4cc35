//! Where `#[event(…)]` can stand, and what can be said there.

use crate::attr::Place;

const ENUM: &[&str] = &["prefix", "retired", "others", "transparent", "crate"];
const VARIANT: &[&str] = &["name", "alias", "version", "upcast"];
const FIELD: &[&str] = &["tag"];

pub(crate) const ON_ENUM: Place = Place {
    attribute: "event",
    on: "the enum",
    keys: ENUM,
    repeated: &[],
    elsewhere: &[("a variant", VARIANT), ("a field", FIELD)],
};
pub(crate) const ON_VARIANT: Place = Place {
    attribute: "event",
    on: "a variant",
    keys: VARIANT,
    repeated: &["alias"],
    elsewhere: &[("the enum", ENUM), ("a field", FIELD)],
};
pub(crate) const ON_FIELD: Place = Place {
    attribute: "event",
    on: "a field",
    keys: FIELD,
    repeated: FIELD,
    elsewhere: &[("the enum", ENUM), ("a variant", VARIANT)],
};
