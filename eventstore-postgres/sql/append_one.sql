-- Records an append to one stream, without a condition.
SELECT recorded, before, first_position, recorded_at
  FROM {schema}.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
