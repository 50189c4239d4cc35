-- Those of the event ids that are recorded. Each is looked up by itself: `= ANY` may be planned as a scan while the log
-- is young.
SELECT n.id FROM unnest($1::uuid[]) AS n (id)
 WHERE (SELECT true FROM {schema}.events AS e WHERE e.event_id = n.id)
