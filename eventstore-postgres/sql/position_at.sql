-- The last position recorded at or before an instant, and whether no event recorded by then can come any more: an event
-- after it can be seen, or the instant was over when this was asked for. A replica has not waited for what is open.
SELECT prefix.position, EXISTS (SELECT FROM {schema}.events AS e WHERE e.position = prefix.position + 1)
                        OR ($1 < statement_timestamp() AND NOT pg_is_in_recovery())
  FROM {schema}.position_at($1) AS prefix (position)
