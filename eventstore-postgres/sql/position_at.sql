-- The last position recorded at or before an instant, and whether that is final: a later event is visible, or the
-- instant was over when the statement began. A standby has not waited for open appends, so there it is not final.
SELECT prefix.position, EXISTS (SELECT FROM {schema}.events AS e WHERE e.position = prefix.position + 1)
                        OR ($1 < statement_timestamp() AND NOT pg_is_in_recovery())
  FROM {schema}.position_at($1) AS prefix (position)
