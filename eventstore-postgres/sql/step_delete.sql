-- A fragment of `step`: deletes the rows with the keys $13, if the step is done.
, deleted AS (
    DELETE FROM {table} WHERE key = ANY ($13) AND (SELECT so FROM stands)
)
