-- The checkpoint of a projection that runs for the first time.
INSERT INTO {schema}.checkpoints (projection, position) VALUES ($1, 0) ON CONFLICT DO NOTHING
