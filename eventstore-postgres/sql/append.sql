-- Records one append, all or nothing. The function numbers the events, so no numbers are sent.
SELECT status, versions, stream, version, first_position, recorded_at, event_id
  FROM {schema}.append($1, $2, $3, NULL, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
