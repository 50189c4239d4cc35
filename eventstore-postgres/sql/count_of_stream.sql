-- Counts the events of a stream: after position $1, up to position $2; stream $3, after version $4, up to version $5;
-- of the names $6 (NULL: of all), with all the tags $7. "+ 0": as in `events_of_stream`.
SELECT count(*) FROM {schema}.events
 WHERE stream = $3 AND version > $4 AND version <= $5 AND position + 0 > $1 AND position + 0 <= $2
   AND ($6::text[] IS NULL OR type_key IN (SELECT type_key FROM {schema}.event_types WHERE name = ANY ($6)))
   AND tags @> $7
