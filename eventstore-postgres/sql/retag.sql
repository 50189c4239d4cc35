-- Changes the tags of events. Returns how many events were changed.
SELECT {schema}.retag($1, $2, $3, $4)
