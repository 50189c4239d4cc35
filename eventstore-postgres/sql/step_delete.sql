, deleted AS (
    DELETE FROM {table} WHERE key = ANY ($13) AND (SELECT so FROM stands)
)