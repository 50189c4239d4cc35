-- One append, all or nothing, and under its lock a look at what it was decided on: $20 to $25 as in `still`, but for the
-- first position, which the function gives.
SELECT a.status, a.versions, a.stream, a.version, a.first_position, a.recorded_at, a.event_id,
       CASE WHEN a.status = 0 THEN {schema}.still($20, $21, $22, $23, $24, a.first_position) END
  FROM {schema}.append($1, $2, $3, NULL, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) AS a
