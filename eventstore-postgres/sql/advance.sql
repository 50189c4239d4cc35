-- Moves a checkpoint forward, never back.
INSERT INTO {schema}.checkpoints (projection, position) VALUES ($1, $2)
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at
    WHERE excluded.position > checkpoints.position
