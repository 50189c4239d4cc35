-- Whether this very statement is kept under the name that the client gave it ($1: a pattern of such names), which means
-- that no pooler between renames statements.
SELECT name LIKE $1 FROM pg_catalog.pg_prepared_statements
 WHERE statement LIKE '%Whether this very statement is kept%' ORDER BY prepare_time DESC LIMIT 1
