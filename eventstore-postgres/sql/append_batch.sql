-- Records appends that share a call. The function numbers the events, so no numbers are sent.
SELECT recorded, before, first_position, recorded_at
  FROM {schema}.append_batch($1, $2, $3, NULL, $4, NULL, NULL, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
