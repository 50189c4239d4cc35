-- Gives the record of a shadow its new name.
UPDATE {tables}.projections SET key = $2 WHERE key = $1
