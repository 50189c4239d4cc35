-- Records one append, all or nothing. Under its lock, checks the condition's event types and streams: $20 to $24 are
-- arguments of `still`, whose last one is the first position of the append.
SELECT a.status, a.versions, a.stream, a.version, a.first_position, a.recorded_at, a.event_id,
       CASE WHEN a.status = 0 THEN {schema}.still($20, $21, $22, $23, $24, a.first_position) END
  FROM {schema}.append($1, $2, $3, NULL, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) AS a
