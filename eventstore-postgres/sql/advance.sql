-- Advances a checkpoint, never back. Returns whether the event $5, if there is one, is in the log at position $4.
SELECT {schema}.advance($1, $2, $3, $4, $5)
