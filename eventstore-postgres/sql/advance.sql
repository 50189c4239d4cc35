-- Moves a checkpoint forward, never back, to an event that is in the log. Says whether that one is, if one is named.
SELECT {schema}.advance($1, $2, $3, $4, $5)
