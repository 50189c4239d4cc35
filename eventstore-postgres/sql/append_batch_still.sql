-- Records appends that share a call. Under their lock, checks that the log still has $20 event types.
SELECT b.recorded, b.before, b.first_position, b.recorded_at,
       CASE WHEN b.n = 1 THEN {schema}.still($20, NULL, '{}', '{}', '{}', NULL) END
  FROM {schema}.append_batch($1, $2, $3, NULL, $4, NULL, NULL, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
       WITH ORDINALITY AS b (recorded, before, first_position, recorded_at, n)
