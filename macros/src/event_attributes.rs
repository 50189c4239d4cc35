//! The keys of `#[event(…)]` on an enum, a variant and a field.

use crate::attr::AttributeSpec;

const ENUM: &[&str] = &["prefix", "topic", "rename_all", "retired", "others", "transparent", "crate"];
const VARIANT: &[&str] = &["name", "alias", "version", "upcast"];
const FIELD: &[&str] = &["tag"];

pub(crate) const ON_ENUM: AttributeSpec = AttributeSpec {
    attribute: "event",
    on: "the enum",
    keys: ENUM,
    repeated: &[],
    elsewhere: &[("a variant", VARIANT), ("a field", FIELD)],
};
pub(crate) const ON_VARIANT: AttributeSpec = AttributeSpec {
    attribute: "event",
    on: "a variant",
    keys: VARIANT,
    repeated: &["alias"],
    elsewhere: &[("the enum", ENUM), ("a field", FIELD)],
};
pub(crate) const ON_FIELD: AttributeSpec = AttributeSpec {
    attribute: "event",
    on: "a field",
    keys: FIELD,
    repeated: FIELD,
    elsewhere: &[("the enum", ENUM), ("a variant", VARIANT)],
};
