//! The functions of the log as the migrations leave them. The doctor compares the server's functions with them, and
//! [`PgOptions::functions_sql`](crate::PgOptions::functions_sql) creates them again.

use std::collections::BTreeMap;

use crate::migrate::SOURCES;

/// A function of the log, with the placeholder `{schema}` in its texts.
pub(crate) struct Function {
    /// The statement that creates it, without a semicolon.
    pub(crate) statement: &'static str,
    /// Its source, as `pg_proc.prosrc` has it.
    pub(crate) body: &'static str,
    /// Whether it runs with the owner's rights.
    pub(crate) definer: bool,
    /// The settings it runs with, as `pg_proc.proconfig` has them.
    pub(crate) settings: Vec<String>,
}

/// Returns the functions by name. No two share a name.
pub(crate) fn functions() -> BTreeMap<&'static str, Function> {
    let mut functions = BTreeMap::new();
    for step in SOURCES {
        let mut rest = step.sql;
        while let Some(found) = rest.find("FUNCTION {schema}.") {
            let (before, after) = (&rest[..found], &rest[found + "FUNCTION {schema}.".len()..]);
            let Some((name, _)) = after.split_once(['(', ',', ' ', ';']) else { break };
            let start = ["CREATE OR REPLACE ", "CREATE "].iter().find(|create| before.ends_with(**create));
            match start.and_then(|create| Function::read(&rest[found - create.len()..])) {
                Some(function) => {
                    functions.insert(name, function);
                }
                None if before.ends_with("DROP ") => {
                    functions.remove(name);
                }
                // A statement about its rights, or a trigger that calls it.
                None => {}
            }
            rest = after;
        }
    }
    functions
}

impl Function {
    /// Parses the definition that a text begins with.
    fn read(text: &'static str) -> Option<Self> {
        let (head, after) = text.split_once("AS $$")?;
        let (body, _) = after.split_once("$$")?;
        let statement = &text[..head.len() + "AS $$".len() + body.len() + "$$".len()];
        let (_, options) = head.rsplit_once("LANGUAGE plpgsql")?;
        let settings = options.trim().split("SET ").skip(1).map(|setting| setting.trim().replacen(" = ", "=", 1));
        let definer = options.contains("SECURITY DEFINER");
        Some(Self { statement, body, definer, settings: settings.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_are_those_the_migrations_leave() {
        let functions = functions();
        let names: Vec<_> = functions.keys().copied().collect();
        let expected = [
            "advance",
            "append",
            "append_batch",
            "append_one",
            "append_only",
            "hold",
            "json",
            "lock_appends",
            "lock_shard",
            "lock_shards",
            "matching",
            "matching_backwards",
            "may_append",
            "position_at",
            "retag",
            "shards",
            "step",
            "still",
            "type_keys",
        ];
        assert_eq!(names, expected);
        let append = &functions["append"];
        assert!(append.definer && append.statement.starts_with("CREATE OR REPLACE FUNCTION {schema}.append("));
        assert!(append.statement.ends_with("END $$") && append.body.contains("lock_appends"), "the later one");
        let path = "search_path=pg_catalog, pg_temp";
        let planned = [path, "plan_cache_mode=force_generic_plan", "jit=off", "enable_seqscan=off"];
        assert_eq!(append.settings, planned);
        assert_eq!(functions["position_at"].settings, [path]);
        assert!(!functions["may_append"].definer && functions["may_append"].settings.is_empty());
        assert!(functions["may_append"].body.contains("e_metadata"));
    }
}
